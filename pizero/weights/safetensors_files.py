"""The safetensors format, read and written as a stream: a JSON header, then the bytes of each tensor.

Format: eight bytes with the header's length, little endian; the header, name → dtype, shape, offsets; the
data, without holes. Nothing in it can run. One tensor is in memory at a time, and no file is mapped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pizero.weights.tensors import TensorInfo, part_of

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000
"""Bytes of the largest header that is read; safetensors' own limit."""
METADATA = "__metadata__"
"""The one name in a header that is no tensor: it holds texts by name."""


class SafetensorsFile:
    """One file; its header is checked as a whole before any tensor is read.

    ValueError lists every problem: a truncated or oversized header, unknown dtypes, offsets that overlap,
    leave holes, or end elsewhere than the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.description = path, f"safetensors file {path}"
        self.data_start, header = _read_header(path)
        self.offsets: dict[str, tuple[int, int]] = {}
        self._infos: dict[str, TensorInfo] = {}
        problems = []
        for name, entry in header.items():
            problem = _metadata_problem(entry) if name == METADATA else self._add(name, entry)
            problems += [problem] if problem else []
        problems += _layout_problems(self.offsets, path.stat().st_size - self.data_start)
        if problems:
            shown = "; ".join(problems[:10])
            raise ValueError(f"{path} is damaged: {shown}. Copy it again; nothing of it was used")

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every tensor."""
        return self._infos

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return a tensor, or the part of it at `index`: only that part is read."""
        part = part_of(self._infos, name, index, self.description)
        place = 0
        for size, position in zip(self._infos[name].shape, index, strict=False):
            place = place * size + position
        num_bytes = math.prod(part.shape) * part.dtype.itemsize
        tensor = torch.empty(num_bytes, dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(self.data_start + self.offsets[name][0] + place * num_bytes)
            if num_bytes and file.readinto(tensor.numpy().data) != num_bytes:
                raise ValueError(f"{self.path} became shorter while it was read")
        return tensor.view(part.dtype).reshape(part.shape)

    def _add(self, name: str, entry: Any) -> str:
        """Take one entry of the header; return what is wrong with it."""
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            return f"{name}: expected dtype, shape and data_offsets, found {str(entry)[:80]}"
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            return f"{name}: the dtype {dtype!r} is not read; known: {', '.join(DTYPES)}"
        if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
            found = f"{str(shape)[:80]} and {str(offsets)[:80]}"
            return f"{name}: expected a shape and two offsets, found {found}"
        expected = math.prod(shape) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != expected:
            return f"{name}: {shape} {dtype} takes {expected} bytes, its offsets are {offsets}"
        self.offsets[name] = (offsets[0], offsets[1])
        self._infos[name] = TensorInfo(shape=tuple(shape), dtype=DTYPES[dtype])
        return ""


class ShardedSafetensors:
    """Several files and an index that says which tensor is where.

    ValueError if the index names a file outside its own folder, or does not fit what the files hold.
    """

    def __init__(self, index: Path) -> None:
        self.description = f"safetensors shards of {index}"
        try:
            text = index.read_text(encoding="utf-8")
            weight_map = json.loads(text, object_pairs_hook=_without_duplicates)["weight_map"]
            shards = sorted(set(weight_map.values()))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{index}: expected JSON with a weight_map of file names, found {repr(error)[:200]}"
            ) from None
        outside = [str(name) for name in shards if not _is_inside(index.parent, name)]
        if outside:
            raise ValueError(
                f"{index}: expected names of files in its own folder, found {', '.join(outside)}; "
                f"nothing was read"
            )
        missing = [name for name in shards if not os.path.isfile(index.parent / name)]
        if missing:
            raise ValueError(f"{index}: the shards {', '.join(missing)} are not there; copy them too")
        self.shards = {name: SafetensorsFile(index.parent / name) for name in shards}
        problems = [
            f"{name} is not in {shard}"
            for name, shard in weight_map.items()
            if name not in self.shards[shard].infos
        ]
        problems += [
            f"{shard} holds {name}, which the index does not place there"
            for shard, file in self.shards.items()
            for name in file.infos
            if weight_map.get(name) != shard
        ]
        if problems:
            raise ValueError(f"{index} does not fit its shards: {'; '.join(problems[:10])}")
        self.weight_map: dict[str, str] = weight_map
        self._infos = {name: self.shards[shard].infos[name] for name, shard in weight_map.items()}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every tensor."""
        return self._infos

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return a tensor, or the part of it at `index`."""
        part_of(self._infos, name, index, self.description)
        return self.shards[self.weight_map[name]].read(name, index)


def write_safetensors(
    path: Path,
    infos: Mapping[str, TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write tensors as they come, in the order of `infos`, and return the sha256 of the file.

    ValueError if one is not what `infos` says or cannot be stored; after that or any error, no file is left.
    """
    partial = path.with_name(path.name + ".partial")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:

            def put(data: bytes | memoryview) -> None:
                digest.update(data)
                file.write(data)

            put(_header(infos, metadata or {}))
            expected = iter(infos.items())
            for name, tensor in tensors:
                wanted, info = next(expected, ("no tensor", None))
                found = TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype)
                if (name, found) != (wanted, info):
                    raise ValueError(
                        f"{path}: expected {wanted} {info or ''} next, found {name} {found}; no file was made"
                    )
                put(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                del tensor  # before the next one is made
            unwritten = [name for name, _ in expected]
            if unwritten:
                raise ValueError(
                    f"{path}: expected {len(unwritten)} more tensors, first {unwritten[0]}; they never came, "
                    f"and no file was made"
                )
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"expected a safetensors file at {path}, found none")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"{path} is not a safetensors file: it has {size} bytes, a header takes more")
        length = int.from_bytes(start, "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(
                f"{path} is truncated or no safetensors file: it announces a header of {length} bytes, and "
                f"has {size}; copy it again"
            )
        try:
            header = json.loads(file.read(length).decode(), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} has no readable safetensors header: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: expected a header that names tensors, found {type(header).__name__}")
    return 8 + length, header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    doubled = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if doubled:
        raise ValueError(f"twice in the header: {', '.join(doubled[:5])}")
    "".join(
        text for pair in pairs for text in pair if isinstance(text, str)
    ).encode()  # refuses half characters
    return dict(pairs)


def _layout_problems(offsets: Mapping[str, tuple[int, int]], size: int) -> list[str]:
    problems, end, last = [], 0, "the header"
    for name, (start, stop) in sorted(offsets.items(), key=lambda item: (item[1], item[0])):
        if start < end:
            problems.append(f"{name} overlaps {last}")
        elif start > end:
            problems.append(f"{start - end} bytes before {name} belong to no tensor")
        if stop >= end:
            end, last = stop, name
    if end > size:
        problems.append(f"{last} ends {end - size} bytes after the file does")
    elif end < size:
        problems.append(f"{size - end} bytes after {last} belong to no tensor")
    return problems


def _metadata_problem(metadata: Any) -> str:
    if isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values()):
        return ""
    return f"{METADATA}: expected texts by name, found {str(metadata)[:80]}"


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**62 for item in value
    )


def _is_inside(folder: Path, name: Any) -> bool:
    if not isinstance(name, str) or not name or "\\" in name or Path(name).name != name:
        return False
    try:
        return (folder / name).resolve().parent == folder.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
        return False


def _header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    strange = [f"{name}: {info.dtype}" for name, info in infos.items() if info.dtype not in NAMES]
    if strange or METADATA in infos:
        raise ValueError(
            f"expected dtypes of {', '.join(map(str, NAMES))} and no tensor named {METADATA}, "
            f"found {', '.join(strange[:10]) or METADATA}; no file was made"
        )
    entries: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, info in infos.items():
        start, end = end, end + math.prod(info.shape) * info.dtype.itemsize
        entries[name] = {"dtype": NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
