"""Which noise of a minibatch goes with which actions: pairs that lie close make straighter flows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def naive_coupling(
    actions: Float[Tensor, "batch *action"], noise: Float[Tensor, "batch *action"]
) -> Float[Tensor, "batch *action"]:
    """Return the noise in the order that minimises the batch's `Σ ‖actions - noise‖²` (Tong et al. 2024,
    arXiv 2302.00482, section 3.2; Pooladian et al. 2023, arXiv 2304.14772).

    It is here for comparison, for it is wrong wherever actions depend on a condition: which noise a row gets
    then tells its condition, while at inference the noise is drawn without regard to it. For actions that are
    jointly normal with the condition, a policy trained so ignores the condition altogether.
    """
    return noise[_assignment(_affinity(actions, noise)).to(noise.device)]


@dataclass(frozen=True, kw_only=True)
class ConditionalCoupling:
    """Pairs of least `Σ ‖actions_i - noise_j‖² + condition_weight · ‖condition_i - condition_j‖²`, each noise
    having been drawn along with the condition of its row (Kerrigan et al. 2024, arXiv 2404.04240).

    As the weight grows, noise changes places only between rows of equal conditions, and what it tells about
    the condition vanishes; at 0 this is the naive coupling. The weight is in squared units of actions per
    squared unit of the condition.
    """

    condition_weight: float

    def __post_init__(self) -> None:
        if self.condition_weight < 0:
            raise ValueError(
                f"expected a condition_weight of at least 0, found {self.condition_weight}; with conditions "
                "and actions of unit variance, try 100"
            )

    def pair(
        self,
        actions: Float[Tensor, "batch *action"],
        noise: Float[Tensor, "batch *action"],
        condition: Float[Tensor, "batch *feature"],
    ) -> Float[Tensor, "batch *action"]:
        """Return the noise in the order of the actions that it goes with; actions and conditions stay."""
        likeness = _affinity(actions, noise) + self.condition_weight * _affinity(condition, condition)
        return noise[_assignment(likeness).to(noise.device)]


def _affinity(rows: Tensor, columns: Tensor) -> Tensor:
    """Return inner products; where every row and column is used once, `Σ ‖r - c‖²` is a constant minus twice
    their sum.
    """
    return rows.detach().double().flatten(1) @ columns.detach().double().flatten(1).T


def _assignment(likeness: Tensor) -> Tensor:
    """Return which column each row gets, so that the likeness of all pairs is the greatest."""
    _, columns = linear_sum_assignment(likeness.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns)
