"""Messages are openpi's, byte for byte, and hostile ones give one error."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pizero.serving import messages
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
    [
        np.array([object()]),
        np.array([1j]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.complex64(1),
        object(),
        1j,
        np.datetime64("2020-01-01"),
        np.longdouble(1),
        2**64,
    ],
)
def test_what_is_not_sent_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"are not sent|expected (whole )?numbers"):
        pack({"x": value})


@pytest.mark.parametrize(
    ("value", "native"), [(np.float64(0.5), 0.5), (np.str_("fork"), "fork"), (np.bytes_(b"fork"), b"fork")]
)
def test_numbers_and_texts_that_python_knows_go_as_its_own(value: Any, native: Any) -> None:
    assert pack(value) == pack(native)
    assert type(unpack(pack(value))) is type(native)


@pytest.mark.parametrize(
    "dtype", ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4"]
)
def test_scalars_survive_to_the_ends_of_their_range(dtype: str) -> None:
    kind = np.dtype(dtype)
    limits = (False, True) if kind.kind == "b" else ((np.iinfo if kind.kind in "iu" else np.finfo)(kind),)
    values = limits if kind.kind == "b" else (limits[0].min, limits[0].max)
    for value in values:
        scalar = kind.type(value)
        again = unpack(pack(scalar))
        assert type(again) is type(scalar)
        assert again == scalar


def test_a_message_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(np.zeros(10))
    unpack(data)
    monkeypatch.setattr(messages, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ValueError, match=f"expected at most {len(data) - 1} bytes, found {len(data)}"):
        unpack(data)


def test_decoded_arrays_are_views_of_the_message() -> None:
    array = unpack(pack(np.arange(4)))
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_the_file_is_written_for_the_oldest_python_of_the_client() -> None:
    source = Path(messages.__file__).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))


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
        array_message(shape=[1]),
        array_message(shape=[-2]),
        array_message(shape=[2**40, 2**40]),
        array_message(shape="2"),
        array_message(shape=[True, 2]),
        array_message(data="text"),
        array_message(shape=[1] * 31 + [2, 1]),
        array_message(shape=[2**63] * 200_000),
        array_message(shape=[2**61, 2**61, 0], data=b""),
        array_message(dtype="<U2", data=b"\xff" * 8, shape=[1]),
        array_message(dtype=">U2", data=b"\0\0\0a\x00\x11\x00\x00", shape=[1]),
        array_message(dtype="<U0", data=b"", shape=[3]),
        msgpack.packb({1: 2}),
        msgpack.packb({b"__npgeneric__": True, b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": [1, 2], b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": -1, b"dtype": "|u1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 1.5, b"dtype": "<i4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "|b1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 5, b"dtype": "<U4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 1, b"dtype": "O"}),
        b"\x91" * 3000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
    ids=bytes.__len__,
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
