"""Framing and checksums against TensorFlow's files, published check values, and damage to every part."""

import struct
from pathlib import Path

import numpy as np
import pytest

from pizero.recordings.source import RecordingError
from pizero.recordings.tfrecord import count_records, crc32c, masked, read_record_at, record_identity
from tests.recordings.recorded import FIXTURES

EXAMPLES = FIXTURES / "examples.tfrecord"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_check_values(data: bytes, expected: int) -> None:
    """RFC 3720, appendix B.4, and the catalogue's check value of CRC-32C."""
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, 3, 255, 256, 257, 511, 512, 1000, 4096, 65_537, 300_001])
def test_every_length_agrees_with_another_implementation(length: int) -> None:
    google_crc32c = pytest.importorskip("google_crc32c")
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert crc32c(data) == google_crc32c.value(data)
    assert crc32c(bytes(length)) == google_crc32c.value(bytes(length))


def test_the_long_way_and_the_short_way_agree() -> None:
    data = bytes(range(256)) * 9
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF


def test_the_mask_is_the_published_one() -> None:
    """By hand: 0x12345678 turned right by 15 bits is 0xACF02468; plus 0xA282EAD8 that is 0x14F730F40."""
    assert masked(0x12345678) == 0x4F730F40


def test_tensorflow_and_we_agree_on_every_record() -> None:
    assert count_records(EXAMPLES) == 4
    raw, position = EXAMPLES.read_bytes(), 0
    for number in range(4):
        data = read_record_at(EXAMPLES, number)
        (length, length_crc), data_crc = struct.unpack_from("<QI", raw, position), 0
        (data_crc,) = struct.unpack_from("<I", raw, position + 12 + length)
        assert raw[position + 12 : position + 12 + length] == data
        assert (masked(crc32c(raw[position : position + 8])), masked(crc32c(data))) == (length_crc, data_crc)
        assert record_identity(EXAMPLES, number) == (length, data_crc)
        position += 16 + length
    assert position == len(raw)
    assert read_record_at(EXAMPLES, 2) == b""
    assert read_record_at(EXAMPLES, 3) == bytes(range(256)) * 5


def test_a_changed_bit_anywhere_in_a_record_is_noticed(tmp_path: Path) -> None:
    raw, path = EXAMPLES.read_bytes(), tmp_path / "damaged.tfrecord"
    length = len(read_record_at(EXAMPLES, 0))
    for position in (*range(13), 100, length + 11, *range(length + 12, length + 16)):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(RecordingError, match=r"damaged\.tfrecord: record 0 at byte 0"):
            read_record_at(path, 0)


def test_a_file_that_is_cut_off_says_where(tmp_path: Path) -> None:
    raw, path = EXAMPLES.read_bytes(), tmp_path / "cut.tfrecord"
    second = 16 + len(read_record_at(EXAMPLES, 0))
    for end in (second + 1, second + 11, second + 12, second + 20):
        path.write_bytes(raw[:end])
        assert read_record_at(path, 0) == read_record_at(EXAMPLES, 0)
        for broken in (read_record_at, record_identity):
            with pytest.raises(RecordingError, match=f"record 1 at byte {second} is cut off"):
                broken(path, 1)
        with pytest.raises(RecordingError, match="cut off"):
            count_records(path)
    path.write_bytes(raw[:second])
    with pytest.raises(RecordingError, match="expected a record 1, found 1 records"):
        read_record_at(path, 1)
