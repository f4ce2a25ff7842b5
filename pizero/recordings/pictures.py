"""A camera's pictures one at a time: encoded as files, or as rows of a large array."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pizero.data.images import decode_picture
from pizero.recordings.source import RecordingError

MAX_PIXELS = 64_000_000
"""A picture with more is taken for damaged before it is unpacked."""


class EncodedPictures:
    """Pictures as JPEG or PNG files, decoded when they are asked for; `where` names them in errors."""

    def __init__(self, files: Sequence[bytes], where: str, *, swapped: bool = False) -> None:
        self.files, self.where, self.swapped = files, where, swapped

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture, RGB; RecordingError if it is damaged."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                frame = decode_picture(self.files[index])
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombWarning,
            Image.DecompressionBombError,
        ) as error:
            raise RecordingError(f"{self.where}: picture {index} cannot be decoded ({error})") from None
        return np.ascontiguousarray(frame[..., ::-1]) if self.swapped else frame


class RowPictures:
    """Pictures that are rows of an array, fetched a block at a time, of which one is kept.

    `fetch(start, stop)` returns rows `[step, height, width, 3]`, uint8 or whole numbers 0…255 as floats.
    """

    def __init__(
        self,
        fetch: Callable[[int, int], np.ndarray],
        length: int,
        where: str,
        *,
        block: int = 1,
        swapped: bool = False,
    ) -> None:
        self.fetch, self.length, self.where = fetch, length, where
        self.block, self.swapped = max(block, 1), swapped
        self._start, self._rows = -1, np.zeros((0, 0, 0, 3), dtype=np.uint8)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.length

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture, RGB; RecordingError if it is damaged or no picture."""
        if not 0 <= index < self.length:
            raise IndexError(f"expected a picture from 0 to {self.length - 1}, found {index}")
        start = index - index % self.block
        if start != self._start:
            rows = self.fetch(start, min(start + self.block, self.length))
            self._rows, self._start = as_pictures(rows, self.where), start
        frame = self._rows[index - start]
        return np.ascontiguousarray(frame[..., ::-1] if self.swapped else frame)


def as_pictures(rows: np.ndarray, where: str) -> UInt8[np.ndarray, "step height width 3"]:
    """Return rows as uint8 pictures, unchanged in value; RecordingError if they are none."""
    if rows.ndim != 4 or rows.shape[3] != 3:
        raise RecordingError(f"{where}: expected pictures [step, height, width, 3], found {rows.shape}")
    if rows.dtype == np.uint8:
        return rows
    if rows.dtype.kind == "f" and rows.size and rows.min() >= 0 and rows.max() <= 255:
        whole = rows.astype(np.uint8)
        if (whole == rows).all() and (rows.max() > 1 or rows.max() == 0):
            return whole
    raise RecordingError(
        f"{where}: expected pictures of uint8, or of floats that are whole numbers 0…255, found {rows.dtype}"
        + (f" from {rows.min():g} to {rows.max():g}" if rows.size else "")
    )
