"""Actions whose distribution is a mixture of normals: every expectation and every flow of theirs is known.

With actions a from component k, standard normal noise ε and x = α a + σ ε, x given k is normal with mean
α m_k and variance V_k = α² s_k² + σ². Of jointly normal variables the conditional mean is linear, so
E[a | x, k] = m_k + α s_k² / V_k · (x - α m_k) and E[ε | x, k] = σ / V_k · (x - α m_k); over components these
are averaged with the probability of k given x. A flow of one dimension keeps the order of points, so it
carries each quantile of the noisy distribution to the same quantile of the actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]

    def expected(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[actions | x] and E[noise | x]; α and σ are one number per row."""
        shape = [-1, *[1] * x.dim()]
        alpha, sigma = alpha.double().view(shape), sigma.double().view(shape)
        means, deviations, weights = (
            torch.tensor(values, dtype=torch.float64)
            for values in (self.means, self.deviations, self.weights)
        )
        variance = alpha**2 * deviations**2 + sigma**2
        away = x.double()[..., None] - alpha * means
        probability = torch.softmax(weights.log() - away**2 / (2 * variance) - variance.log() / 2, dim=-1)
        actions = means + alpha * deviations**2 / variance * away
        noise = sigma / variance * away
        return (probability * actions).sum(-1), (probability * noise).sum(-1)

    def velocity(self, x: Tensor, time: Tensor) -> Tensor:
        """Return E[ε - a | x] on the straight path."""
        actions, noise = self.expected(x, 1 - time, time)
        return noise - actions

    def draw(self, count: int) -> Tensor:
        which = torch.multinomial(torch.tensor(self.weights), count, replacement=True)
        means, deviations = torch.tensor(self.means).double(), torch.tensor(self.deviations).double()
        return (means[which] + deviations[which] * torch.randn(count, dtype=torch.float64))[:, None, None]

    def cdf(self, x: np.ndarray, alpha: float = 1.0, sigma: float = 0.0) -> np.ndarray:
        """Return the probability that α a + σ ε is at most x."""
        parts = zip(self.means, self.deviations, self.weights, strict=True)
        return sum(
            (w * scipy.stats.norm.cdf(x, alpha * m, np.hypot(alpha * s, sigma)) for m, s, w in parts),
            np.zeros_like(x),
        )

    def flow(
        self,
        x: Tensor,
        *,
        start: tuple[float, float] = (0.0, 1.0),
        end: tuple[float, float] = (1.0, 0.0),
    ) -> Tensor:
        """Return where the flow carries x; `start` and `end` are (α, σ) there."""

        def carried(probability: float) -> float:
            def excess(y: float) -> float:
                return float(self.cdf(np.array(y), *end)) - probability

            return float(scipy.optimize.brentq(excess, -50, 50, xtol=1e-13))  # pyright: ignore

        probabilities = self.cdf(x.double().numpy().ravel(), *start)
        return torch.tensor([carried(p) for p in probabilities], dtype=torch.float64).view_as(x)


def normal_flow(x: Tensor, time: Tensor, end: Tensor, *, mean: float, deviation: float) -> Tensor:
    """Return where the straight path's flow carries x from `time` to `end`, for normal actions.

    There x_t is normal with mean (1 - t) m and variance t² + (1 - t)² s²; a flow of one dimension keeps the
    standardised x.
    """
    t, r = (values.view(-1, *[1] * (x.dim() - 1)) for values in (time, end))
    here, there = (torch.sqrt(u**2 + (1 - u) ** 2 * deviation**2) for u in (t, r))
    return (1 - r) * mean + there / here * (x - (1 - t) * mean)


NORMAL = Mixture((0.7,), (0.3,), (1.0,))
WIDE = Mixture((-1.5,), (2.5,), (1.0,))
TWO_MODES = Mixture((-1.0, 0.8), (0.3, 0.5), (0.4, 0.6))
MIXTURES = [NORMAL, WIDE, TWO_MODES]


def grid(low: float = -2.5, high: float = 2.5, count: int = 11) -> Tensor:
    """Return evenly spaced noise, `[count, 1, 1]`."""
    return torch.linspace(low, high, count, dtype=torch.float64)[:, None, None]
