"""What every way from noise to actions can do, whichever path it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from pizero.generative.times import TimeDensity

Time = Float[Tensor, "batch"] | Float[Tensor, "batch horizon"]
"""The time of each chunk of a batch, or of each of its actions (see `chunking.py`)."""

Denoise = Callable[[Float[Tensor, "batch horizon action_dim"], Time], Tensor]
"""A network with its observation bound: (noisy actions, time) → prediction of the process's target."""


@runtime_checkable
class Process(Protocol):
    """A path between noise at time 1 and actions at time 0, what a network learns on it, and the way back."""

    @property
    def time(self) -> TimeDensity:
        """Return how often each time is trained at."""
        ...

    @property
    def num_evaluations(self) -> int:
        """Return how often `generate` calls the network."""
        ...

    def corrupt(
        self,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        noise: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon action_dim"]]:
        """Return the noisy actions at `time`, and what a network should predict there."""
        ...

    def noise_shape(self, horizon: int, action_dim: int) -> tuple[int, ...]:
        """Return the shape of the standard normal noise that `generate` makes one chunk from."""
        ...

    def generate(
        self, denoise: Denoise, noise: Float[Tensor, "batch *noise_shape"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Carry standard normal noise to actions; the same noise always gives the same actions."""
        ...


def per_row(values: Float[Tensor, "batch"], like: Float[Tensor, "batch *shape"]) -> Tensor:
    """Return one number per row in the dtype of `like`, shaped to multiply it."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
