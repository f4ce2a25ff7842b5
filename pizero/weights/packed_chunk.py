"""A stacked array that was stored as one compressed chunk, unpacked from front to back and never whole.

Orbax stores an array that lies on one device in a single chunk. Decoded at once, the largest one of π0 would
take 9 GiB, packed and unpacked; read as a stream, a part takes its own size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pizero.weights.tensors import TensorInfo

PIECE = 16 * 2**20
"""Bytes of the packed chunk that are in memory at a time."""

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


def is_one_packed_chunk(header: dict[str, Any], info: TensorInfo) -> bool:
    """Return whether an array with this `.zarray` lies in one chunk that can be read as a stream."""
    compressor = header.get("compressor")
    return (
        isinstance(compressor, dict)
        and compressor.get("id") == "zstd"
        and header.get("chunks") == list(info.shape)
        and header.get("order") == "C"
        and not header.get("filters")
        and len(info.shape) > 0
    )


def chunk_key(header: dict[str, Any], info: TensorInfo) -> str:
    """Return the name of an array's only chunk."""
    separator = header.get("dimension_separator", ".")
    return str(separator).join("0" for _ in info.shape)


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'reading an Orbax checkpoint needs zstandard: pip install "pizero[orbax]"'
        ) from None
    return zstandard
