"""How often each time is trained at: densities of the time, which runs from 1 (noise) to 0 (actions)."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class UniformTime:
    """Training times that are equally likely between `low` and `high`."""

    low: float = 0.0
    high: float = 1.0

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch"]:
        """Draw one time per row."""
        uniform = torch.rand(batch, generator=generator, device=generator.device)
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True, kw_only=True)
class BetaTime:
    """Training times `low + (1 - low) · Beta(alpha, beta)`; the defaults are π0's, mostly noisy times (π0
    paper, appendix B).
    """

    alpha: float = 1.5
    beta: float = 1.0
    low: float = 0.001

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch"]:
        """Draw one time per row by inverting the distribution function, which for beta = 1 is t^alpha."""
        if self.alpha <= 0 or self.beta <= 0:
            raise ValueError(
                f"expected a Beta density with alpha and beta above 0, found {self.alpha} and {self.beta}; "
                "π0's are 1.5 and 1"
            )
        uniform = torch.rand(batch, generator=generator, device=generator.device)
        if self.beta == 1.0:
            return self.low + (1.0 - self.low) * uniform ** (1.0 / self.alpha)
        inverse = scipy.special.betaincinv(self.alpha, self.beta, uniform.double().cpu().numpy())
        return self.low + (1.0 - self.low) * torch.from_numpy(inverse).to(uniform)


@dataclass(frozen=True, kw_only=True)
class LogitNormalTime:
    """Training times `sigmoid(mean + std · z)` with z standard normal: mostly times in the middle (Esser et
    al. 2024, arXiv 2403.03206, equation 19).
    """

    mean: float = 0.0
    std: float = 1.0

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch"]:
        """Draw one time per row."""
        normal = torch.randn(batch, generator=generator, device=generator.device)
        return torch.sigmoid(self.mean + self.std * normal)


TimeDensity = BetaTime | UniformTime | LogitNormalTime
