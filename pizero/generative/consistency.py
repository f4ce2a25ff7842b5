"""Consistency distillation: a network that jumps from any point of a teacher's path to the path's end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.process import Denoise, per_row
from pizero.generative.solvers import HEUN, Velocity


@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation:
    """Learns `f(x, t)`, the actions to which a teacher's flow leads from x at time t (Song et al. 2023, arXiv
    2303.01469, section 4).

    All points of one path share one end, so f must agree at both ends of a stretch of path, of length
    `1 / num_intervals`, that the teacher crosses in one step of Heun's method. The network predicts a mean
    velocity down to time 0, `f(x, t) = x - t · network(x, t)`, whence f(x, 0) = x, which the paper has
    from its equation 5.
    """

    num_intervals: int = 18

    def __post_init__(self) -> None:
        if self.num_intervals < 1:
            raise ValueError(
                f"expected at least one interval, found num_intervals={self.num_intervals}; the paper has 18"
            )

    def jump(
        self, network: Denoise, noisy: Float[Tensor, "batch *action"], time: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch *action"]:
        """Return the actions at the end of the path through `noisy` at `time`."""
        return noisy - per_row(time, noisy) * network(noisy, time)

    def draw_times(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Draw (time, end) for each row: the two ends of one of the equal intervals, each as likely."""
        index = torch.randint(self.num_intervals, (batch,), generator=generator, device=generator.device)
        return (index + 1.0) / self.num_intervals, index.float() / self.num_intervals

    @torch.no_grad()
    def target(
        self,
        network: Denoise,
        teacher: Velocity,
        noisy: Float[Tensor, "batch *action"],
        *,
        time: Float[Tensor, "batch"],
        end: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch *action"]:
        """Return what `jump(student, noisy, time)` should be, as a constant (algorithm 2): the jump of
        `network`, best the moving average of the student, from where the teacher is at `end`.
        """
        return self.jump(network, HEUN.step(teacher, noisy, start=time, end=end), end)

    def generate(
        self, network: Denoise, noise: Float[Tensor, "batch *action"]
    ) -> Float[Tensor, "batch *action"]:
        """Carry noise to actions in one jump from time 1."""
        return self.jump(network, noise, noise.new_ones(noise.shape[0]))
