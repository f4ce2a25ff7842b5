"""tf.train.Example as TensorFlow serialises it, both ways of packing, and messages that are damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.recordings.protobuf import FeatureValue, parse_example, read_feature, unpack_varints
from pizero.recordings.tfrecord import read_record_at
from tests.recordings.recorded import FIXTURES

EXAMPLE, SEQUENCE = (read_record_at(FIXTURES / "examples.tfrecord", number) for number in (0, 1))


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(feature: bytes) -> bytes:
    return field(1, field(1, field(1, b"x") + field(2, feature)))


@pytest.mark.parametrize("message", [EXAMPLE, SEQUENCE], ids=["Example", "SequenceExample"])
def test_tensorflow_wrote_these_values(message: bytes) -> None:
    found = {name: read_feature(parts) for name, parts in parse_example(message).items()}
    assert found["texts"].blobs == (b"", "é".encode(), b"x" * 300)
    floats, integers = found["floats"].numbers, found["integers"].numbers
    assert floats is not None
    assert integers is not None
    np.testing.assert_array_equal(floats, np.array([0.1, -1e30, np.inf], dtype=np.float32))
    assert integers.tolist() == [0, 1, -1, 127, 128, 2**63 - 1, -(2**63)]
    assert integers.dtype == np.int64
    assert found["empty"] == FeatureValue("none")


def test_the_steps_of_a_feature_list_come_one_behind_another() -> None:
    found = parse_example(SEQUENCE)
    states = read_feature(found["observation/state"]).numbers
    assert states is not None
    assert states.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert read_feature(found["words"]).blobs == (b"go", b"go", b"go")


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_varints_of_any_size_come_back(values: list[int]) -> None:
    assert unpack_varints(b"".join(map(varint, values))).tolist() == values


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_packed_and_unpacked_integers_are_the_same(values: list[int]) -> None:
    unpacked = b"".join(varint(1 << 3) + varint(value) for value in values)
    packed = field(1, b"".join(map(varint, values)))
    for content in (unpacked, packed):
        numbers = read_feature(parse_example(example(field(3, content)))["x"]).numbers
        assert numbers is not None
        assert numbers.tolist() == values


def test_floats_that_are_not_packed_are_read_too() -> None:
    content = b"".join(varint(1 << 3 | 5) + np.float32(value).tobytes() for value in (1.5, -2.0))
    numbers = read_feature(parse_example(example(field(2, content)))["x"]).numbers
    assert numbers is not None
    assert numbers.tolist() == [1.5, -2.0]


def test_fields_that_nobody_knows_are_passed_over() -> None:
    unknown = varint(9 << 3) + varint(5) + varint(10 << 3 | 1) + bytes(8) + varint(11 << 3 | 5) + bytes(4)
    message = unknown + example(unknown + field(1, field(1, b"a"))) + field(12, b"later")
    assert read_feature(parse_example(message)["x"]).blobs == (b"a",)


@pytest.mark.parametrize(
    "message",
    [
        EXAMPLE[:-1],
        EXAMPLE[: len(EXAMPLE) // 2],
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x0b",
        b"\x80",
    ],
    ids=["one byte short", "half", "endless varint", "huge length", "unknown wire type", "open varint"],
)
def test_a_damaged_message_is_an_error_and_reads_nothing_beyond_its_end(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|varint"):
        parse_example(message)


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\x80", b"\x80" * 10 + b"\x01"])
def test_varints_that_do_not_end_are_an_error(packed: bytes) -> None:
    with pytest.raises(ValueError, match="varint"):
        unpack_varints(packed)


@given(st.integers(0, len(SEQUENCE) - 1), st.integers(1, 255))
def test_no_changed_byte_does_more_than_raise_a_value_error(position: int, change: int) -> None:
    damaged = bytearray(SEQUENCE)
    damaged[position] ^= change
    try:
        for parts in parse_example(bytes(damaged)).values():
            read_feature(parts)
    except ValueError:
        return
