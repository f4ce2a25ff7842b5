"""`tf.train.Example` and `SequenceExample` without TensorFlow: as much of Protocol Buffers as they use.

    Example          { Features features = 1; }
    SequenceExample  { Features context = 1; FeatureLists feature_lists = 2; }
    Features         { map<string, Feature> feature = 1; }
    FeatureLists     { map<string, FeatureList> feature_list = 1; }
    FeatureList      { repeated Feature feature = 1; }
    Feature          { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }, each { repeated value = 1; }

(TensorFlow, `tensorflow/core/example/feature.proto`; wire format: protobuf.dev, "Encoding".) Nothing is ever
read beyond the end of the message, and what is unknown is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
Kind = Literal["none", "bytes", "float", "int64"]
_KINDS: dict[int, Kind] = {1: "bytes", 2: "float", 3: "int64"}


@dataclass(frozen=True)
class FeatureValue:
    """One feature's values: files or texts, float32, or int64."""

    kind: Kind
    blobs: tuple[bytes, ...] = ()
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        """Return how many values there are."""
        return len(self.blobs) if self.numbers is None else len(self.numbers)


def parse_example(data: bytes) -> dict[str, tuple[memoryview, ...]]:
    """Return each feature's message by name, several for a feature list; ValueError if it is no Example.

    `read_feature` unpacks them: what nobody asks for stays packed.
    """
    features: dict[str, tuple[memoryview, ...]] = {}
    for number, message in _messages(memoryview(data)):
        if number == 1:
            for name, value in _map_entries(message):
                features[name] = (value,)
        elif number == 2:
            for name, value in _map_entries(message):
                features[name] = tuple(entry for field, entry in _messages(value) if field == 1)
    return features


def read_feature(messages: tuple[memoryview, ...]) -> FeatureValue:
    """Return the values of a feature, those of a feature list one behind another."""
    parts = [_feature(message) for message in messages]
    kinds: set[Kind] = {part.kind for part in parts if part.kind != "none"}
    if len(kinds) > 1:
        raise ValueError(f"expected one kind of values in a feature list, found {sorted(kinds)}")
    if not kinds:
        return FeatureValue("none")
    kind = kinds.pop()
    if kind == "bytes":
        return FeatureValue(kind, tuple(blob for part in parts for blob in part.blobs))
    return FeatureValue(
        kind, (), np.concatenate([part.numbers for part in parts if part.numbers is not None])
    )


def _feature(message: memoryview) -> FeatureValue:
    for number, content in _messages(message):
        kind = _KINDS.get(number)
        if kind == "bytes":
            return FeatureValue(kind, tuple(bytes(blob) for field, blob in _messages(content) if field == 1))
        if kind == "float":
            return FeatureValue(kind, (), _floats(content))
        if kind == "int64":
            return FeatureValue(kind, (), _integers(content))
    return FeatureValue("none")


def _floats(content: memoryview) -> np.ndarray:
    parts = [
        np.frombuffer(value, dtype="<f4")
        for field, wire, value in _fields(content)
        if field == 1 and wire in (DELIMITED, FIXED32)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _integers(content: memoryview) -> np.ndarray:
    parts = [
        unpack_varints(value)
        for field, wire, value in _fields(content)
        if field == 1 and wire in (DELIMITED, VARINT)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def unpack_varints(packed: memoryview | bytes) -> np.ndarray:
    """Return the int64 values of a row of varints: 7 bits a byte, lowest first, the top bit says go on."""
    data = np.frombuffer(packed, dtype=np.uint8)
    if not len(data):
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not len(ends) or ends[-1] != len(data) - 1 or (ends - starts).max() > 9:
        raise ValueError("expected whole varints of at most 10 bytes, found others")
    values = np.zeros(len(ends), dtype=np.uint64)
    for position in range(int((ends - starts).max()) + 1):
        there = starts + position <= ends
        bits = (data[(starts + position)[there]] & 0x7F).astype(np.uint64)
        values[there] |= bits << np.uint64(7 * position)
    return values.astype(np.int64)


def _map_entries(message: memoryview) -> Iterator[tuple[str, memoryview]]:
    for number, entry in _messages(message):
        if number == 1:
            parts = dict(_messages(entry))
            yield str(parts.get(1, b""), "utf-8"), parts.get(2, memoryview(b""))


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields that are bytes, texts or messages."""
    return ((number, value) for number, wire, value in _fields(data) if wire == DELIMITED)


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield number, wire type and the bytes of each field."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire, start = tag & 7, position
        if wire == VARINT:
            _, position = _varint(data, position)
        elif wire == DELIMITED:
            length, start = _varint(data, position)
            position = start + length
        elif wire in (FIXED64, FIXED32):
            position += 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"expected a Protocol Buffers message, found wire type {wire} at byte {start}")
        if position > len(data):
            raise ValueError(f"a field at byte {start} reaches beyond the end of its message")
        yield tag >> 3, wire, data[start:position]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a message ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("expected a varint of at most 10 bytes, found a longer one")
