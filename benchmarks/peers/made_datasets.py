"""Small datasets of many kinds, with what was put into them: what LeRobot and pizero must both read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from pizero.data.lerobot_features import DatasetLayout, Feature
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import Episode, partial_folder, write_shard

BLOCK, NUM_BITS = 16, 8
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
TASKS = ("pick up the red cube", "öffne die Schublade – ganz", "積み木を重ねる")

VECTORS = {
    "observation.state": Feature(dtype="float32", shape=(6,), names=tuple(f"joint_{n}" for n in range(6))),
    "action": Feature(dtype="float32", shape=(7,), names=tuple(f"motor_{n}" for n in range(7))),
}
TYPES = {
    "forces": Feature(dtype="float64", shape=(3,)),
    "counts": Feature(dtype="int32", shape=(2,)),
    "phase": Feature(dtype="int64", shape=(1,)),
    "buttons": Feature(dtype="uint8", shape=(4,)),
    "contacts": Feature(dtype="bool", shape=(3,)),
    "next.done": Feature(dtype="bool", shape=(1,)),
    "next.reward": Feature(dtype="float32", shape=(1,)),
    "pose": Feature(dtype="float32", shape=(2, 3)),
    "tactile": Feature(dtype="float32", shape=(2, 3, 4)),
    "note": Feature(dtype="string", shape=(1,)),
}


FRONT_VIDEO = Feature(dtype="video", shape=(96, 128, 3))
WRIST_VIDEO = Feature(dtype="video", shape=(128, 160, 3))
WRIST_EMBEDDED = Feature(dtype="image", shape=(64, 128, 3))
TWO_VIDEOS = VECTORS | {FRONT: FRONT_VIDEO, WRIST: WRIST_VIDEO}
VIDEO_AND_EMBEDDED = VECTORS | {FRONT: FRONT_VIDEO, WRIST: WRIST_EMBEDDED}
LENGTHS = (12, 7, 1, 20, 3, 9)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One dataset to make: its layout, its episodes' lengths, and the LeRobot that reads it."""

    name: str
    layout: DatasetLayout
    lengths: tuple[int, ...] = LENGTHS
    lerobot: str = "0.4.4"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What was put into a dataset, `[frame, …]` by feature, and what was asked at each frame."""

    columns: Mapping[str, np.ndarray]
    pictures: Mapping[str, UInt8[np.ndarray, "frame height width 3"]]
    tasks: tuple[str, ...]


def cases() -> tuple[Case, ...]:
    """Return every dataset of the comparison."""
    every = VECTORS | TYPES | {WRIST: WRIST_EMBEDDED, FRONT: FRONT_VIDEO}
    return (
        Case(name="v3.0 columns", layout=DatasetLayout(features=VECTORS | TYPES, fps=30)),
        Case(name="v3.0 h264", layout=DatasetLayout(features=TWO_VIDEOS, fps=10)),
        Case(name="v3.0 h264 24 Hz", layout=DatasetLayout(features=TWO_VIDEOS, fps=24)),
        Case(name="v3.0 AV1", layout=DatasetLayout(features=TWO_VIDEOS, fps=30, codec="av1", quality=30)),
        Case(name="v3.0 embedded", layout=DatasetLayout(features=VIDEO_AND_EMBEDDED, fps=50)),
        Case(name="v3.0 all", layout=DatasetLayout(features=every, fps=15, robot_type="so100")),
        Case(
            name="v3.0 many files",
            layout=DatasetLayout(
                features=VIDEO_AND_EMBEDDED, fps=10, chunk_size=2, data_megabytes=0.02, video_megabytes=0.03
            ),
            lengths=(12, 7, 1, 20, 3, 9, 16, 5, 18, 11),
        ),
        Case(name="v3.0 one frame", layout=DatasetLayout(features=TWO_VIDEOS, fps=10), lengths=(1,)),
        Case(
            name="v2.1 columns",
            layout=DatasetLayout(features=VECTORS | TYPES, fps=30, version="v2.1"),
            lerobot="0.3.3",
        ),
        Case(
            name="v2.1 h264",
            layout=DatasetLayout(features=TWO_VIDEOS, fps=10, version="v2.1", chunk_size=4),
            lerobot="0.3.3",
        ),
        Case(
            name="v2.1 AV1, embedded",
            layout=DatasetLayout(
                features=VIDEO_AND_EMBEDDED, fps=30, version="v2.1", codec="av1", quality=30, chunk_size=2
            ),
            lerobot="0.3.3",
        ),
    )


def make(case: Case, folder: Path) -> Truth:
    """Write a dataset with pizero's own writer, and return what was put into it."""
    partial, start = partial_folder(folder), 0
    episodes: list[Episode] = []
    for index, length in enumerate(case.lengths):
        episodes.append(_episode(case.layout, index, start, length))
        write_shard(partial, index, episodes[-1], case.layout)
        start += length
    merge_shards(partial, folder, case.layout)
    tasks = [
        task
        for episode, length in zip(episodes, case.lengths, strict=True)
        for task in ([episode.tasks] * length if isinstance(episode.tasks, str) else episode.tasks)
    ]
    return Truth(
        columns={
            key: np.concatenate([episode.columns[key] for episode in episodes]) for key in episodes[0].columns
        },
        pictures={
            key: np.concatenate([np.asarray(episode.images[key]) for episode in episodes])
            for key in episodes[0].images
        },
        tasks=tuple(tasks),
    )


def _episode(layout: DatasetLayout, index: int, start: int, length: int) -> Episode:
    """Return an episode of random numbers; every third changes its task half way."""
    rng = np.random.default_rng((7, index))
    columns, images = {}, {}
    for number, (key, feature) in enumerate(layout.features.items()):
        shape = (length, *feature.shape)
        if feature.is_picture:
            images[key] = numbered_pictures(np.arange(start, start + length), feature.shape, number)
        elif feature.dtype == "string":
            columns[key] = np.array([f"Schritt {step} – 手順 {index}" for step in range(length)])[:, None]
        elif feature.dtype == "bool":
            columns[key] = rng.integers(0, 2, shape).astype(bool)
        elif np.dtype(feature.dtype).kind == "f":
            columns[key] = rng.normal(scale=100, size=shape).astype(feature.dtype)
        else:
            limits = np.iinfo(feature.dtype)
            columns[key] = rng.integers(limits.min, limits.max, shape, dtype=feature.dtype, endpoint=True)
    task = TASKS[index % len(TASKS)]
    if index % 3 == 0 and length > 1:
        other = TASKS[(index + 1) % len(TASKS)]
        return Episode(
            columns=columns, images=images, tasks=(task,) * (length // 2) + (other,) * (length - length // 2)
        )
    return Episode(columns=columns, images=images, tasks=task)


def numbered_pictures(
    frames: Int[np.ndarray, "frame"], shape: tuple[int, ...], camera: int
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Return pictures with a moving square, and `frame XOR camera` in black and white blocks below."""
    height, width, _ = shape
    pictures = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for picture, frame in zip(pictures, frames, strict=True):
        picture[..., 0] = (rows * 2 + frame * 3) % 256 // 2
        picture[..., 1] = (columns * 2 + frame * 5) % 256 // 2
        picture[..., 2] = 40 * (camera % 5)
        top, left = frame * 3 % (height - 2 * BLOCK), frame * 7 % (width - BLOCK)
        picture[top : top + BLOCK, left : left + BLOCK] = (230, 200, 40)
        picture[-BLOCK:] = 0
        for bit in range(NUM_BITS):
            if (int(frame) ^ camera) >> bit & 1:
                picture[-BLOCK:, bit * BLOCK : (bit + 1) * BLOCK] = 255
    return pictures


def numbers_on(pictures: UInt8[np.ndarray, "frame height width 3"], camera: int) -> Int[np.ndarray, "frame"]:
    """Return the frame numbers that stand on some pictures of `numbered_pictures`."""
    blocks = pictures[:, -BLOCK:, : BLOCK * NUM_BITS].reshape(len(pictures), BLOCK, NUM_BITS, BLOCK, 3)
    bits = blocks.mean(axis=(1, 3, 4)) > 127
    return (bits << np.arange(NUM_BITS)).sum(axis=1) ^ camera
