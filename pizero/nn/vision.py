"""A small residual network that turns images into tokens, and learns from few of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pizero.nn.layers import Linear


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes of a residual image encoder.

    The stem reduces the image by `stem_stride`; stage i has `blocks[i]` blocks of `widths[i]` channels, and
    its first block reduces the image by `strides[i]`. The last stage's channels become `num_tokens` tokens.
    """

    image_size: int = 96
    stem_stride: int = 4
    widths: tuple[int, ...] = (32, 64, 64)
    blocks: tuple[int, ...] = (1, 2, 2)
    strides: tuple[int, ...] = (1, 2, 1)
    num_groups: int = 8
    num_tokens: int = 8


class Convolution(nn.Module):
    """A convolution without bias that keeps float32 weights and computes in the dtype of its input."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        deviation = (2.0 / (in_channels * size * size)) ** 0.5
        weight = torch.randn(out_channels, in_channels, size, size) * deviation
        self.weight = nn.Parameter(weight.to(memory_format=torch.channels_last))
        self.stride, self.padding = stride, (size - 1) // 2

    def forward(
        self, x: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image out down right"]:
        """Convolve; the grid shrinks by the stride."""
        return F.conv2d(x, self.weight.to(x.dtype), stride=self.stride, padding=self.padding)


class GroupNorm(nn.Module):
    """Group norm with statistics in float32."""

    def __init__(self, num_groups: int, channels: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.scale = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image channel height width"]:
        """Normalise each group of channels of each image."""
        return F.group_norm(x.float(), self.num_groups, self.scale.float(), self.bias.float()).to(x.dtype)


class ResidualBlock(nn.Module):
    """norm → ReLU → 3×3 convolution, twice, added to what the first ReLU gives (after He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_groups: int) -> None:
        super().__init__()
        self.first_norm = GroupNorm(num_groups, in_channels)
        self.first = Convolution(in_channels, out_channels, 3, stride)
        self.second_norm = GroupNorm(num_groups, out_channels)
        self.second = Convolution(out_channels, out_channels, 3)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = Convolution(in_channels, out_channels, 1, stride) if changes else nn.Identity()

    def forward(
        self, x: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image out down right"]:
        """Return the sum of the (resized) input and what two convolutions add to it."""
        active = F.relu(self.first_norm(x))
        return self.shortcut(active) + self.second(F.relu(self.second_norm(self.first(active))))


class SpatialSoftmax(nn.Module):
    """Where in the picture each channel is active: the expected position under a softmax of its map.

    Levine et al. (2016, section 5.1). It turns a few demonstrations into positions that hold for new scenes,
    which tokens of a grid do not. Returns per channel (x, y) in [-1, 1], and the channel's value expected
    there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.full((channels,), 5.0))

    def forward(self, x: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image channel 3"]:
        """Compute in float32."""
        height, width = x.shape[-2:]
        maps = x.float().flatten(2)
        weights = (maps * self.sharpness[:, None]).softmax(dim=-1)
        down = torch.linspace(-1.0, 1.0, height, device=x.device)[:, None].expand(height, width)
        right = torch.linspace(-1.0, 1.0, width, device=x.device)[None].expand(height, width)
        positions = weights @ torch.stack([right.flatten(), down.flatten()], dim=-1)
        return torch.cat([positions, (weights * maps).sum(dim=-1, keepdim=True)], dim=-1)


class ResNet(nn.Module):
    """Stem → stages of residual blocks → positions of the last channels → tokens."""

    def __init__(self, config: ResNetConfig, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.stem = Convolution(3, config.widths[0], 2 * config.stem_stride - 1, config.stem_stride)
        blocks, channels = [], config.widths[0]
        for width, num_blocks, stage_stride in zip(config.widths, config.blocks, config.strides, strict=True):
            for index in range(num_blocks):
                blocks.append(
                    ResidualBlock(channels, width, stage_stride if index == 0 else 1, config.num_groups)
                )
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.final_norm = GroupNorm(config.num_groups, channels)
        self.positions = SpatialSoftmax(channels)
        self.head = Linear(3 * channels, config.num_tokens * out_width, bias=True)

    def forward(
        self, images: UInt8[Tensor, "image 3 height width"], dtype: torch.dtype
    ) -> Float[Tensor, "image token out_width"]:
        """Encode images, scaled here from 0…255 to [-1, 1]; convolutions in `dtype`, positions in float32."""
        pixels = (images.to(dtype) / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)
        features = self.final_norm(self.blocks(self.stem(pixels)))
        tokens = self.head(self.positions(features).flatten(1))
        return tokens.unflatten(-1, (self.config.num_tokens, -1)).to(dtype)
