"""openpi's messages: msgpack, with numpy arrays as maps of their bytes, dtype and shape.

Byte for byte what its clients and servers exchange. Nothing but numpy and msgpack is needed, and nothing in a
message can run.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

ARRAY, SCALAR = b"__ndarray__", b"__npgeneric__"
DATA, DTYPE, SHAPE = b"data", b"dtype", b"shape"
KINDS = "biufSUmM"
"""Kinds of numpy dtypes that are plain bytes: no objects, records or complex numbers (openpi's rule)."""

MAX_BYTES = 256 * 1024 * 1024
"""Of one message, and of each text or array in it."""


def pack(message: Any) -> bytes:
    """Return a message as bytes; ValueError for an array of a kind that is not sent."""
    packed = msgpack.packb(message, default=_packed)
    assert packed is not None
    return packed


def unpack(data: bytes) -> Any:
    """Return the message of some bytes, its arrays read-only views of them; ValueError if they are none."""
    try:
        return msgpack.unpackb(
            data,
            object_hook=_unpacked,
            max_bin_len=MAX_BYTES,
            max_str_len=MAX_BYTES,
            strict_map_key=False,
        )
    except Exception as error:  # msgpack raises errors of several families, some without words
        words = str(error)[:200] or type(error).__name__
        raise ValueError(f"this is not a message: {words}") from None


def _packed(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "VOc":
        raise ValueError(f"arrays of dtype {value.dtype} are not sent; use numbers, booleans or text")
    if isinstance(value, np.ndarray):
        return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}
    if isinstance(value, np.generic):
        return {SCALAR: True, DATA: value.item(), DTYPE: value.dtype.str}
    raise ValueError(f"expected numbers, text, lists, maps and arrays in a message, found {type(value)}")


def _unpacked(value: dict[Any, Any]) -> Any:
    if ARRAY in value:
        return _array(value)
    if SCALAR in value:
        try:
            return _dtype(value.get(DTYPE)).type(value.get(DATA))
        except (TypeError, OverflowError) as error:
            raise ValueError(f"a number in the message does not fit its dtype: {error}") from None
    return value


def _array(value: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(value.get(DTYPE)), value.get(DATA), value.get(SHAPE)
    counts = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not counts or not isinstance(data, bytes):
        raise ValueError(f"expected an array's data and shape in the message, found shape {shape!r}")
    assert isinstance(shape, list)
    if math.prod(shape) * dtype.itemsize != len(data) or dtype.itemsize == 0:
        raise ValueError(f"an array of {dtype} and shape {shape} is announced, with {len(data)} bytes")
    return np.ndarray(buffer=data, dtype=dtype, shape=tuple(shape))


def _dtype(name: Any) -> np.dtype:
    try:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) < 16 else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in KINDS or dtype.subdtype is not None:
        raise ValueError(f"expected the dtype of numbers or text in the message, found {str(name)[:40]!r}")
    return dtype
