"""openpi's JAX checkpoints: zarr arrays in an OCDBT key-value store, as Orbax writes them, without JAX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pizero.names import nearest
from pizero.weights.tensors import TensorInfo

MANIFEST, METADATA, ROOT = "manifest.ocdbt", "_METADATA", "params"
DTYPES = {
    "<f4": torch.float32,
    "<f8": torch.float64,
    "<f2": torch.float16,
    "bfloat16": torch.bfloat16,
    "<i4": torch.int32,
    "<i8": torch.int64,
}


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
        self.store = {"driver": "ocdbt", "base": f"file://{folder.resolve()}/"}
        self.tensorstore = _tensorstore()
        try:
            view = self.tensorstore.KvStore.open(self.store).result()
            keys = [key.decode() for key in view.list().result()]
            arrays = sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray"))
            headers = {name: json.loads(view.read(f"{name}/.zarray").result().value) for name in arrays}
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder} cannot be read as an Orbax checkpoint: {str(error)[:300]}") from None
        if not arrays:
            raise ValueError(f"{folder}: expected arrays in the Orbax checkpoint, found none")
        self.paths = _names(arrays)
        unknown = [
            f"{name}: {headers[path]['dtype']}"
            for name, path in self.paths.items()
            if headers[path]["dtype"] not in DTYPES
        ]
        if unknown:
            raise ValueError(f"{folder}: dtypes that are not read: {'; '.join(unknown[:10])}")
        self._infos = {
            name: TensorInfo(shape=tuple(headers[path]["shape"]), dtype=DTYPES[headers[path]["dtype"]])
            for name, path in self.paths.items()
        }

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every array."""
        return self._infos

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return an array, or the part of it at `index`."""
        if name not in self._infos:
            raise ValueError(f"{self.description}: no array {name!r}: {nearest(name, self._infos)}")
        spec = {"driver": "zarr", "kvstore": {**self.store, "path": f"{self.paths[name]}/"}}
        try:
            array = self.tensorstore.open(spec, open=True).result()
            values = np.array((array[index] if index else array).read().result())
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.description}: {name} cannot be read: {str(error)[:300]}") from None
        if values.dtype.name == "bfloat16":
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)


def _names(paths: list[str]) -> dict[str, str]:
    """Return the store's path of each array, by its name."""
    parts = {path: path.split(".") for path in paths}
    if all(names[-1] == "value" for names in parts.values()):
        parts = {path: names[:-1] for path, names in parts.items()}
    return {
        "/".join(names[1:] if names[0] == ROOT and len(names) > 1 else names): path
        for path, names in parts.items()
    }


def _tensorstore() -> Any:
    try:
        import tensorstore
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'reading an Orbax checkpoint needs tensorstore: pip install "pizero[orbax]"'
        ) from None
    return tensorstore
