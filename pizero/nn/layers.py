"""The layers that every transformer here is made of: a linear map and RMS norms, with explicit precision."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Module):
    """`x @ weight.T + bias`, computed in the dtype of `x`: float32 master weights serve bfloat16 activations.

    The weight `[out, in]` starts as a LeCun normal (variance 1 / in), the bias at zero.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / math.sqrt(in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """Map the last axis; weights are cast to the dtype of `x`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x²) + 1e-6) · (1 + scale)` over the last axis, in float32 (Gemma's form, scale starts at
    0).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise the last axis; the result has the dtype of `x`."""
        return F.rms_norm(x.float(), self.scale.shape, 1.0 + self.scale.float(), eps=1e-6).to(x.dtype)


class AdaptiveRMSNorm(nn.Module):
    """An RMS norm whose scale, shift and residual gate are linear in a condition (π0.5's "adaRMS").

    `y = x / sqrt(mean(x²) + 1e-6) · (1 + scale) + shift`, in float32. All three start at zero: a gate of zero
    shuts the branch that follows. A condition is of a whole row, or of each of its tokens.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.modulation = Linear(condition_width, 3 * width, bias=True)
        nn.init.zeros_(self.modulation.weight)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        condition: Float[Tensor, "batch condition_width"] | Float[Tensor, "batch token condition_width"],
    ) -> tuple[
        Float[Tensor, "batch token width"],
        Float[Tensor, "batch 1 width"] | Float[Tensor, "batch token width"],
    ]:
        """Return the normalised tokens and the gate, both in the dtype of `x`."""
        modulation = self.modulation(condition.to(x.dtype))
        if condition.dim() == 2:
            modulation = modulation[:, None]
        scale, shift, gate = modulation.chunk(3, dim=-1)
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=1e-6)
        return (normed * (1.0 + scale.float()) + shift.float()).to(x.dtype), gate
