"""Flow time as a vector of sines and cosines."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def time_embedding(
    time: Float[Tensor, "*batch"], width: int, *, shortest: float = 4e-3, longest: float = 4.0
) -> Float[Tensor, "*batch width"]:
    """Return `[sin | cos](2π · time / period)` for width / 2 periods in geometric progression, in float32.

    The phase reaches 1571 rad, where float32 has lost three digits; so it is computed in float64, as openpi's
    PyTorch port does (its JAX original uses float32; they differ by up to 7e-5).
    """
    exponent = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = shortest * (longest / shortest) ** exponent
    phase = 2.0 * math.pi * time.double()[..., None] / period
    return torch.cat([phase.sin(), phase.cos()], dim=-1).float()
