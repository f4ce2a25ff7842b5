"""Writes checkpoints as Orbax lays them out: zarr arrays in an OCDBT store, and a tree of their names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorstore


def write_orbax(
    folder: Path,
    arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    *,
    value_suffix: bool = True,
    chunks: list[int] | None = None,
) -> None:
    """Write arrays named like `PaliGemma/img/head/bias` under the root `params`.

    Each array is one chunk, as Orbax stores what lies on one device, or several of shape `chunks`. With
    `value_suffix`, each leaf ends in `value`, as in checkpoints that openpi itself writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.resolve()}/"}}
    tree = {}
    for name, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
        keys = ["params", *name.split("/"), *(["value"] if value_suffix else [])]
        spec = {
            "driver": "zarr",
            "kvstore": {**store, "path": ".".join(keys) + "/"},
            "metadata": {
                "compressor": {"id": "zstd", "level": 1},
                "shape": list(array.shape),
                "chunks": chunks or [max(size, 1) for size in array.shape],
            },
            "store_data_equal_to_fill_value": True,
        }
        target = tensorstore.open(spec, create=True, dtype=array.dtype, shape=array.shape).result()
        target.write(array).result()
        tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
        }
    metadata = {"tree_metadata": tree, "use_zarr3": False, "store_array_data_equal_to_fill_value": True}
    (folder / "_METADATA").write_text(json.dumps(metadata), encoding="utf-8")
