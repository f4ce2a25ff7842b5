"""Pictures of random training samples, read on demand: pizero's reader against plain ones, interleaved.

    python -m benchmarks.loading                  # two cameras, 224 pixels, h264, 40 episodes of 100 frames
    python -m benchmarks.loading --codec av1 --version v2.1
    python -m benchmarks.loading --profile        # where pizero's time goes

The plain readers seek and decode one frame at a time with PyAV as it comes: `reopen` opens the file for each
frame, `open` keeps every file open. pizero's reads a batch as training does. All read the same random frames
in each round, in turn, and must return the same pixels. Figures are medians over the rounds, by the clock and
by the processor's time, which other programs disturb less; the aim is 1.5 times the pictures a second of
either plain reader.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import UInt8

from pizero.data.faults import DatasetError
from pizero.data.frames import VideoFrames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import ACTION, STATE, DatasetLayout, Feature, image_key
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import Episode, partial_folder, write_shard

CAMERAS = ("base", "wrist")
FPS = 50
AIM = 1.5
Picture = UInt8[np.ndarray, "height width 3"]
Reader = Callable[[list[int]], list[dict[str, Picture]]]


def make(folder: Path, options: argparse.Namespace) -> None:
    """Write a dataset whose pictures move: a textured background that drifts, and a square."""
    vector = Feature(dtype="float32", shape=(7,))
    video = Feature(dtype="video", shape=(options.size, options.size, 3))
    layout = DatasetLayout(
        features={STATE: vector, ACTION: vector} | {image_key(camera): video for camera in CAMERAS},
        fps=FPS,
        version=options.version,
        codec=options.codec,
        quality=18 if options.codec == "h264" else 30,
    )
    partial = partial_folder(folder)
    for index in range(options.episodes):
        rng = np.random.default_rng((5, index))
        values = rng.normal(size=(options.frames, 7)).astype(np.float32)
        images = {image_key(camera): moving(rng, options.frames, options.size) for camera in CAMERAS}
        episode = Episode(columns={STATE: values, ACTION: values}, images=images, tasks="reach")
        write_shard(partial, index, episode, layout)
    merge_shards(partial, folder, layout)


def moving(rng: np.random.Generator, frames: int, size: int) -> UInt8[np.ndarray, "frame height width 3"]:
    """Return pictures with something in them for a codec to do."""
    coarse = rng.integers(0, 256, (size // 8 + 2, size // 8 + 2, 3), dtype=np.uint8)
    texture = coarse.repeat(16, axis=0).repeat(16, axis=1)[: 2 * size, : 2 * size]
    pictures = np.empty((frames, size, size, 3), dtype=np.uint8)
    for step, picture in enumerate(pictures):
        top, left = (step * 2) % size, (step * 3) % size
        picture[:] = np.roll(texture, (-top, -left), axis=(0, 1))[:size, :size]
        row, column = (step * 5) % (size - 32), (step * 7) % (size - 32)
        picture[row : row + 32, column : column + 32] = (250, 220, 30)
    noise = rng.integers(0, 6, pictures.shape[1:], dtype=np.uint8)
    return np.clip(pictures, 0, 250) + noise


def place_of(dataset: LeRobotDataset, camera: str, frame: int) -> tuple[Path, float]:
    """Return the video that a frame is in, and its time there."""
    episode = dataset.episodes[int(dataset.episode_index[frame])]
    path, start = episode.videos[camera]
    return path, start + (frame - episode.start) / dataset.fps


def seek_and_decode(container: InputContainer, seconds: float) -> Picture:
    """Return the frame at a time: from the key frame before it on, until it comes."""
    stream = container.streams.video[0]
    assert stream.time_base is not None
    wanted = round(seconds / stream.time_base)
    container.seek(wanted, stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= wanted:
            return frame.to_ndarray(format="rgb24")
    raise ValueError(f"expected a frame at {seconds} s of {container.name}, found none")


def plain_reopen(dataset: LeRobotDataset) -> Reader:
    """Return a reader that opens the file, seeks, decodes and closes."""

    def picture(camera: str, frame: int) -> Picture:
        path, seconds = place_of(dataset, camera, frame)
        with av.open(str(path)) as container:
            return seek_and_decode(container, seconds)

    return lambda frames: [{camera: picture(camera, frame) for camera in CAMERAS} for frame in frames]


def plain_open(dataset: LeRobotDataset) -> Reader:
    """Return a reader that keeps every file open."""
    containers: dict[Path, InputContainer] = {}

    def picture(camera: str, frame: int) -> Picture:
        path, seconds = place_of(dataset, camera, frame)
        if path not in containers:
            containers[path] = av.open(str(path))
        return seek_and_decode(containers[path], seconds)

    return lambda frames: [{camera: picture(camera, frame) for camera in CAMERAS} for frame in frames]


def pizero_reader(dataset: LeRobotDataset) -> Reader:
    """Return the reader that training batches go through."""
    store = VideoFrames(dataset, CAMERAS)

    def read(frames: list[int]) -> list[dict[str, Picture]]:
        found = [instant for instant in store.read(frames) if not isinstance(instant, DatasetError)]
        if len(found) < len(frames):
            raise ValueError("expected every picture to be whole")
        return found

    return read


def one_round(
    reader: Reader, dataset: LeRobotDataset, frames: list[int]
) -> tuple[float, float, UInt8[np.ndarray, "sample camera height width 3"]]:
    """Return the seconds that some samples take, by the clock and by the processor, and their pictures."""
    shape = (len(frames), len(CAMERAS), *dataset.image_shape(CAMERAS[0]), 3)
    pictures = np.empty(shape, dtype=np.uint8)
    began, worked = time.perf_counter(), time.process_time()
    for sample, found in zip(pictures, reader(frames), strict=True):
        for place, camera in enumerate(CAMERAS):
            sample[place] = found[camera]
    return time.perf_counter() - began, time.process_time() - worked, pictures


def measure(dataset: LeRobotDataset, options: argparse.Namespace) -> dict[str, Any]:
    """Read the same random samples with each reader in turn, round after round."""
    readers: dict[str, Reader] = {
        "pizero": pizero_reader(dataset),
        "open": plain_open(dataset),
        "reopen": plain_reopen(dataset),
    }
    rng = np.random.default_rng(options.seed)
    rates: dict[str, list[float]] = {name: [] for name in readers}
    work: dict[str, list[float]] = {name: [] for name in readers}
    different = 0
    for number in range(options.rounds + 1):
        frames = rng.integers(0, dataset.num_frames, options.samples).tolist()
        names = list(readers)
        read: dict[str, np.ndarray] = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds, worked, read[name] = one_round(readers[name], dataset, frames)
            if number:  # the first round opens files
                rates[name].append(len(frames) * len(CAMERAS) / seconds)
                work[name].append(worked / (len(frames) * len(CAMERAS)) * 1e3)
        different += sum(not np.array_equal(read["pizero"], pictures) for pictures in read.values())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "pictures_per_second": medians,
        "processor_milliseconds": {name: statistics.median(values) for name, values in work.items()},
        "spread": {name: [min(values), max(values)] for name, values in rates.items()},
        "times_open": medians["pizero"] / medians["open"],
        "times_reopen": medians["pizero"] / medians["reopen"],
        "different_rounds": different,
    }


def profile(dataset: LeRobotDataset, options: argparse.Namespace) -> None:
    """Print where pizero's time goes."""
    frames = np.random.default_rng(options.seed).integers(0, dataset.num_frames, options.samples).tolist()
    reader = pizero_reader(dataset)
    one_round(reader, dataset, frames)
    with cProfile.Profile() as profiler:
        one_round(reader, dataset, frames)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(15)


def main() -> None:
    """Make the dataset, measure, print; the status is 1 where the aim is missed or pixels differ."""
    parser = argparse.ArgumentParser(description="Pictures of random training samples, read on demand.")
    parser.add_argument("--folder", type=Path, help="keep the dataset here and use it again")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--frames", type=int, default=100, help="of each episode")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--codec", choices=("h264", "av1"), default="h264")
    parser.add_argument("--version", choices=("v2.1", "v3.0"), default="v3.0")
    parser.add_argument("--samples", type=int, default=64, help="of each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="loading_"))
    folder = options.folder or scratch / "dataset"
    try:
        if not folder.exists():
            print("making the dataset …", file=sys.stderr)
            make(folder, options)
        dataset = LeRobotDataset.open(folder)
        figures = measure(dataset, options)
        if options.profile:
            profile(dataset, options)
    finally:
        shutil.rmtree(scratch)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, rate in figures["pictures_per_second"].items():
            low, high = figures["spread"][name]
            print(
                f"{name:8s} {rate:7.0f} pictures a second (rounds from {low:.0f} to {high:.0f}), "
                f"{figures['processor_milliseconds'][name]:.2f} ms of processor each"
            )
        print(f"pizero is {figures['times_open']:.2f} × open, {figures['times_reopen']:.2f} × reopen")
        if figures["different_rounds"]:
            print(f"pixels differ in {figures['different_rounds']} rounds")
    if figures["different_rounds"] or min(figures["times_open"], figures["times_reopen"]) < AIM:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
