"""Flow matching: noise becomes actions along straight lines.

Time runs from 1 (noise) to 0 (actions) everywhere in this project, as in openpi, so that its weights fit; the
π0 paper writes it the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from pizero.generative.process import Denoise
from pizero.generative.solvers import NUM_STAGES, Solver, solve
from pizero.generative.times import BetaTime, TimeDensity


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """The straight path `x_t = t · noise + (1 - t) · actions`, whose velocity is `noise - actions` (Lipman et
    al. 2023, arXiv 2210.02747, equation 22, with time reversed; π0 paper, section IV).
    """

    time: TimeDensity = field(default_factory=BetaTime)
    num_steps: int = 10
    solver: Solver = "euler"

    @property
    def num_evaluations(self) -> int:
        """Return how often `generate` calls the network."""
        return self.num_steps * NUM_STAGES[self.solver]

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

    def noise_shape(self, horizon: int, action_dim: int) -> tuple[int, ...]:
        """Return the shape of the noise that one chunk is made from: the chunk's own."""
        return (horizon, action_dim)

    def generate(
        self, denoise: Denoise, noise: Float[Tensor, "batch horizon action_dim"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Carry noise from time 1 to actions at time 0 in `num_steps` steps of the solver."""
        return solve(denoise, noise, solver=self.solver, num_steps=self.num_steps)
