"""What every kind of checkpoint looks like from here: named tensors, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pizero.names import nearest

NUMPY_DTYPES = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<i2": torch.int16,
    "|i1": torch.int8,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}
"""Dtypes by numpy's short names, which zarr uses too."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors in files; `description` says of which kind and where, for messages."""

    description: str

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every tensor, known before any of them is read."""
        ...

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return a tensor, or the part of it at `index`; ValueError for a name or part that is not there."""
        ...


def part_of(
    infos: Mapping[str, TensorInfo], name: str, index: tuple[int, ...], description: str
) -> TensorInfo:
    """Return shape and dtype of the part of a tensor at `index`, which counts from 0 along the first axes.

    ValueError names the nearest tensor if there is none of that name, or the shape if it has no such part.
    """
    if name not in infos:
        raise ValueError(f"{description} has no tensor {name!r}: {nearest(name, infos)}")
    shape = infos[name].shape
    inside = len(index) <= len(shape) and all(
        0 <= place < size for place, size in zip(index, shape, strict=False)
    )
    if not inside:
        raise ValueError(f"{description}: {name} of shape {list(shape)} has no part {list(index)}")
    return TensorInfo(shape=shape[len(index) :], dtype=infos[name].dtype)
