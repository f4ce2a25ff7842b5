"""Classifier-free guidance: what a condition changes in a prediction, exaggerated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pizero.generative.process import Denoise


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Training that forgets the condition at times, and sampling that exaggerates it (Ho and Salimans 2022,
    arXiv 2207.12598, whose weight w is `scale - 1`).

    `dropout` is the probability that a training row loses its condition, `scale` the β of π*0.6 (arXiv
    2511.14759, where they are 0.3 and 1.5 to 2.5): at 0 the condition is ignored, at 1 obeyed, beyond 1
    exaggerated.
    """

    dropout: float = 0.3
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise ValueError(
                f"expected a dropout of the condition between 0 and 1, found {self.dropout}; π*0.6 has 0.3"
            )

    def keeps(self, batch: int, generator: torch.Generator) -> Bool[Tensor, "batch"]:
        """Draw which rows of a training batch keep their condition."""
        return torch.rand(batch, generator=generator, device=generator.device) >= self.dropout

    def guide(self, conditional: Denoise, unconditional: Denoise) -> Denoise:
        """Return the network that predicts `unconditional + scale · (conditional - unconditional)`.

        It serves every prediction that is an affine function of the score: noise, actions and velocity alike.
        At scale 1 it is the conditional network, and at 0 the other, each called alone.
        """
        if self.scale == 1.0:
            return conditional
        if self.scale == 0.0:
            return unconditional

        def guided(
            noisy: Float[Tensor, "batch horizon action_dim"], time: Float[Tensor, "batch"]
        ) -> Float[Tensor, "batch horizon action_dim"]:
            without = unconditional(noisy, time)
            return without + self.scale * (conditional(noisy, time) - without)

        return guided


def drop_condition(
    condition: Float[Tensor, "batch *feature"],
    nothing: Float[Tensor, "*feature"],
    keep: Bool[Tensor, "batch"],
) -> Float[Tensor, "batch *feature"]:
    """Return the condition with `nothing`, a learned or fixed stand-in, in the rows that do not keep it."""
    return torch.where(keep.view(-1, *[1] * nothing.dim()), condition, nothing.to(condition))
