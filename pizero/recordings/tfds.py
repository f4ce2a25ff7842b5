"""What TensorFlow Datasets says of the files that it wrote: shards, features, their shapes and encodings."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pizero.recordings.protobuf import FeatureValue
from pizero.recordings.tfrecord import count_records

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
LeafKind = Literal["image", "text", "tensor", "other"]


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One feature as the files have it: its path, and the shape of one step's value (-1 for unknown)."""

    path: str
    kind: LeafKind
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def words(self) -> str:
        """Return type and shape for a person."""
        if self.kind in ("text", "other"):
            return self.kind if self.kind == "text" else f"{self.dtype}, which cannot be read here"
        return f"{'image ' if self.kind == 'image' else ''}{self.dtype} {list(self.shape)}"

    def decode(self, value: FeatureValue) -> np.ndarray:
        """Return values `[step, *shape]` of a tensor or text; ValueError if they are not as promised."""
        if self.kind == "text":
            return np.array([str(blob, "utf-8") for blob in value.blobs], dtype=np.str_)
        if self.kind != "tensor":
            raise ValueError(f"expected numbers or texts, found {self.words}")
        size = int(np.prod(self.shape))
        if size == 0:
            raise ValueError(f"expected numbers, found none: {self.words}")
        if self.encoding != "none":
            return np.stack([self._unpacked(blob) for blob in value.blobs])
        if value.numbers is None or len(value.numbers) % size:
            raise ValueError(f"expected {self.words} for each step, found {len(value)} values ({value.kind})")
        return value.numbers.reshape(-1, *self.shape).astype(self.dtype)

    def _unpacked(self, blob: bytes) -> np.ndarray:
        dtype = np.dtype(self.dtype)
        size = int(np.prod(self.shape)) * dtype.itemsize
        if self.encoding == "zlib":
            unpacker = zlib.decompressobj()
            blob = unpacker.decompress(blob, size + 1)
        if len(blob) != size:
            raise ValueError(f"expected {size} bytes of {self.words}, found {len(blob)}")
        return np.frombuffer(blob, dtype=dtype).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file and how many records it should have."""

    path: Path
    count: int


def find_dataset(source: Path) -> Path:
    """Return the folder with features.json: `source`, or the one version below it."""
    if (source / "features.json").is_file():
        return source
    below = sorted(path.parent for path in source.glob("*/features.json"))
    if len(below) == 1:
        return below[0]
    found = ", ".join(path.name for path in below) or "none"
    raise ValueError(
        f"expected a folder of TensorFlow Datasets (with features.json) or one with a single version, found "
        f"{found} in {source}"
    )


def read_leaves(folder: Path) -> dict[str, Leaf]:
    """Return every feature by its path, as features.json describes it."""
    data = _json(folder / "features.json")
    leaves = {leaf.path: leaf for leaf in _leaves(data, "", ())}
    if not any(path.startswith("steps/") for path in leaves):
        raise ValueError(
            f"{folder / 'features.json'}: expected episodes with `steps`, as RLDS has them, found "
            f"{', '.join(sorted(leaves)) or 'no features'}"
        )
    return leaves


def _leaves(node: Any, path: str, outer: tuple[int, ...]) -> Iterator[Leaf]:
    if not isinstance(node, Mapping):
        raise ValueError(f"features.json: expected an object for {path!r}, found {node!r}")
    if "featuresDict" in node:
        for name, child in node["featuresDict"].get("features", {}).items():
            yield from _leaves(child, f"{path}/{name}".lstrip("/"), outer)
    elif "sequence" in node:
        length = int(node["sequence"].get("length", -1))
        inner = outer if path == "steps" else (*outer, length)
        yield from _leaves(node["sequence"]["feature"], path, inner)
    elif "image" in node:
        shape = _shape(node["image"])
        yield Leaf(
            path=path,
            kind="other" if outer else "image",
            shape=shape,
            dtype=node["image"].get("dtype", "uint8"),
            encoding=node["image"].get("encodingFormat", ""),
        )
    elif "text" in node and not outer:
        yield Leaf(path=path, kind="text", dtype="string")
    elif "tensor" in node:
        dtype = node["tensor"].get("dtype", "")
        kind: LeafKind = "tensor"
        if dtype in ("string", "object"):
            kind = "other" if outer or _shape(node["tensor"]) else "text"
        elif not _is_number(dtype):
            kind = "other"
        yield Leaf(
            path=path,
            kind=kind,
            shape=(*outer, *_shape(node["tensor"])),
            dtype=dtype,
            encoding=node["tensor"].get("encoding", "none").lower(),
        )
    else:
        named = node.get("pythonClassName", node.get("type", "a feature of an unknown kind"))
        yield Leaf(path=path, kind="other", dtype=str(named).rsplit(".", 1)[-1])


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in node.get("shape", {}).get("dimensions", ()))


def _is_number(dtype: str) -> bool:
    return re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)", dtype) is not None


def find_shards(folder: Path, split: str) -> tuple[Shard, ...]:
    """Return the files of a split, with the number of records that dataset_info.json tells.

    Without it the records are counted. ValueError if a file is missing.
    """
    if not (folder / "dataset_info.json").exists():
        paths = sorted(folder.glob(f"*-{split}.tfrecord-*-of-*"))
        if not paths:
            raise ValueError(f"expected files *-{split}.tfrecord-*-of-* in {folder}, found none")
        return tuple(Shard(path=path, count=count_records(path)) for path in paths)
    info = _json(folder / "dataset_info.json")
    splits = {entry.get("name"): entry for entry in info.get("splits", [])}
    if split not in splits:
        known = ", ".join(sorted(map(str, splits))) or "none"
        raise ValueError(f"expected a split {split!r} in {folder}, found: {known}; --split names one")
    entry, file_format = splits[split], info.get("fileFormat", "tfrecord")
    if file_format != "tfrecord":
        raise ValueError(
            f"expected TFRecord files in {folder}, found {file_format!r}, which cannot be read here"
        )
    counts = [int(count) for count in entry.get("shardLengths", [])]
    shards = tuple(
        Shard(path=folder / _file_name(entry, info, split, index, len(counts)), count=count)
        for index, count in enumerate(counts)
    )
    missing = [shard.path.name for shard in shards if not shard.path.is_file()]
    if missing or not shards:
        raise ValueError(
            f"expected {len(counts)} files of split {split!r} in {folder}, {len(missing)} are missing: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}; copy them there too"
        )
    return shards


def _file_name(entry: Mapping[str, Any], info: Mapping[str, Any], split: str, index: int, count: int) -> str:
    name = entry.get("filepathTemplate") or TEMPLATE
    for field, value in (
        ("{DATASET}", str(info.get("name", ""))),
        ("{SPLIT}", split),
        ("{FILEFORMAT}", "tfrecord"),
        ("{SHARD_X_OF_Y}", f"{index:05d}-of-{count:05d}"),
        ("{SHARD_INDEX}", f"{index:05d}"),
        ("{NUM_SHARDS}", f"{count:05d}"),
    ):
        name = name.replace(field, value)
    if "/" in name or "\\" in name or "{" in name:
        raise ValueError(f"dataset_info.json: expected a template of file names, found {name!r}")
    return name


def _json(path: Path) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, found {type(data).__name__}")
    return data
