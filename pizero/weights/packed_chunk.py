"""A stacked array whose compressed chunks hold all layers, unpacked from front to back and never whole.

Orbax stores an array in one chunk for each device that it lay on. Decoded at once, the largest one of π0
would take 9 GiB, packed and unpacked; read as streams, a layer takes its own size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pizero.weights.tensors import TensorInfo

PIECE = 4 * 2**20
"""Bytes of a packed chunk that are in memory at a time."""

MAX_STREAMS = 64
"""Chunks that are unpacked side by side at the most."""

ReadRange = Callable[[int, int], bytes]
"""`(start, stop)` → those bytes of the packed chunk; fewer at its end."""


class PackedChunk:
    """One zstd-compressed chunk in C order; parts in their own order are cheap, others begin anew."""

    def __init__(self, read_range: ReadRange) -> None:
        self.read_range = read_range
        self._begin_anew()

    def read(self, start: int, count: int) -> bytearray:
        """Return `count` unpacked bytes from `start` on; ValueError if the chunk ends before."""
        if start < self.position:
            self._begin_anew()
        while self.position < start:
            self._take(min(start - self.position, PIECE))
        data = bytearray()
        while len(data) < count:
            data += self._take(min(count - len(data), PIECE))
        return data

    def _begin_anew(self) -> None:
        self.position = 0
        self.stream = (
            _zstandard()
            .ZstdDecompressor()
            .stream_reader(_Pieces(self.read_range), read_size=PIECE, read_across_frames=True)
        )

    def _take(self, count: int) -> bytes:
        try:
            data = self.stream.read(count)
        except _zstandard().ZstdError as error:
            raise ValueError(f"its chunk is damaged: {error}") from None
        if not data:
            raise ValueError(f"its chunk ends after {self.position} bytes")
        self.position += len(data)
        return data


class _Pieces:
    """The packed bytes as a file that is read once."""

    def __init__(self, read_range: ReadRange) -> None:
        self.read_range, self.position = read_range, 0

    def read(self, count: int) -> bytes:
        data = self.read_range(self.position, self.position + count)
        self.position += len(data)
        return data


class PackedArray:
    """An array by its `.zarray`; `find(key)` gives the reader of a chunk, or None where there is none."""

    def __init__(
        self, header: dict[str, Any], info: TensorInfo, find: Callable[[str], ReadRange | None]
    ) -> None:
        self.info, self.find = info, find
        compressor, chunks = header.get("compressor"), header.get("chunks")
        self.separator = str(header.get("dimension_separator", "."))
        self.chunks = tuple(chunks) if isinstance(chunks, list) else ()
        self.is_plain = (
            isinstance(compressor, dict)
            and compressor.get("id") == "zstd"
            and header.get("order") == "C"
            and not header.get("filters")
            and len(self.chunks) == len(info.shape)
            and all(isinstance(size, int) and size > 0 for size in self.chunks)
        )
        self.streams: dict[tuple[int, ...], PackedChunk] = {}

    def read(self, index: tuple[int, ...]) -> Tensor | None:
        """Return the part at `index`; None if chunks divide the layers, are too many, or are not there."""
        depth = len(index)
        shape, chunk_shape = self.info.shape[depth:], self.chunks[depth:]
        if not self.is_plain or not index or self.chunks[:depth] != self.info.shape[:depth]:
            return None
        counts = [-(-size // chunk) for size, chunk in zip(shape, chunk_shape, strict=True)]
        if math.prod(counts) > MAX_STREAMS or not math.prod(shape):
            return None
        place = 0
        for size, position in zip(self.info.shape, index, strict=False):
            place = place * size + position
        num_bytes = math.prod(chunk_shape) * self.info.dtype.itemsize
        result = torch.empty(shape, dtype=self.info.dtype)
        for corner in itertools.product(*map(range, counts)):
            stream = self._stream((0,) * depth + corner)
            if stream is None:
                return None
            data = stream.read(place * num_bytes, num_bytes)
            part = torch.frombuffer(data, dtype=self.info.dtype).reshape(chunk_shape)
            starts = [at * chunk for at, chunk in zip(corner, chunk_shape, strict=True)]
            spans = [
                min(chunk, size - start)
                for start, chunk, size in zip(starts, chunk_shape, shape, strict=True)
            ]
            target = tuple(slice(start, start + span) for start, span in zip(starts, spans, strict=True))
            result[target] = part[tuple(slice(0, span) for span in spans)]
        return result

    def _stream(self, corner: tuple[int, ...]) -> PackedChunk | None:
        if corner not in self.streams:
            read_range = self.find(self.separator.join(map(str, corner)))
            if read_range is None:
                return None
            self.streams[corner] = PackedChunk(read_range)
        return self.streams[corner]


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'reading an Orbax checkpoint needs zstandard: pip install "pizero[orbax]"'
        ) from None
    return zstandard
