"""Trading time for memory: parts of the forward pass are computed again in the backward pass.

Each layer by itself, so that nothing is ever computed more than twice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from pizero.nn.gemma import GemmaLayer
from pizero.nn.siglip import SigLIPLayer
from pizero.nn.vision import ResidualBlock

Recompute = Literal["nothing", "cheap", "layers"]
"""What the backward pass computes again: nothing; what is cheap (all but products); whole layers."""

aten: Any = torch.ops.aten
EXPENSIVE = (
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
)
"""Products of matrices, convolutions and attention: 99 % of the work and a third of the memory."""


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that a model is a stack of."""
    for module in model.modules():
        if isinstance(module, GemmaLayer | SigLIPLayer | ResidualBlock):
            yield module


def apply_recompute(model: nn.Module, recompute: Recompute) -> None:
    """Let the backward pass compute again what the forward pass no longer keeps."""
    if recompute == "nothing":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if recompute == "cheap":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_products)
    for layer in layers_of(model):
        layer.forward = functools.partial(checkpoint, layer.forward, **options)


def _keep_products(_context: Any, operation: Any, *_given: Any, **_named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in EXPENSIVE else CheckpointPolicy.PREFER_RECOMPUTE
