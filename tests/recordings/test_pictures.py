"""Pictures one at a time: blocks are fetched once, and nothing becomes a picture that is none."""

import io

import numpy as np
import pytest
from PIL import Image

from pizero.recordings.pictures import EncodedPictures, RowPictures, as_pictures
from pizero.recordings.source import RecordingError

FRAMES = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("block", [1, 3, 4, 10, 99])
def test_each_block_is_fetched_once_in_order_and_never_beyond_the_end(block: int) -> None:
    fetched: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> np.ndarray:
        fetched.append((start, stop))
        return FRAMES[start:stop]

    pictures = RowPictures(fetch, 10, "here", block=block)
    assert len(pictures) == 10
    np.testing.assert_array_equal(np.stack([pictures[index] for index in range(10)]), FRAMES)
    assert fetched == [(start, min(start + block, 10)) for start in range(0, 10, block)]


def test_whole_numbers_as_floats_are_pictures_and_fractions_are_not() -> None:
    for dtype in (np.float32, np.float64):
        found = as_pictures(FRAMES.astype(dtype), "here")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, FRAMES)
    assert not as_pictures(np.zeros((1, 4, 6, 3), np.float32), "here").any()


@pytest.mark.parametrize(
    "rows",
    [
        FRAMES / 255.0,
        FRAMES.astype(np.float32) + 0.5,
        FRAMES.astype(np.float32) - 1,
        FRAMES.astype(np.float32) * 2,
        FRAMES.astype(np.int64),
        np.ones((1, 4, 6, 3), np.float32),
        np.full((1, 4, 6, 3), np.nan, np.float32),
        FRAMES[..., 0],
        FRAMES[..., :2],
        FRAMES.transpose(0, 3, 1, 2),
    ],
    ids=["0…1", "halves", "negative", "large", "integers", "0 or 1", "nan", "grey", "two", "channels first"],
)
def test_what_is_no_picture_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(RecordingError, match="here: expected pictures"):
        as_pictures(rows, "here")


def encoded(frame: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()


def test_files_are_decoded_and_may_be_swapped() -> None:
    files = [encoded(frame, "PNG") for frame in FRAMES]
    np.testing.assert_array_equal(EncodedPictures(files, "here")[3], FRAMES[3])
    np.testing.assert_array_equal(EncodedPictures(files, "here", swapped=True)[3], FRAMES[3][..., ::-1])


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", encoded(FRAMES[0], "PNG")[:-40], encoded(FRAMES[0], "JPEG")[:200]],
    ids=["nothing", "text", "half a PNG", "half a JPEG"],
)
def test_what_cannot_be_decoded_is_named(data: bytes) -> None:
    with pytest.raises(RecordingError, match="here: picture 0 cannot be decoded"):
        EncodedPictures([data], "here")[0]


def test_a_small_file_that_unpacks_to_a_huge_picture_is_refused() -> None:
    data = encoded(np.zeros((1, 1, 3), np.uint8), "PNG")
    header = bytearray(data)
    header[16:24] = (20_000).to_bytes(4, "big") * 2
    with pytest.raises(RecordingError, match="cannot be decoded"):
        EncodedPictures([bytes(header)], "here")[0]
