"""A chunk unpacked as a stream gives what it holds, in any order, or one error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pizero.weights import packed_chunk
from pizero.weights.orbax import OrbaxFolder
from pizero.weights.packed_chunk import PackedChunk
from tests.orbax_writer import write_orbax

DATA = np.random.default_rng(0).integers(0, 50, 20_000, dtype=np.uint8).tobytes()


def chunk_of(packed: bytes) -> PackedChunk:
    return PackedChunk(lambda start, stop: packed[start:stop])


@given(
    parts=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 3_000)), max_size=8),
    piece=st.sampled_from([7, 1000, 2**24]),
    num_frames=st.integers(1, 3),
)
def test_parts_in_any_order(parts: list[tuple[int, int]], piece: int, num_frames: int) -> None:
    size = -(-len(DATA) // num_frames)
    frames = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    packed = b"".join(zstandard.compress(frame, 1) for frame in frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_chunk, "PIECE", piece)
        chunk = chunk_of(packed)
        for start, count in parts:
            count = min(count, len(DATA) - start)
            assert bytes(chunk.read(start, count)) == DATA[start : start + count]


def test_only_what_is_needed_is_read() -> None:
    noise = np.random.default_rng(2).integers(0, 256, 1_000_000, dtype=np.uint8).tobytes()
    packed, ranges = zstandard.compress(noise, 1), []

    def read_range(start: int, stop: int) -> bytes:
        ranges.append((start, stop))
        return packed[start:stop]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_chunk, "PIECE", 1_000)
        PackedChunk(read_range).read(0, 100)
    assert max(stop for _, stop in ranges) < len(packed) / 10


def test_a_chunk_that_ends_early_or_is_damaged_is_an_error() -> None:
    packed = zstandard.compress(DATA, 1)
    with pytest.raises(ValueError, match=r"its chunk (ends after \d+ bytes|is damaged)"):
        chunk_of(packed[: len(packed) // 2]).read(0, len(DATA))
    with pytest.raises(ValueError, match="ends after 20000 bytes"):
        chunk_of(packed).read(0, len(DATA) + 1)
    with pytest.raises(ValueError, match="is damaged"):
        chunk_of(b"no zstd at all" * 10).read(0, 1)


@pytest.mark.parametrize(
    ("chunks", "streamed"),
    [
        ([5, 2, 3, 7], True),
        ([5, 2, 3, 4], True),  # two devices, the second one's chunk padded
        ([5, 2, 2, 3], True),
        ([1, 2, 3, 7], False),  # layers apart: nothing is gained
        ([5, 1, 3, 7], False),
    ],
)
def test_layers_of_a_checkpoint_in_any_order(chunks: list[int], streamed: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(1).normal(size=(5, 2, 3, 7)).astype(np.float32)
    write_orbax(tmp_path, {"stacked": array, "other": array + 1}, chunks=chunks)
    source = OrbaxFolder(tmp_path)
    assert (source._packed_array("stacked").read((3, 1)) is not None) == streamed
    for index in ((0, 0), (3, 1), (3, 0), (4,), (1, 1, 2), (1, 1, 2, 3), (0,)):
        assert np.array_equal(source.read("stacked", index).numpy(), array[index])
        assert np.array_equal(source.read("other", index).numpy(), array[index] + 1)
    assert np.array_equal(source.read("stacked").numpy(), array)


def test_too_many_chunks_are_not_opened_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(1).normal(size=(5, 9)).astype(np.float32)
    write_orbax(tmp_path, {"stacked": array}, chunks=[5, 1])
    monkeypatch.setattr(packed_chunk, "MAX_STREAMS", 8)
    source = OrbaxFolder(tmp_path)
    assert source._packed_array("stacked").read((2,)) is None
    assert np.array_equal(source.read("stacked", (2,)).numpy(), array[2])
