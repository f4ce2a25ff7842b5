"""Frozen dataclasses to JSON and back, strictly: an unknown or missing key is an error that names its
neighbour.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pizero.names import nearest

Record = TypeVar("Record")


def to_data(record: Any) -> Any:
    """Return dicts, lists and scalars for a record; a record says its class under `type`."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        fields = {field.name: to_data(getattr(record, field.name)) for field in dataclasses.fields(record)}
        return {"type": type(record).__name__, **fields}
    if isinstance(record, tuple | list):
        return [to_data(item) for item in record]
    if isinstance(record, dict):
        return {key: to_data(value) for key, value in record.items()}
    return record


def from_data(kind: Any, data: Any, where: str = "") -> Any:
    """Return the record of class `kind` that `data` describes; ValueError says where it does not fit."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _from_union(get_args(kind), data, where)
    if origin is Literal:
        if data not in get_args(kind):
            raise ValueError(
                f"{where}: expected one of {', '.join(map(repr, get_args(kind)))}, found {data!r}"
            )
        return data
    if dataclasses.is_dataclass(kind):
        return _from_record(kind, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{where}: expected a list, found {data!r}")
        return tuple(from_data(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise ValueError(f"{where}: expected an object, found {data!r}")
        return {key: from_data(get_args(kind)[1], value, f"{where}.{key}") for key, value in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is Any or (isinstance(data, kind) and not (kind is int and isinstance(data, bool))):
        return data
    raise ValueError(f"{where}: expected {kind.__name__}, found {data!r}")


def _from_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) == 1:
        return from_data(rest[0], data, where)
    named = {kind.__name__: kind for kind in rest}
    name = data.get("type") if isinstance(data, dict) else None
    if name not in named:
        raise ValueError(f"{where}.type: {name!r} is not known: {nearest(str(name), named)}")
    return from_data(named[name], data, where)


def _from_record(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(
            f"{where or kind.__name__}: expected an object with the fields of {kind.__name__}, found {data!r}"
        )
    if data.get("type", kind.__name__) != kind.__name__:
        raise ValueError(f"{where or kind.__name__}: expected a {kind.__name__}, found a {data['type']}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {key: value for key, value in data.items() if key != "type"}
    for key in values:
        if key not in fields:
            raise ValueError(f"{where or kind.__name__}: unknown field {key!r}: {nearest(key, fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where or kind.__name__}: missing field {', '.join(map(repr, missing))}")
    return kind(
        **{key: from_data(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in values.items()}
    )


def canonical(record: Any) -> str:
    """Return the one JSON text of a record: sorted keys, no spaces."""
    return json.dumps(
        to_data(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(record: Any) -> str:
    """Return the sha256 of the canonical text, in hexadecimal."""
    return hashlib.sha256(canonical(record).encode()).hexdigest()


def write_record(path: Path, record: Any) -> None:
    """Write a record as indented JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(to_data(record), indent=2, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def read_record(kind: type[Record] | types.UnionType, path: Path) -> Record:
    """Read a record; ValueError names the file and what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"expected the file {path}, found none") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return from_data(kind, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return one line for each leaf in which two records differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            path = f"{where}.{key}".lstrip(".")
            lines += differences(ours.get(key, "(absent)"), theirs.get(key, "(absent)"), path)
        return lines
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{where}[{index}]")]
    return [] if ours == theirs else [f"{where}: {ours!r} ≠ {theirs!r}"]
