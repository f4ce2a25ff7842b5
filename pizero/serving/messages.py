"""openpi's messages: msgpack, with numpy arrays as maps of their bytes, dtype and shape.

Byte for byte what its clients and servers exchange (`openpi_client/msgpack_numpy.py`). Nothing but numpy and
msgpack is needed, and nothing in a message can run.
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
"""Of one message."""

MAX_DIMENSIONS = 32
"""Of an array: what every numpy can hold (numpy 2 takes 64)."""

LAST_CODE_POINT = 0x10FFFF
"""Of Unicode; text arrays hold four bytes for each character."""

SCALARS = {"b": bool, "i": int, "u": int, "f": float}
"""What one number of each kind is in a message; texts are sent as texts."""


def pack(message: Any) -> bytes:
    """Return a message as bytes; ValueError for what is not sent: other objects and kinds of arrays, whole
    numbers of more than 64 bits.
    """
    packed = msgpack.packb(message, default=_packed)
    assert packed is not None
    return packed


def unpack(data: bytes) -> Any:
    """Return the message of some bytes, its arrays read-only views; ValueError if they are no message.

    Lengths that the bytes announce are held to the bytes that there are. Keys of maps are text or bytes:
    numbers could be chosen so that they collide.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes, found {len(data)}")
        return msgpack.unpackb(data, object_hook=_unpacked, strict_map_key=True)
    except Exception as error:  # msgpack raises errors of several families, some without words
        words = str(error)[:200] or type(error).__name__
        raise ValueError(f"this is not a message: {words}") from None


def _packed(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "VOc":
        raise ValueError(f"arrays of dtype {value.dtype} are not sent; use numbers, booleans or text")
    if isinstance(value, np.ndarray):
        return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}
    if isinstance(value, np.generic) and type(value.item()) is SCALARS.get(value.dtype.kind):
        return {SCALAR: True, DATA: value.item(), DTYPE: value.dtype.str}
    if isinstance(value, int):
        raise ValueError(f"expected whole numbers of at most 64 bits in a message, found {value:#x}"[:200])
    raise ValueError(f"expected numbers, text, lists, maps and arrays in a message, found {type(value)}")


def _unpacked(value: dict[Any, Any]) -> Any:
    if ARRAY in value:
        return _array(value)
    return _scalar(value) if SCALAR in value else value


def _scalar(value: dict[Any, Any]) -> np.generic:
    dtype, number = _dtype(value.get(DTYPE)), value.get(DATA)
    fits = type(number) is SCALARS.get(dtype.kind)
    if fits and isinstance(number, int) and dtype.kind in "iu":
        fits = np.iinfo(dtype).min <= number <= np.iinfo(dtype).max
    if not fits:
        raise ValueError(f"expected a number of dtype {dtype} in the message, found {str(number)[:40]!r}")
    return dtype.type(number)


def _array(value: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(value.get(DTYPE)), value.get(DATA), value.get(SHAPE)
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"expected an array's bytes and its shape of at most {MAX_DIMENSIONS} numbers in the message, "
            f"found {type(data).__name__} and {type(shape).__name__}"
        )
    counts = all(type(size) is int and size >= 0 for size in shape)
    if not counts or dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} and shape {shape} is announced, with {len(data)} bytes")
    if dtype.kind == "U":
        points = np.frombuffer(data, dtype=np.dtype("u4").newbyteorder(dtype.byteorder))
        if (points > LAST_CODE_POINT).any():
            raise ValueError("expected text in an array of the message, found numbers that are no characters")
    return np.ndarray(buffer=data, dtype=dtype, shape=tuple(shape))


def _dtype(name: Any) -> np.dtype:
    try:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) < 16 else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in KINDS or dtype.subdtype is not None:
        raise ValueError(f"expected the dtype of numbers or text in the message, found {str(name)[:40]!r}")
    return dtype
