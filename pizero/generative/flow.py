"""Flow matching: noise becomes actions along straight lines.

Time runs from 1 (noise) to 0 (actions) everywhere in this project, as in openpi, so that its weights fit; the
π0 paper writes it the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.solvers import euler

Denoise = Callable[[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch"]], Tensor]
"""A network with its observation bound: (noisy actions, time) → predicted velocity."""


@dataclass(frozen=True, kw_only=True)
class BetaTime:
    """Training times `low + (1 - low) · Beta(alpha, 1)`: mostly noisy times (π0 paper, appendix B)."""

    alpha: float = 1.5
    low: float = 0.001

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch"]:
        """Draw one time per row: Beta(alpha, 1) has the distribution function t^alpha, here inverted."""
        uniform = torch.rand(batch, generator=generator, device=generator.device)
        return self.low + (1.0 - self.low) * uniform ** (1.0 / self.alpha)


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """The straight path `x_t = t · noise + (1 - t) · actions`, whose velocity is `noise - actions`."""

    time: BetaTime = field(default_factory=BetaTime)
    num_steps: int = 10

    def corrupt(
        self,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        noise: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon action_dim"]]:
        """Return the noisy actions at `time`, and the velocity that a network should predict there."""
        t = time[:, None, None]
        return t * noise + (1.0 - t) * actions, noise - actions

    def generate(
        self, denoise: Denoise, noise: Float[Tensor, "batch horizon action_dim"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Carry noise from time 1 to actions at time 0 in `num_steps` Euler steps."""
        return euler(denoise, noise, num_steps=self.num_steps)
