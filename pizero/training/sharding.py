"""One model over several processes: each keeps a part of every weight, and sees whole layers in passing.

FSDP2: weights, gradients, optimizer and average are divided along their first axis among `shards` processes;
groups of so many processes hold copies of each other. `shards` = 1 is data parallelism, `shards` = all of
them divides the most, what lies between keeps the traffic inside a machine.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from pizero.nn.gemma import GemmaLayer
from pizero.training.ranks import Ranks
from pizero.training.recompute import layers_of

Gather = Literal["float32", "bfloat16"]
"""The dtype in which whole layers are put together: as stored, or rounded, which halves the traffic."""


def check_shards(shards: int, ranks: Ranks) -> None:
    """Raise ValueError unless so many shards divide a run's processes into equal groups."""
    if shards < 1 or ranks.world_size % shards:
        raise ValueError(
            f"expected a number of shards that divides the {ranks.world_size} processes, found {shards}"
        )


def shard(model: nn.Module, ranks: Ranks, *, shards: int, gather: Gather = "float32") -> None:
    """Divide a model's weights among the processes, layer by layer; a single process keeps it as it is.

    A model without memory (`skeleton`) stays without, so that no process ever holds all of it.
    """
    if ranks.world_size == 1:
        return
    check_shards(shards, ranks)
    mesh = _mesh(ranks, shards)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing writes into it
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no other memory order
    rounded = MixedPrecisionPolicy(
        param_dtype=None if gather == "float32" else torch.bfloat16,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=rounded)
        if isinstance(layer, GemmaLayer):
            register_fsdp_forward_method(layer, "key_values")
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for method in ("losses", "sample"):
        register_fsdp_forward_method(model, method)


def _mesh(ranks: Ranks, shards: int) -> DeviceMesh:
    kind = ranks.device.type
    if shards == ranks.world_size:
        return init_device_mesh(kind, (shards,))
    return init_device_mesh(kind, (ranks.world_size // shards, shards), mesh_dim_names=("replicate", "shard"))


def divide_again(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass has put together: weights are parts again."""
    if isinstance(model, FSDPModule):
        model.reshard()


def local(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor: its rows if it is divided, else all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; every process has to call it if the tensor is divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """Return which row of the whole tensor is this process's first (`torch.chunk`'s division)."""
    if not isinstance(tensor, DTensor):
        return 0
    mesh: Any = tensor.device_mesh
    for axis, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard):
            number = mesh.size(axis)
            each = -(-tensor.shape[0] // number)
            return min(each * mesh.get_local_rank(axis), tensor.shape[0])
    return 0
