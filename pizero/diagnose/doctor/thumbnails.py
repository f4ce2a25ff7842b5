"""Small versions of an episode's pictures, from video or from columns, without keeping the pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from PIL import Image

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import Feature
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.data.video import FFmpegError, VideoReformatter, open_video
from pizero.diagnose.doctor.counters import UNEVEN

ROWS, COLUMNS = 24, 32
"""Size of a thumbnail: sees where things are, and averages the noise of cameras and codecs away."""

BATCH = 32
"""Pictures of a column that are held at a time, for they may be large."""

Thumbnails = Float32[np.ndarray, "frame rows columns 3"]


class VideoThumbnails:
    """One video file, open while its episodes are looked at in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = open_video(path)
        self.stream = self.container.streams.video[0]
        self.base = self.stream.time_base or Fraction(1)
        self.reformatter = VideoReformatter()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def read(self, times: Sequence[float]) -> Thumbnails:
        """Return the pictures at ascending times, in seconds from the file's start, made small.

        DatasetError (`video-damaged`) where a picture cannot be decoded, or only by making parts of it up;
        `video-too-short` where there is none.
        """
        found: list[np.ndarray] = []
        try:
            first = max(0, round((times[0] - UNEVEN) / self.base))
            self.container.seek(first, stream=self.stream, backward=True)
            for frame in self.container.decode(self.stream):
                moment = float((frame.pts or 0) * self.base)
                if moment < times[len(found)] - UNEVEN:
                    continue
                if moment > times[len(found)] + UNEVEN:
                    break
                if frame.is_corrupt:
                    raise DatasetError(
                        "video-damaged",
                        self.path,
                        f"the picture at {moment:.3f} s is damaged: bytes were changed",
                    )
                small = self.reformatter.reformat(frame, COLUMNS, ROWS, "rgb24", interpolation="AREA")
                found.append(small.to_ndarray().astype(np.float32))
                if len(found) == len(times):
                    break
        except FFmpegError as error:
            raise DatasetError(
                "video-damaged",
                self.path,
                f"pictures after {times[len(found)]:.3f} s cannot be decoded ({error})",
            ) from None
        if len(found) < len(times):
            raise DatasetError(
                "video-too-short", self.path, f"there is no picture at {times[len(found)]:.3f} s"
            )
        return np.stack(found)


class EmbeddedThumbnails:
    """The pictures that stand in a column of one file, read forward in small batches."""

    def __init__(self, path: Path, key: str, feature: Feature, first_frame: int) -> None:
        self.path, self.key, self.first_frame = path, key, first_frame
        self.height, self.width, _ = feature.shape
        self.cells: dict[int, object] = {}
        self.batches = self._batches(0)
        self.end = 0

    def close(self) -> None:
        """Forget what was read."""
        self.cells.clear()

    def read(self, episode: EpisodeInfo, steps: Sequence[int]) -> Thumbnails:
        """Return pictures of an episode, made small; runs are asked for in ascending order.

        DatasetError (`image-damaged`) for one that cannot be decoded or is of another size than its feature
        says, `data-damaged` if the column cannot be read.
        """
        rows = [episode.start - self.first_frame + step for step in steps]
        if rows[0] >= self.end:
            self.cells, self.end = {}, rows[0]
            self.batches = self._batches(rows[0])
        try:
            while rows[-1] >= self.end:
                self.cells = {row: cell for row, cell in self.cells.items() if row >= rows[0]}
                batch = next(self.batches)
                self.cells |= {self.end + place: cell.as_py() for place, cell in enumerate(batch.column(0))}
                self.end += len(batch)
        except (pa.ArrowException, OSError, StopIteration) as error:
            reason = str(error)[:200] or "it ends before its last row"
            raise DatasetError("data-damaged", self.path, f"{self.key} cannot be read ({reason})") from None
        return np.stack(
            [
                self._small(self.cells[row], f"episode {episode.index}, frame {step} of {self.key}")
                for row, step in zip(rows, steps, strict=True)
            ]
        )

    def _batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows from `start` on; row groups before it are not read."""
        file = pq.ParquetFile(self.path)
        skipped = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if skipped + size <= start:
                skipped += size
                continue
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=[self.key]):
                rest = max(start - skipped, 0)
                skipped += len(batch)
                if rest < len(batch):
                    yield batch.slice(rest)

    def _small(self, cell: object, who: str) -> np.ndarray:
        data = cell.get("bytes") if isinstance(cell, dict) else None
        try:
            with Image.open(io.BytesIO(data or b"")) as picture:
                picture.load()
                if picture.size != (self.width, self.height):
                    raise DatasetError(
                        "image-damaged",
                        self.path,
                        f"{who} is of {picture.size[0]}×{picture.size[1]}, info.json says "
                        f"{self.width}×{self.height}",
                    )
                small = picture.convert("RGB").resize((COLUMNS, ROWS), Image.Resampling.BOX)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DatasetError("image-damaged", self.path, f"{who} is no picture ({error})") from None
        return np.asarray(small, np.float32)
