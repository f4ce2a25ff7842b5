"""Solvers of `dx/dt = velocity(x, t)` from time 1 to time 0."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def euler(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Float[Tensor, "batch *shape"], *, num_steps: int
) -> Float[Tensor, "batch *shape"]:
    """Take `num_steps` equal steps `x ← x - velocity(x, t) / num_steps`, from t = 1 down to t = 1 /
    num_steps.

    Time is accumulated in float32, as in openpi: the time embedding's fastest phase tells the last bit.
    """
    if num_steps < 1:
        raise ValueError(
            f"expected at least one solver step, found num_steps={num_steps}; the usual number is 10"
        )
    time = torch.ones(x.shape[0], dtype=torch.float32, device=x.device)
    for _ in range(num_steps):
        x = x - velocity(x, time) / num_steps
        time = time - 1.0 / num_steps
    return x
