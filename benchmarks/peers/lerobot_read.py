"""A dataset as LeRobot reads it, written down as arrays; runs in LeRobot's own environment, without pizero.

    runs/peers/lerobot-0.4.4/bin/python benchmarks/peers/lerobot_read.py DATASET READ.npz --offsets -1 0 1

The arrays: `item/<key>` has one row a frame; `window/<key>` and `window_valid/<key>` have one row for each of
`window_frames` (the first and last frames of every episode) with the offsets, in frames, as second axis.
Pictures are `uint8 [frame, height, width, 3]`. `stats/<key>/<name>` are the dataset's statistics, and `facts`
is JSON: rate, cameras and the episodes' ranges.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def import_dataset_class() -> Any:
    """Return LeRobot's dataset class, with the two operators that torchvision's import asks for."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["torchvision_operators"] = library  # they are gone when the library is
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


def picture(value: torch.Tensor) -> np.ndarray:
    """Return a float picture [..., 3, h, w] in 0…1 as the bytes that it was made from [..., h, w, 3]."""
    scaled = value.double() * 255.0
    rounded = scaled.round()
    largest = float((scaled - rounded).abs().max())
    if largest > 1e-3:
        raise ValueError(f"expected a picture made of bytes, found a value {largest:.3g} away from one")
    return rounded.to(torch.uint8).movedim(-3, -1).numpy()


def array(key: str, values: list[Any], cameras: set[str]) -> np.ndarray:
    """Return one key of some items as an array."""
    if key in cameras:
        return np.stack([picture(value) for value in values])
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values).numpy()
    return np.array(values)


def episode_ranges(dataset: Any) -> list[tuple[int, int]]:
    """Return the first frame of each episode and the frame after its last."""
    if hasattr(dataset, "episode_data_index"):  # LeRobot up to 0.3
        table = dataset.episode_data_index
        return [(int(a), int(b)) for a, b in zip(table["from"], table["to"], strict=True)]
    return [(int(row["dataset_from_index"]), int(row["dataset_to_index"])) for row in dataset.meta.episodes]


def border_frames(ranges: list[tuple[int, int]], reach: int) -> list[int]:
    """Return the frames within `reach` of an episode's first or last."""
    frames: set[int] = set()
    for start, end in ranges:
        frames |= set(range(start, min(start + reach, end))) | set(range(max(end - reach, start), end))
    return sorted(frames)


def read(folder: Path, offsets: list[int], keys: list[str] | None) -> dict[str, np.ndarray]:
    """Read a whole dataset, then the windows at its episodes' borders."""
    dataset_class = import_dataset_class()
    dataset = dataset_class("local/compared", root=folder, video_backend="pyav")
    cameras = set(dataset.meta.camera_keys)
    rows: dict[str, list[Any]] = {}
    for index in range(len(dataset)):
        for key, value in dataset[index].items():
            rows.setdefault(key, []).append(value)
    arrays = {f"item/{key}": array(key, values, cameras) for key, values in rows.items()}

    ranges = episode_ranges(dataset)
    windowed = keys or [key for key in ("observation.state", "action", *sorted(cameras)) if key in rows]
    seconds = [offset / dataset.fps for offset in offsets]
    dataset = dataset_class(
        "local/compared",
        root=folder,
        video_backend="pyav",
        delta_timestamps=dict.fromkeys(windowed, seconds),
    )
    frames = border_frames(ranges, max(1, max(map(abs, offsets))))
    windows: dict[str, list[Any]] = {}
    for frame in frames:
        item = dataset[frame]
        for key in windowed:
            windows.setdefault(f"window/{key}", []).append(item[key])
            windows.setdefault(f"window_valid/{key}", []).append(~item[f"{key}_is_pad"])
    arrays |= {name: array(name.removeprefix("window/"), values, cameras) for name, values in windows.items()}
    arrays["window_frames"] = np.array(frames)
    for key, entry in dataset.meta.stats.items():
        arrays |= {f"stats/{key}/{name}": np.asarray(value) for name, value in entry.items()}
    facts = {
        "fps": dataset.fps,
        "cameras": sorted(cameras),
        "episodes": ranges,
    }
    arrays["facts"] = np.array(json.dumps(facts))
    return arrays


def main() -> None:
    """Read one dataset and write one file of arrays."""
    parser = argparse.ArgumentParser(description="Read a dataset with LeRobot.")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--offsets", type=int, nargs="+", default=[-2, -1, 0, 1, 3], help="in frames")
    parser.add_argument("--keys", nargs="+", help="what has windows; by default state, action and cameras")
    options = parser.parse_args()
    arrays = read(options.dataset, options.offsets, options.keys)
    np.savez(options.output, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
