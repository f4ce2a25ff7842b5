"""From episodes to samples: which frames, and which actions follow each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.robots import Embodiment


def action_windows(
    dataset: LeRobotDataset, frames: Int64[np.ndarray, "sample"], horizon: int
) -> tuple[Float32[np.ndarray, "sample horizon action_dim"], Bool[np.ndarray, "sample horizon"]]:
    """Return the `horizon` actions from each frame on, and which of them are real.

    Past an episode's end its last action is repeated and marked False.
    """
    ends = np.array([episode.end for episode in dataset.episodes])[dataset.episode_index[frames], None]
    wanted = frames[:, None] + np.arange(horizon)
    return dataset.actions[np.minimum(wanted, ends - 1)], wanted < ends


def split_episodes(
    dataset: LeRobotDataset, held_out: float, seed: int
) -> tuple[list[EpisodeInfo], list[EpisodeInfo]]:
    """Return episodes to train on and episodes to hold out: that share of each task, rounded up, never
    all.
    """
    rng = np.random.default_rng(seed)
    by_task: dict[tuple[str, ...], list[EpisodeInfo]] = {}
    for episode in dataset.episodes:
        by_task.setdefault(tuple(sorted(episode.tasks)), []).append(episode)
    chosen: set[int] = set()
    for episodes in by_task.values():
        count = min(math.ceil(held_out * len(episodes)), len(episodes) - 1)
        chosen |= {episodes[place].index for place in rng.permutation(len(episodes))[:count]}
    train = [episode for episode in dataset.episodes if episode.index not in chosen]
    return train, [episode for episode in dataset.episodes if episode.index in chosen]


def frames_of(episodes: Sequence[EpisodeInfo]) -> Int64[np.ndarray, "frame"]:
    """Return all frames of some episodes, in order."""
    return np.concatenate([np.arange(episode.start, episode.end) for episode in episodes] or [np.arange(0)])


def check_robot(dataset: LeRobotDataset, embodiment: Embodiment) -> None:
    """Raise ValueError if a dataset is of another robot: names of dimensions, cameras, rate."""
    expected = {
        "states": tuple(dimension.name for dimension in embodiment.state),
        "actions": tuple(dimension.name for dimension in embodiment.actions),
        "cameras": embodiment.camera_names,
        "rate": embodiment.rate,
    }
    found = {
        "states": dataset.state_names,
        "actions": dataset.action_names,
        "cameras": dataset.camera_names,
        "rate": dataset.fps,
    }
    for what, ours in expected.items():
        if ours != found[what]:
            raise ValueError(
                f"{dataset.folder} was not made by the robot {embodiment.name!r}: expected {what} {ours}, "
                f"found {found[what]}"
            )
