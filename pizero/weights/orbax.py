"""openpi's JAX checkpoints: zarr arrays in an OCDBT key-value store, as Orbax writes them, without JAX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pizero.weights.packed_chunk import PackedArray, ReadRange
from pizero.weights.tensors import NUMPY_DTYPES, TensorInfo, part_of

MANIFEST, METADATA, ROOT = "manifest.ocdbt", "_METADATA", "params"
DTYPES = NUMPY_DTYPES | {"bfloat16": torch.bfloat16}
UNREADABLE = (ValueError, OSError, KeyError, IndexError, NotImplementedError)
"""What tensorstore raises where a store is damaged."""

CACHE_BYTES = 2**40
"""No limit: what is decoded is needed, and one array's cache goes when the next one is opened."""


def find_orbax(folder: Path) -> Path | None:
    """Return the Orbax folder that a folder is, or holds under `params`; None if there is none."""
    for candidate in (folder, folder / ROOT):
        if any((candidate / name).exists() for name in (MANIFEST, METADATA, "ocdbt.process_0")):
            return candidate
    return None


class OrbaxFolder:
    """The arrays of an Orbax folder, named by their paths in the tree: `PaliGemma/llm/final_norm/scale`.

    The root `params` is left out, and so is a last part `value` if all have it. ValueError if the store is
    not whole; ModuleNotFoundError names the extra that reads it.
    """

    def __init__(self, folder: Path) -> None:
        self.description = f"Orbax checkpoint {folder}"
        missing = [name for name in (MANIFEST, METADATA) if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} is not a whole Orbax checkpoint: expected {MANIFEST} and {METADATA}, missing "
                f"{', '.join(missing)}; copy the whole folder again"
            )
        base = {"driver": "file", "path": f"{folder.resolve()}/"}  # an address would give `%` a meaning
        self.store = {"driver": "ocdbt", "base": base}
        self.stores_all_chunks = _stores_all_chunks(folder / METADATA)
        self.tensorstore = _tensorstore()
        self._open: tuple[str, Any] | None = None
        self._packed: tuple[str, PackedArray] | None = None
        try:
            self.view = view = self.tensorstore.KvStore.open(self.store).result()
            keys = [key.decode() for key in view.list().result()]
            arrays = sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray"))
            headers = {name: json.loads(view.read(f"{name}/.zarray").result().value) for name in arrays}
        except UNREADABLE as error:
            raise ValueError(f"{folder} cannot be read as an Orbax checkpoint: {str(error)[:300]}") from None
        if not arrays:
            others = (
                sorted(key for key in keys if key.endswith("zarr.json"))[:1] or keys[:1] or ["an empty store"]
            )
            raise ValueError(
                f"{folder}: expected arrays in zarr's second format (.zarray), found {others[0]}"
            )
        self.paths, self.headers = _names(arrays), headers
        infos = {name: _info(headers[path]) for name, path in self.paths.items()}
        unknown = [f"{name}: {str(headers[self.paths[name]])[:200]}" for name in infos if infos[name] is None]
        if unknown:
            raise ValueError(
                f"{folder}: expected arrays of {', '.join(DTYPES)}, found {'; '.join(unknown[:10])}"
            )
        self._infos = {name: info for name, info in infos.items() if info is not None}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every array."""
        return self._infos

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return an array, or the part of it at `index`."""
        part_of(self._infos, name, index, self.description)
        try:
            packed = self._packed_array(name).read(index)
            if packed is not None:
                return packed
            array = self._opened(name)
            values = np.require((array[index] if index else array).read().result(), requirements=["C", "W"])
        except UNREADABLE as error:
            raise ValueError(f"{self.description}: {name} cannot be read: {str(error)[:300]}") from None
        if values.dtype.name == "bfloat16":
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)

    def _packed_array(self, name: str) -> PackedArray:
        """Return an array as streams of its chunks, which are kept until another array is asked for."""
        if self._packed is None or self._packed[0] != name:
            path = self.paths[name]
            find = partial(_reader_of, self.view, path)
            self._packed = (name, PackedArray(self.headers[path], self._infos[name], find))
        return self._packed[1]

    def _opened(self, name: str) -> Any:
        """Return an open array, whose decoded chunks are kept until another array is asked for.

        Layers are stacked, and a chunk may hold several, which would else be decoded once for each of them.
        """
        if self._open is None or self._open[0] != name:
            self._open = None
            spec = {
                "driver": "zarr",
                "kvstore": {**self.store, "path": f"{self.paths[name]}/"},
                "fill_missing_data_reads": not self.stores_all_chunks,
            }
            context = self.tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
            self._open = (name, self.tensorstore.open(spec, open=True, context=context).result())
        return self._open[1]


def _reader_of(view: Any, path: str, chunk: str) -> ReadRange | None:
    """Return what reads ranges of a stored chunk; None if there is none (older Orbax leaves zeros out)."""
    key = f"{path}/{chunk}"
    if view.read(key, byte_range=slice(0, 1)).result().state != "value":
        return None
    size = _size_of(view, key)

    def read_range(start: int, stop: int) -> bytes:
        if start >= size:
            return b""
        return bytes(view.read(key, byte_range=slice(start, min(stop, size))).result().value)

    return read_range


def _size_of(view: Any, key: str) -> int:
    """Return how many bytes a stored value has: which of them can be read says it, nothing else does."""

    def has(place: int) -> bool:
        try:
            return len(view.read(key, byte_range=slice(place, place + 1)).result().value) == 1
        except ValueError:  # out of range
            return False

    low, high = 0, 1
    while has(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if has(middle) else (low, middle)
    return high


def _names(paths: list[str]) -> dict[str, str]:
    """Return the store's path of each array, by its name."""
    parts = {path: path.split(".") for path in paths}
    if all(len(names) > 1 and names[-1] == "value" for names in parts.values()):
        parts = {path: names[:-1] for path, names in parts.items()}
    if all(len(names) > 1 and names[0] == ROOT for names in parts.values()):
        parts = {path: names[1:] for path, names in parts.items()}
    return {"/".join(names): path for path, names in parts.items()}


def _info(header: Any) -> TensorInfo | None:
    """Return shape and dtype of an array with this `.zarray`; None if it is not one that is read."""
    if not isinstance(header, dict):
        return None
    shape, dtype = header.get("shape"), header.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(shape, list):
        return None
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        return None
    return TensorInfo(shape=tuple(shape), dtype=DTYPES[dtype])


def _stores_all_chunks(path: Path) -> bool:
    """Return whether this Orbax wrote chunks of zeros too; older ones left them out.

    Then a chunk that is not there has been lost, and must not be read as zeros.
    """
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not JSON: {str(error)[:200]}; copy it again") from None
    return isinstance(metadata, dict) and metadata.get("store_array_data_equal_to_fill_value") is True


def _tensorstore() -> Any:
    try:
        import tensorstore
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'reading an Orbax checkpoint needs tensorstore: pip install "pizero[orbax]"'
        ) from None
    return tensorstore
