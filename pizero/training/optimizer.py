"""AdamW, its learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pizero.names import nearest
from pizero.training.sharding import local, whole


@dataclass(frozen=True, kw_only=True)
class WeightGroup:
    """Weights whose names fit `rule` (`backbone.vision.*`) train at `rate` times the rate of the others.

    They decay by `weight_decay`; None is as much as the others.
    """

    rule: str
    rate: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, a linear warm-up, a cosine decay that ends at step `decay_steps`, and clipped gradients.

    A weight belongs to the first of `groups` that it fits.
    """

    peak_rate: float = 2.5e-5
    final_rate: float = 2.5e-6
    warmup_steps: int = 1_000
    decay_steps: int = 30_000
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 1e-10
    clip_norm: float = 1.0
    groups: tuple[WeightGroup, ...] = ()


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the rate of update `step`, counted from 0 (optax's warm-up + cosine, as openpi sets it)."""
    first = config.peak_rate / (config.warmup_steps + 1)
    if step < config.warmup_steps:
        return first + (config.peak_rate - first) * step / config.warmup_steps
    progress = min((step - config.warmup_steps) / max(config.decay_steps - config.warmup_steps, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.final_rate + (config.peak_rate - config.final_rate) * cosine


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW over all parameters that train; ValueError for a group that no weight belongs to."""
    members: list[list[nn.Parameter]] = [[] for _ in (*config.groups, None)]
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name in names:
        fits = [index for index, group in enumerate(config.groups) if fnmatchcase(name, group.rule)]
        members[fits[0] if fits else -1].append(model.get_parameter(name))
    for group, parameters in zip(config.groups, members, strict=False):
        if not parameters:
            parts = {name.partition(".")[0] + ".*" for name in names}
            raise ValueError(
                f"no weight that trains belongs to the group {group.rule!r}: {nearest(group.rule, parts)}"
            )
    others = WeightGroup(rule="*")
    groups = [
        {
            "params": parameters,
            "factor": group.rate,
            "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group, parameters in zip((*config.groups, others), members, strict=True)
        if parameters
    ]
    return torch.optim.AdamW(
        groups, lr=config.peak_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next update be made at a learning rate, times each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a total norm of `max_norm` if theirs is larger; return their norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    if norm > max_norm:
        for gradient in gradients:
            local(gradient).mul_(max_norm / norm)
    return norm


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move each averaged weight towards the model's: `average ← decay · average + (1 - decay) · weight`."""
    for name, averaged in average.items():
        local(averaged).lerp_(local(model.get_parameter(name)), 1.0 - decay)


def weight_norm(model: nn.Module) -> Tensor:
    """Return the norm of all matrices that train, but for tables of embeddings (as openpi counts)."""
    matrices = [
        parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and not name.endswith("embedding")
    ]
    return whole(torch.nn.utils.get_total_norm(matrices))
