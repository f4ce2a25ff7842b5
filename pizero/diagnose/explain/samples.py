"""Recorded moments to replay: what the robot showed, and what it then did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from pizero.contract import Contract
from pizero.data.dataset import action_windows, split_episodes
from pizero.data.lerobot import EpisodeInfo, LeRobotDataset
from pizero.training.config import TrainConfig
from pizero.types import ActionChunk, Observation


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A frame as the policy is shown it, the `horizon` actions that followed, and the one before.

    `valid` is False past the episode's end. All numbers are in the dataset's units.
    """

    frame: int
    episode: int
    observation: Observation
    actions: ActionChunk
    valid: Bool[np.ndarray, "horizon"]
    previous: Float32[np.ndarray, "action_dim"]


def run_of(policy: Path) -> Path | None:
    """Return the folder of the run that wrote a policy folder beside its config; None if it is not there."""
    for folder in policy.resolve().parents[:2]:
        config = folder / "config.json"
        if config.is_file() and _config(config).get("type") == TrainConfig.__name__:
            return folder
    return None


def episodes_to_replay(
    dataset: LeRobotDataset, contract: Contract, run: Path | None, chosen: Sequence[int]
) -> tuple[list[EpisodeInfo], str]:
    """Return the episodes to draw samples from, and in words which they are.

    Those with the indices `chosen`; else those that the run in the folder `run` held out, if it was trained
    on as many frames as there are here; else all. ValueError for an index that the dataset does not have.
    """
    if chosen:
        known = {episode.index: episode for episode in dataset.episodes}
        missing = [index for index in chosen if index not in known]
        if missing:
            raise ValueError(
                f"{dataset.folder} has no episode {', '.join(map(str, missing))}; it has "
                f"{min(known)} to {max(known)}"
            )
        return [known[index] for index in dict.fromkeys(chosen)], "the episodes that were asked for"
    if run is not None and contract.statistics.state.count == dataset.num_frames:
        held_out = split_episodes(dataset, *_share_and_seed(run / "config.json"))[1]
        if held_out:
            return held_out, "episodes that training never saw"
    return list(dataset.episodes), "any episodes: whether training saw them is not known"


def choose_frames(episodes: Sequence[EpisodeInfo], *, horizon: int, count: int, seed: int) -> list[int]:
    """Return up to `count` frames, from as many episodes as there are, a chunk apart while that suffices.

    An episode's first frame is left out: no action precedes it.
    """
    rng = np.random.default_rng(seed)
    queues: list[list[int]] = []
    for episode in (episodes[place] for place in rng.permutation(len(episodes))):
        first = 1 + int(rng.integers(max(episode.length - 2, 0) % horizon + 1))
        apart = np.arange(first, episode.length, horizon)
        others = np.setdiff1d(np.arange(1, episode.length), apart)
        order = [*rng.permutation(apart).tolist(), *rng.permutation(others).tolist()]
        queues.append([episode.start + step for step in order])
    frames: list[int] = []
    for round_number in range(max((len(queue) for queue in queues), default=0)):
        frames += [queue[round_number] for queue in queues if round_number < len(queue)]
    if not frames:
        raise ValueError("expected episodes of two frames or more to replay, found none")
    return frames[:count]


def read_samples(dataset: LeRobotDataset, contract: Contract, frames: Sequence[int]) -> Iterator[Sample]:
    """Yield the samples of some frames, with the pictures of those cameras that the contract knows."""
    cameras = [camera for camera in contract.embodiment.camera_names if camera in dataset.camera_names]
    actions, valid = action_windows(dataset, np.array(frames), contract.horizon)
    for row, frame in enumerate(frames):
        yield Sample(
            frame=frame,
            episode=int(dataset.episode_index[frame]),
            observation=Observation(
                images={camera: dataset.images(camera, range(frame, frame + 1))[0] for camera in cameras},
                state=dataset.states[frame],
                instruction=dataset.task_of_frame(frame),
            ),
            actions=actions[row],
            valid=valid[row],
            previous=dataset.actions[frame - 1],
        )


def _share_and_seed(config: Path) -> tuple[float, int]:
    """Return which episodes a run held out: two numbers of its config, whatever else that version has."""
    data = _config(config)
    share, seed = data.get("held_out"), data.get("seed")
    if not isinstance(share, int | float) or not isinstance(seed, int):
        raise ValueError(
            f"{config}: expected the numbers held_out and seed, found {share!r} and {seed!r}; name the "
            f"episodes to replay with --episodes"
        )
    return float(share), seed


def _config(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return data if isinstance(data, dict) else {}
