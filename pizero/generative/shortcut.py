"""Shortcut models: a network that is told how long a step is learns long steps from pairs of short ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.process import per_row

StepVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A network with its observation bound: (noisy actions, time, step) → velocity that carries the actions from
`time` to `time - step` in one go; with step 0, the flow's velocity.
"""


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """Learns `s(x, t, d)`, the velocity of a step of length d (Frans et al. 2024, arXiv 2410.12557, section
    3, with time reversed).

    A step of length d equals two of d / 2: `s(x, t, d) = (s(x, t, d/2) + s(x', t - d/2, d/2)) / 2` with
    `x' = x - d/2 · s(x, t, d/2)`. A share `consistent` of the rows learns that; the others learn the flow's
    velocity, at d = 0. Steps are 1, 1/2, 1/4 … down to `2 / max_steps`; halves of `1 / max_steps` are asked
    for as d = 0.
    """

    max_steps: int = 128
    consistent: float = 0.25
    num_steps: int = 1

    def __post_init__(self) -> None:
        if self.max_steps < 2 or self.max_steps & (self.max_steps - 1):
            raise ValueError(
                f"expected max_steps to be a power of 2 from 2 on, found {self.max_steps}; the paper has 128"
            )

    def draw_times(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Draw (time, step) for each row: step 0 at any time, or a power of ½ at a multiple of itself."""
        uniform = torch.rand(3, batch, generator=generator, device=generator.device)
        levels = self.max_steps.bit_length() - 1
        step = 0.5 ** (uniform[0] * levels).floor()
        multiple = ((uniform[1] / step).floor() + 1.0) * step
        flows = uniform[2] >= self.consistent
        return torch.where(flows, uniform[1], multiple), torch.where(flows, 0.0, step)

    @torch.no_grad()
    def target(
        self,
        step_velocity: StepVelocity,
        noisy: Float[Tensor, "batch *action"],
        velocity: Float[Tensor, "batch *action"],
        *,
        time: Float[Tensor, "batch"],
        step: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch *action"]:
        """Return what `step_velocity(noisy, time, step)` should be, as a constant.

        Where `step` is 0 that is `velocity`, the target of flow matching, `noise - actions`; elsewhere it is
        the mean of two half steps of `step_velocity`, which best is the moving average of the network.
        """
        half = step / 2
        asked = torch.where(half <= 1.0 / self.max_steps, 0.0, half)
        first = step_velocity(noisy, time, asked)
        second = step_velocity(noisy - per_row(half, noisy) * first, time - half, asked)
        return torch.where(per_row(step, noisy) == 0, velocity, (first + second) / 2)

    def generate(
        self, step_velocity: StepVelocity, noise: Float[Tensor, "batch *action"]
    ) -> Float[Tensor, "batch *action"]:
        """Carry noise from time 1 to actions at time 0 in `num_steps` steps, a power of 2."""
        x, one = noise, noise.new_ones(noise.shape[0])
        for step in range(self.num_steps):
            time = one * (1.0 - step / self.num_steps)
            x = x - step_velocity(x, time, one / self.num_steps) / self.num_steps
        return x
