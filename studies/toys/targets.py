"""What the 2-D studies learn: point clouds of about unit variance, and a field that is known exactly."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from studies.toys.common import Draw

MOONS_CENTER, MOONS_SCALE, MOONS_NOISE = (0.5, 0.25), 0.705, 0.05
"""Two unit half circles have their mean there, and a mean variance of 0.705² in a coordinate."""

RING_STD = 0.1
RING_RADIUS = math.sqrt(2.0 * (1.0 - RING_STD**2))
"""Of eight modes with a standard deviation of 0.1 each, so that a coordinate has unit variance."""


def moons(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw points of two interlocking half circles, and which of the two as a one-hot condition."""
    lower = torch.rand(rows, generator=generator) < 0.5
    angle = math.pi * torch.rand(rows, generator=generator)
    circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
    points = torch.where(lower[:, None], torch.tensor([1.0, 0.5]) - circle, circle)
    points = points + MOONS_NOISE * torch.randn(rows, 2, generator=generator)
    classes = torch.stack([~lower, lower], dim=-1).float()
    return ((points - torch.tensor(MOONS_CENTER)) / MOONS_SCALE)[:, None], classes


def checkerboard(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Draw points of the black squares of a 4 × 4 board."""
    column = torch.randint(4, (rows,), generator=generator)
    line = 2 * torch.randint(2, (rows,), generator=generator) + column % 2
    corner = torch.stack([column, line], dim=-1) - 2.0
    points = corner + torch.rand(rows, 2, generator=generator)
    return (points / math.sqrt(4.0 / 3.0))[:, None], None


def ring(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Draw points of eight Gaussians on a circle."""
    modes = ring_modes()[torch.randint(8, (rows,), generator=generator)]
    return (modes + RING_STD * torch.randn(rows, 2, generator=generator))[:, None], None


def ring_modes() -> Float[Tensor, "8 2"]:
    """Return the centres of the eight Gaussians."""
    angle = torch.arange(8) * (math.pi / 4)
    return RING_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=-1)


def without_condition(draw: Draw) -> Draw:
    """Return a draw that keeps its conditions to itself."""
    return lambda rows, generator: (draw(rows, generator)[0], None)


def mixture_velocity(
    noisy: Float[Tensor, "row 1 2"],
    time: Float[Tensor, "row"],
    *,
    modes: Float[Tensor, "mode 2"],
    std: float,
) -> Float[Tensor, "row 1 2"]:
    """Return the velocity of the straight path to equally likely Gaussians, exactly: `E[noise - actions]`.

    Given mode k, `x_t` is normal around `(1 - t) · mode` with variance `v = t² + (1 - t)² std²`, and `noise -
    actions` has the mean `(t - (1 - t) std²) / v · (x_t - (1 - t) mode) - mode` (regression of one normal
    variable on another).
    """
    t = time[:, None, None]
    variance = t.square() + (1.0 - t).square() * std**2
    away = noisy - (1.0 - t) * modes
    share = torch.softmax(-away.square().sum(dim=-1) / (2 * variance[..., 0]), dim=-1)
    velocity = (t - (1.0 - t) * std**2) / variance * away - modes
    return (share[..., None] * velocity).sum(dim=1, keepdim=True)
