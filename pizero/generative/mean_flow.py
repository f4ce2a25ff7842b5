"""MeanFlow: a network that knows the average velocity over a stretch of time crosses it in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.process import per_row
from pizero.generative.times import LogitNormalTime, TimeDensity

MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A network with its observation bound: (noisy actions, time, end) → mean velocity from `time` to `end`,
which is the earlier, less noisy time.
"""


@dataclass(frozen=True, kw_only=True)
class MeanFlow:
    """Learns `u(x, t, r)`, the mean of the velocity along the flow from time t down to r (Geng et al. 2025,
    arXiv 2505.13447, whose time also is 1 for noise).

    Differentiating `(t - r) u = ∫ v` along the flow gives the identity `u = v - (t - r) du/dt` (equation 6),
    in which du/dt = v · ∂u/∂x + ∂u/∂t with r fixed. A share `equal` of the rows has r = t, where u is the
    velocity itself. Defaults are the paper's best (table 1), but for `difference`.

    With `difference`, du/dt is a central difference over that much time on either side instead of a
    derivative in forward mode, which some attention kernels do not have.
    """

    time: TimeDensity = field(default_factory=lambda: LogitNormalTime(mean=-0.4, std=1.0))
    equal: float = 0.75
    power: float = 1.0
    offset: float = 1e-3
    num_steps: int = 1
    difference: float | None = None

    def draw_times(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Draw (time, end) for each row, `end` ≤ `time`: two draws from the density, sorted."""
        first, second = self.time.sample(batch, generator), self.time.sample(batch, generator)
        time = torch.maximum(first, second)
        same = torch.rand(batch, generator=generator, device=generator.device) < self.equal
        return time, torch.where(same, time, torch.minimum(first, second))

    @torch.no_grad()
    def target(
        self,
        mean_velocity: MeanVelocity,
        noisy: Float[Tensor, "batch *action"],
        velocity: Float[Tensor, "batch *action"],
        *,
        time: Float[Tensor, "batch"],
        end: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch *action"]:
        """Return what `mean_velocity(noisy, time, end)` should be, as a constant: `velocity - (time - end) ·
        du/dt` (equation 10); `velocity` is the target of flow matching, `noise - actions`.
        """
        if self.difference is None:
            ones = torch.ones_like(time)
            derivative = torch.func.jvp(
                lambda x, t: mean_velocity(x, t, end), (noisy, time), (velocity, ones)
            )[1]
        else:
            later, earlier = (
                mean_velocity(noisy + span * velocity, time + span, end)
                for span in (self.difference, -self.difference)
            )
            derivative = (later - earlier) / (2 * self.difference)
        return velocity - per_row(time - end, noisy) * derivative

    def error(
        self, prediction: Float[Tensor, "batch *action"], target: Float[Tensor, "batch *action"]
    ) -> Float[Tensor, "batch"]:
        """Return `‖Δ‖² / (‖Δ‖² + offset)^power` for each row, the divisor taken as a constant (section 4.3):
        at power 1 all errors weigh about the same.
        """
        squared = (prediction - target).flatten(1).square().sum(dim=-1)
        return squared / (squared.detach() + self.offset) ** self.power

    def generate(
        self, mean_velocity: MeanVelocity, noise: Float[Tensor, "batch *action"]
    ) -> Float[Tensor, "batch *action"]:
        """Carry noise from time 1 to actions at time 0 in `num_steps` steps `x ← x - (t - r) u(x, t, r)`
        (equation 12).
        """
        x, one = noise, noise.new_ones(noise.shape[0])
        for step in range(self.num_steps):
            time, end = one * (1.0 - step / self.num_steps), one * (1.0 - (step + 1) / self.num_steps)
            x = x - per_row(time - end, x) * mean_velocity(x, time, end)
        return x
