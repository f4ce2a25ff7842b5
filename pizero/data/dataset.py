"""From episodes to samples: which frames, and which actions follow each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.embodiment import Embodiment


def window_frames(
    dataset: LeRobotDataset, frames: Int64[np.ndarray, "sample"], offsets: Int64[np.ndarray, "offset"]
) -> tuple[Int64[np.ndarray, "sample offset"], Bool[np.ndarray, "sample offset"]]:
    """Return the frame at each offset from each sample's, and whether its episode has it.

    Outside of the episode it is the episode's first or last frame, marked False.
    """
    starts = np.array([episode.start for episode in dataset.episodes])[dataset.episode_index[frames], None]
    ends = np.array([episode.end for episode in dataset.episodes])[dataset.episode_index[frames], None]
    wanted = frames[:, None] + offsets
    return np.clip(wanted, starts, ends - 1), (wanted >= starts) & (wanted < ends)


def action_windows(
    dataset: LeRobotDataset, frames: Int64[np.ndarray, "sample"], horizon: int
) -> tuple[Float32[np.ndarray, "sample horizon action_dim"], Bool[np.ndarray, "sample horizon"]]:
    """Return the `horizon` actions from each frame on, and which of them are real.

    Past an episode's end its last action is repeated and marked False.
    """
    wanted, valid = window_frames(dataset, frames, np.arange(horizon))
    return dataset.actions[wanted], valid


def picture_windows(
    dataset: LeRobotDataset,
    camera: str,
    frames: Int64[np.ndarray, "sample"],
    offsets: Int64[np.ndarray, "offset"],
) -> tuple[UInt8[np.ndarray, "sample offset height width 3"], Bool[np.ndarray, "sample offset"]]:
    """Return a camera's pictures at offsets from each frame, and which of them are real."""
    wanted, valid = window_frames(dataset, frames, offsets)
    rows = [[dataset.images(camera, range(frame, frame + 1))[0] for frame in row] for row in wanted.tolist()]
    return np.array(rows), valid


def offsets_of(
    seconds: Sequence[float], fps: float, *, tolerance: float = 1e-4
) -> Int64[np.ndarray, "offset"]:
    """Return times relative to now as numbers of frames (LeRobot's `delta_timestamps`).

    ValueError lists the times that are no multiple of the period within `tolerance` seconds.
    """
    steps = np.array(seconds, dtype=np.float64) * fps
    wrong = [
        time for time, step in zip(seconds, steps, strict=True) if abs(step - round(step)) > tolerance * fps
    ]
    if wrong:
        raise ValueError(f"expected multiples of the period {1 / fps:.6g} s, found {wrong}")
    return np.round(steps).astype(np.int64)


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


def used_cameras(dataset: LeRobotDataset, embodiment: Embodiment) -> tuple[str, ...]:
    """Return the robot's cameras that a dataset has."""
    return tuple(camera for camera in embodiment.camera_names if camera in dataset.camera_names)


def check_robot(dataset: LeRobotDataset, embodiment: Embodiment) -> None:
    """Raise ValueError that lists how a dataset differs from a robot's: names of dimensions, cameras, rate.

    Cameras that the robot does not have are passed over; those that it must have are not.
    """
    required = tuple(camera.name for camera in embodiment.cameras if camera.required)
    expected = {
        "states": tuple(dimension.name for dimension in embodiment.state),
        "actions": tuple(dimension.name for dimension in embodiment.actions),
        "cameras": required,
        "rate": embodiment.rate,
    }
    found = {
        "states": dataset.state_names,
        "actions": dataset.action_names,
        "cameras": tuple(camera for camera in required if camera in dataset.camera_names),
        "rate": dataset.fps,
    }
    wrong = [
        f"expected {what} {ours}, found {dataset.camera_names if what == 'cameras' else found[what]}"
        for what, ours in expected.items()
        if ours != found[what]
    ]
    if wrong:
        raise ValueError(
            f"{dataset.folder} was not made by the robot {embodiment.name!r}: {'; '.join(wrong)}"
        )
