"""Messages are openpi's, byte for byte, and hostile ones give one error."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pizero.serving.messages import pack, unpack
from tests.golden_weights import GOLDEN

MESSAGES = json.loads((GOLDEN / "preprocessing" / "msgpack_numpy.json").read_text(encoding="utf-8"))


def built(value: Any) -> Any:
    """Return the object that a golden entry describes."""
    if isinstance(value, dict) and value.get("kind") == "ndarray":
        return np.array(value["data"], dtype=value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict) and value.get("kind") == "npgeneric":
        return np.dtype(value["dtype"]).type(value["data"])
    return {key: built(item) for key, item in value.items()} if isinstance(value, dict) else value


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", ["observation", "action"])
def test_bytes_are_openpi_s(name: str) -> None:
    message, data = built(MESSAGES[name]), bytes.fromhex(MESSAGES[f"{name}_hex"])
    assert pack(message) == data
    assert same(unpack(data), message)


def test_a_recorded_message() -> None:
    data = (GOLDEN / "preprocessing" / "msgpack_observation.bin").read_bytes()
    assert pack(unpack(data)) == data


def test_the_example_of_the_specification() -> None:
    expected = (
        "81a5737461746584c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040"
        "c4056474797065a33c6634c40573686170659201"
        "02"
    )
    assert pack({"state": np.array([[1, 2]], dtype=np.float32)}).hex() == expected


DTYPES = st.sampled_from(["<f4", "<f8", "|u1", "<i8", "<i4", "|b1", "<f2", "<U4", "|S3"])


@given(DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))))
def test_arrays_survive(array: np.ndarray) -> None:
    again = unpack(pack({"x": array}))["x"]
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    assert not again.flags.writeable


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.array([1j]), np.zeros(2, dtype=[("a", "f4")]), np.complex64(1), object()],
)
def test_what_is_not_sent_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"are not sent|expected numbers"):
        pack({"x": value})


def array_message(**changes: Any) -> bytes:
    fields = {"__ndarray__": True, "data": b"\0" * 8, "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({key.encode(): value for key, value in fields.items()})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        msgpack.packb(1) + msgpack.packb(2),
        array_message(dtype="O"),
        array_message(dtype="|O8"),
        array_message(dtype="V8"),
        array_message(dtype="<c8"),
        array_message(dtype="no dtype"),
        array_message(dtype="f4,f4"),
        array_message(dtype=3),
        array_message(dtype="(2,)<f4", shape=[1]),
        array_message(shape=[3]),
        array_message(shape=[-2]),
        array_message(shape=[2**40, 2**40]),
        array_message(shape="2"),
        array_message(shape=[True, 2]),
        array_message(data="text"),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 1, b"dtype": "O"}),
        b"\x91" * 3000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_a_broken_message_is_one_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_one_error(data: bytes) -> None:
    try:
        unpack(data)
    except ValueError:
        return


@given(st.integers(0, 594), st.integers(0, 255))
def test_a_changed_byte_is_a_message_or_one_error(place: int, byte: int) -> None:
    data = bytearray((GOLDEN / "preprocessing" / "msgpack_observation.bin").read_bytes())
    data[place] = byte
    try:
        unpack(bytes(data))
    except ValueError:
        return
