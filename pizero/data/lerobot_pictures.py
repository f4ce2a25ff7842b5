"""A LeRobot dataset's pictures on demand, from video files or from columns, with what is open kept open."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from pizero.data.faults import DatasetError
from pizero.data.images import decode_picture
from pizero.data.lerobot_columns import files_of
from pizero.data.lerobot_features import Feature, camera_of
from pizero.data.lerobot_metadata import COPY_AGAIN, EpisodeInfo, Metadata
from pizero.data.video import OpenVideo

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_OPEN_VIDEOS = 256
"""Videos that a process keeps open at the most; one of 224 pixels takes 1.5 MiB."""

MAX_ROW_GROUPS = 8


class PictureReader:
    """Reads any picture of a dataset; each process that uses it opens files of its own."""

    def __init__(self, metadata: Metadata, *, max_open: int = MAX_OPEN_VIDEOS) -> None:
        self.metadata, self.max_open = metadata, max_open
        self.features: dict[str, tuple[str, Feature]] = {
            camera_of(key): (key, feature) for key, feature in metadata.features.items() if feature.is_picture
        }
        self.first_frames = {path: episodes[0].start for path, episodes in files_of(metadata)}
        self._forget()

    def __getstate__(self) -> dict[str, object]:
        kept = ("metadata", "max_open", "features", "first_frames")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(
        self, camera: str, episode: EpisodeInfo, steps: range
    ) -> UInt8[np.ndarray, "step height width 3"]:
        """Return some successive pictures of an episode; DatasetError if one cannot be had."""
        if os.getpid() != self._process:
            self._forget()
        key, feature = self.features[camera]
        if feature.dtype == "image":
            return np.stack([self._embedded(key, episode, step) for step in steps])
        path, begins = episode.videos[camera]
        fps = float(self.metadata.info["fps"])
        video = _kept(self._videos, path, lambda: OpenVideo(path), self.max_open)
        return video.read([begins + step / fps for step in steps])

    def _forget(self) -> None:
        self._process = os.getpid()
        self._videos: OrderedDict[Path, OpenVideo] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, str, int], pa.ChunkedArray] = OrderedDict()
        self._files: OrderedDict[Path, tuple[pq.ParquetFile, np.ndarray]] = OrderedDict()

    def _embedded(self, key: str, episode: EpisodeInfo, step: int) -> np.ndarray:
        path = episode.data
        try:
            file, ends = _kept(self._files, path, lambda: _open_file(path), self.max_open)
            row = episode.start + step - self.first_frames[path]
            group = int(np.searchsorted(ends, row, side="right"))
            column = _kept(
                self._groups,
                (path, key, group),
                lambda: file.read_row_group(group, columns=[key]).column(key),
                MAX_ROW_GROUPS,
            )
            cell = column[row - (int(ends[group - 1]) if group else 0)].as_py()
        except (pa.ArrowException, OSError, IndexError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise DatasetError(
                "data-damaged", path, f"{path} cannot be read ({reason}); {COPY_AGAIN}"
            ) from None
        data = cell.get("bytes") if isinstance(cell, dict) else None
        try:
            return decode_picture(data or b"")
        except (OSError, ValueError, SyntaxError) as error:
            raise DatasetError(
                "image-damaged",
                path,
                f"{path}: {key!r} of episode {episode.index}, step {step} is no picture ({error})",
            ) from None


def _kept(cache: OrderedDict[Key, Value], key: Key, make: Callable[[], Value], size: int) -> Value:
    """Return what is kept under a key, made if it is not there; the one that was used longest ago goes."""
    if key not in cache:
        while len(cache) >= size:
            _, old = cache.popitem(last=False)
            if isinstance(old, OpenVideo):
                old.close()
        cache[key] = make()
    cache.move_to_end(key)
    return cache[key]


def _open_file(path: Path) -> tuple[pq.ParquetFile, np.ndarray]:
    """Return an open file and the row after each of its row groups."""
    file = pq.ParquetFile(path)
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return file, np.cumsum(counts)
