"""Where numpy ends: samples are stacked into one batch of tensors on the model's device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pizero.types import Batch, Inputs, Tokens

Record = TypeVar("Record", Batch, Inputs, Tokens)


def collate_inputs(samples: Sequence[Inputs], device: torch.device) -> Inputs:
    """Stack unbatched numpy inputs along a new first axis."""
    return _combined(lambda *arrays: torch.from_numpy(np.stack(arrays)).to(device), *samples)


def collate(samples: Sequence[Batch], device: torch.device) -> Batch:
    """Stack unbatched numpy samples along a new first axis."""
    return _combined(lambda *arrays: torch.from_numpy(np.stack(arrays)).to(device), *samples)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch whose tensors are on a device; from pinned memory, without waiting for the copy."""
    return _combined(lambda tensor: tensor.to(device, non_blocking=True), batch)


def pinned(batch: Batch) -> Batch:
    """Return a batch in memory that a GPU reads by itself."""
    return _combined(Tensor.pin_memory, batch)


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some samples of a batch."""
    return _combined(lambda tensor: tensor[rows], batch)


def _combined(combine: Callable[..., Tensor], *records: Record) -> Record:
    """Return a record whose arrays are made of those at the same place of all `records`."""

    def field(name: str) -> Any:
        values = [getattr(record, name) for record in records]
        return _combined(combine, *values) if dataclasses.is_dataclass(values[0]) else combine(*values)

    return type(records[0])(**{each.name: field(each.name) for each in dataclasses.fields(records[0])})
