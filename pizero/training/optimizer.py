"""AdamW, its learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, a linear warm-up, a cosine decay that ends at step `decay_steps`, and clipped gradients."""

    peak_rate: float = 2.5e-5
    final_rate: float = 2.5e-6
    warmup_steps: int = 1_000
    decay_steps: int = 30_000
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 1e-10
    clip_norm: float = 1.0


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the rate of update `step`, counted from 0 (optax's warm-up + cosine, as openpi sets it)."""
    first = config.peak_rate / (config.warmup_steps + 1)
    if step < config.warmup_steps:
        return first + (config.peak_rate - first) * step / config.warmup_steps
    progress = min((step - config.warmup_steps) / max(config.decay_steps - config.warmup_steps, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.final_rate + (config.peak_rate - config.final_rate) * cosine


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW over all parameters that train."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trainable,
        lr=config.peak_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a total norm of `max_norm` if theirs is larger; return their norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return norm


@torch.no_grad()
def update_average(average: list[Tensor], model: nn.Module, decay: float) -> None:
    """Move each averaged weight towards the model's: `average ← decay · average + (1 - decay) · weight`."""
    for averaged, weight in zip(average, model.parameters(), strict=True):
        averaged.lerp_(weight, 1.0 - decay)
