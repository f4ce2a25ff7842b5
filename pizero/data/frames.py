"""Where training takes its pictures from: decoded once into memory or into a cache on disk, or on demand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from pizero.data.faults import DatasetError
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_pictures import MAX_OPEN_VIDEOS, PictureReader
from pizero.progress import counting
from pizero.records import fingerprint

FrameSource = Literal["auto", "memory", "cache", "video"]
MEMORY_SHARE = 0.35
"""Pictures are decoded into memory if they take no more than this share of what is free."""


Instant = dict[str, UInt8[np.ndarray, "_ _ 3"]]
"""The pictures of one frame, by camera."""


@runtime_checkable
class FrameStore(Protocol):
    """Pictures by the number of their frame."""

    def read(self, frames: Sequence[int]) -> list[Instant | DatasetError]:
        """Return the pictures of some instants; where one cannot be had, the error that says why."""
        ...


class DecodedFrames:
    """Every picture of some cameras, decoded once: `uint8 [frame, height, width, 3]` each.

    In memory, or in files under `cache` that other processes and later runs share.
    """

    def __init__(self, dataset: LeRobotDataset, cameras: Sequence[str], cache: Path | None = None) -> None:
        self.images: dict[str, UInt8[np.ndarray, "frame height width 3"]] = {}
        missing = [camera for camera in cameras if not self._open(dataset, camera, cache)]
        total = dataset.num_frames * len(missing)
        if not missing:
            return
        with counting("decoding pictures", total, "frames") as progress:
            for camera in missing:
                shape = (dataset.num_frames, *dataset.image_shape(camera), 3)
                if cache is None:
                    self.images[camera] = np.empty(shape, dtype=np.uint8)
                    dataset.decode_all(camera, self.images[camera], progress.advance)
                    continue
                path = _cache_file(dataset, camera, cache)
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
                _check_room(path.parent, int(np.prod(shape)))
                target = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
                dataset.decode_all(camera, target, progress.advance)
                target.flush()
                partial.replace(path)
                self._open(dataset, camera, cache)

    def _open(self, dataset: LeRobotDataset, camera: str, cache: Path | None) -> bool:
        if cache is None or not _cache_file(dataset, camera, cache).is_file():
            return False
        self.images[camera] = np.load(_cache_file(dataset, camera, cache), mmap_mode="r", allow_pickle=False)
        return True

    def read(self, frames: Sequence[int]) -> list[Instant | DatasetError]:
        """Return the pictures of some instants."""
        return [
            {camera: np.asarray(images[frame]) for camera, images in self.images.items()} for frame in frames
        ]


class VideoFrames:
    """Pictures on demand, from files that are kept open; the cameras are read side by side."""

    def __init__(self, dataset: LeRobotDataset, cameras: Sequence[str]) -> None:
        self.dataset, self.cameras = dataset, tuple(cameras)
        self._readers: dict[str, PictureReader] = {}
        self._threads: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"dataset": self.dataset, "cameras": self.cameras, "_readers": {}, "_threads": None}

    def read(self, frames: Sequence[int]) -> list[Instant | DatasetError]:
        """Return the pictures of some instants; where one cannot be had, the error that says why."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max(len(self.cameras), 1))
            each = max(MAX_OPEN_VIDEOS // max(len(self.cameras), 1), 1)
            self._readers = {
                camera: PictureReader(self.dataset.metadata, max_open=each) for camera in self.cameras
            }
        found = list(self._threads.map(lambda camera: self._of_camera(camera, frames), self.cameras))
        instants: list[Instant | DatasetError] = []
        for pictures in zip(*found, strict=True):
            errors = [picture for picture in pictures if isinstance(picture, DatasetError)]
            instants.append(errors[0] if errors else dict(zip(self.cameras, pictures, strict=True)))
        return instants

    def _of_camera(self, camera: str, frames: Sequence[int]) -> list[np.ndarray | DatasetError]:
        found: list[np.ndarray | DatasetError] = []
        for frame in frames:
            episode = self.dataset.episode_of_frame(frame)
            step = frame - episode.start
            try:
                found.append(self._readers[camera].read(camera, episode, range(step, step + 1))[0])
            except DatasetError as error:
                found.append(error)
        return found


def open_frames(
    dataset: LeRobotDataset, cameras: Sequence[str], source: FrameSource = "auto", cache: Path | None = None
) -> FrameStore:
    """Return the pictures of some cameras from where `source` says; `auto` takes memory if they fit well."""
    if source == "cache" and cache is None:
        raise ValueError("pictures from a cache need its folder: give --frame-cache FOLDER")
    if source == "auto":
        size = sum(dataset.num_frames * int(np.prod(dataset.image_shape(camera))) * 3 for camera in cameras)
        source = "cache" if cache else "memory" if size <= MEMORY_SHARE * _free_memory() else "video"
    if source == "video":
        return VideoFrames(dataset, cameras)
    return DecodedFrames(dataset, cameras, cache if source == "cache" else None)


def _cache_file(dataset: LeRobotDataset, camera: str, cache: Path) -> Path:
    """Return the file of a camera's pictures, named by what the dataset and its files say of themselves."""
    files = sorted({path for episode in dataset.episodes for path in _files(dataset, episode.index, camera)})
    sizes = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    identity = fingerprint([dict(dataset.info), camera, sizes])
    return cache / f"{identity[:32]}.npy"


def _files(dataset: LeRobotDataset, episode: int, camera: str) -> list[Path]:
    info = dataset.episodes[episode]
    return [info.videos[camera][0] if camera in info.videos else info.data]


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"the pictures take {size / 2**30:.1f} GiB in {folder}, which has {free / 2**30:.1f} GiB free; "
            f"choose another --frame-cache, or --frames video"
        )


def _free_memory() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
