"""Low-rank adapters: linear maps that keep their weight and learn a product of two thin matrices beside it.

Hu et al. (2021), in the form that openpi gives them: each attention head has matrices of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pizero.nn.layers import Linear


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Ranks of the adapters of one Gemma; attention's are scaled by `attention_alpha / attention_rank`.

    openpi scales the adapters of attention alone; its published variants have rank 16 (2B) and 32 (300M).
    """

    attention_rank: int
    attention_alpha: float
    feed_forward_rank: int


class LoRAIntoHeads(Linear):
    """`x @ weight.T` plus, for each head n, `scale · (x A_n) B_n`; a plain adapter has one head.

    `lora_a` is `[head, rank, in]`, `lora_b` is `[head, head_dim, rank]`; a fresh adapter is small, but not
    nothing.
    """

    def __init__(
        self, in_features: int, out_features: int, *, rank: int, scale: float = 1.0, num_heads: int = 1
    ) -> None:
        super().__init__(in_features, out_features)
        self.lora_a = nn.Parameter(draw_adapter((num_heads, rank, in_features)))
        self.lora_b = nn.Parameter(draw_adapter((num_heads, out_features // num_heads, rank)))
        self.scale = scale

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """Map the last axis."""
        thin = torch.einsum("...i,hri->...hr", x, self.lora_a.to(x.dtype))
        low_rank = torch.einsum("...hr,hdr->...hd", thin, self.lora_b.to(x.dtype)).flatten(-2)
        return super().forward(x) + self.scale * low_rank

    def merged(self) -> Float[Tensor, "out_features in_features"]:
        """Return the weight of the plain linear map that computes the same, in the weight's dtype."""
        delta = self.scale * into_heads_delta(self.lora_a.float(), self.lora_b.float())
        return (self.weight.float() + delta).to(self.weight.dtype)


class LoRAOutOfHeads(Linear):
    """`x @ weight.T + scale · (Σₙ xₙ Aₙ)(Σₙ Bₙ)` over heads n: what openpi's output projection computes.

    Both sums stand before the product, so the heads share one low-rank map; only weights made with it explain
    themselves. `lora_a` is `[head, rank, head_dim]`, `lora_b` is `[head, out, rank]`.
    """

    def __init__(
        self, in_features: int, out_features: int, *, rank: int, num_heads: int, scale: float = 1.0
    ) -> None:
        super().__init__(in_features, out_features)
        self.lora_a = nn.Parameter(draw_adapter((num_heads, rank, in_features // num_heads)))
        self.lora_b = nn.Parameter(draw_adapter((num_heads, out_features, rank)))
        self.scale = scale

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """Map the last axis, on which the heads lie one after the other."""
        into = self.lora_a.transpose(0, 1).flatten(1)
        low_rank = F.linear(F.linear(x, into.to(x.dtype)), self.lora_b.sum(dim=0).to(x.dtype))
        return super().forward(x) + self.scale * low_rank

    def merged(self) -> Float[Tensor, "out_features in_features"]:
        """Return the weight of the plain linear map that computes the same, in the weight's dtype."""
        delta = self.scale * out_of_heads_delta(self.lora_a.float(), self.lora_b.float())
        return (self.weight.float() + delta).to(self.weight.dtype)


def into_heads_delta(
    lora_a: Float[Tensor, "head rank in_features"], lora_b: Float[Tensor, "head head_dim rank"]
) -> Float[Tensor, "out_features in_features"]:
    """Return what an adapter into heads adds to the weight, before its scale."""
    return (lora_b @ lora_a).flatten(0, 1)


def out_of_heads_delta(
    lora_a: Float[Tensor, "head rank head_dim"], lora_b: Float[Tensor, "head out_features rank"]
) -> Float[Tensor, "out_features in_features"]:
    """Return what an adapter out of heads adds to the weight, before its scale."""
    return lora_b.sum(dim=0) @ lora_a.transpose(0, 1).flatten(1)


def draw_adapter(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Return fresh weights of an adapter: normals of deviation 0.01, in both matrices (openpi)."""
    return torch.randn(shape, generator=generator) * 0.01


def is_adapter(name: str) -> bool:
    """Return whether a weight of that name belongs to an adapter."""
    return name.rpartition(".")[2] in ("lora_a", "lora_b")


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights as those of the same model without adapters, under its names."""
    weights = {name: weight for name, weight in model.state_dict().items() if not is_adapter(name)}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoRAIntoHeads | LoRAOutOfHeads):
                weights[f"{name}.weight"] = module.merged()
    return weights
