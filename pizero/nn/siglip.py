"""SigLIP, the vision transformer of PaliGemma: image patches in, tokens of the language model's width out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pizero.nn.layers import Linear


@dataclass(frozen=True, kw_only=True)
class SigLIPConfig:
    """Sizes of a SigLIP; the defaults are So400m/14 at 224 pixels, which gives 256 tokens an image."""

    width: int = 1152
    depth: int = 27
    mlp_dim: int = 4304
    num_heads: int = 16
    patch_size: int = 14
    image_size: int = 224

    @property
    def num_tokens(self) -> int:
        """Return how many tokens one image becomes."""
        return (self.image_size // self.patch_size) ** 2


class LayerNorm(nn.Module):
    """Layer norm with scale and bias, statistics in float32, epsilon 1e-6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise the last axis; the result has the dtype of `x`."""
        return F.layer_norm(x.float(), self.scale.shape, self.scale.float(), self.bias.float(), 1e-6).to(
            x.dtype
        )


class Patches(nn.Module):
    """A linear map of each square of pixels to a token, in float32 whatever its weights are stored in."""

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.weight = nn.Parameter(torch.randn(config.width, 3, size, size) / (3 * size * size) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.size = size

    def forward(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image token out"]:
        """Return the tokens row by row."""
        patches = F.conv2d(pixels, self.weight.float(), self.bias.float(), stride=self.size)
        return patches.flatten(2).transpose(1, 2)


class SigLIPLayer(nn.Module):
    """Pre-norm self-attention and a tanh-GELU feed-forward, each added to the residual stream."""

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = LayerNorm(config.width)
        self.query = Linear(config.width, config.width, bias=True)
        self.key = Linear(config.width, config.width, bias=True)
        self.value = Linear(config.width, config.width, bias=True)
        self.output = Linear(config.width, config.width, bias=True)
        self.feed_forward_norm = LayerNorm(config.width)
        self.up = Linear(config.width, config.mlp_dim, bias=True)
        self.down = Linear(config.mlp_dim, config.width, bias=True)

    def forward(self, hidden: Float[Tensor, "image token width"]) -> Float[Tensor, "image token width"]:
        """Let all patches of an image see each other."""
        normed = self.attention_norm(hidden)
        heads = [
            projection(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        ]
        hidden = hidden + self.output(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2))
        wide = F.gelu(self.up(self.feed_forward_norm(hidden)), approximate="tanh")
        return hidden + self.down(wide)


class SigLIP(nn.Module):
    """Patches → transformer → a linear head to `out_width`. Image tokens are not scaled (openpi's
    convention).
    """

    def __init__(self, config: SigLIPConfig, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.patches = Patches(config)
        self.position_embedding = nn.Parameter(
            torch.randn(config.num_tokens, config.width) * config.width**-0.5
        )
        self.layers = nn.ModuleList(SigLIPLayer(config) for _ in range(config.depth))
        self.final_norm = LayerNorm(config.width)
        self.head = Linear(config.width, out_width, bias=True)

    def forward(
        self, images: UInt8[Tensor, "image 3 height width"], dtype: torch.dtype
    ) -> Float[Tensor, "image token out_width"]:
        """Encode images, scaled here from 0…255 to [-1, 1]; patches in float32, layers in `dtype`."""
        pixels = images.float() / 255.0 * 2.0 - 1.0
        hidden = self.patches(pixels) + self.position_embedding
        hidden = hidden.to(dtype)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(self.final_norm(hidden))
