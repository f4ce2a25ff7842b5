"""Both image encoders read the same pictures in the same way, and give the tokens that their config names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pizero.nn.siglip import SigLIP, SigLIPConfig
from pizero.nn.vision import GroupNorm, ResNet, ResNetConfig, SpatialSoftmax

SIGLIP = SigLIPConfig(width=16, depth=1, mlp_dim=24, num_heads=4, patch_size=8, image_size=32)
RESNET = ResNetConfig(
    image_size=32, stem_stride=4, widths=(8, 16), blocks=(1, 2), strides=(1, 2), num_groups=4, num_tokens=5
)


def pictures(num_images: int, size: int) -> Tensor:
    return torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8)


def seen_by(encoder: nn.Module, first_layer: nn.Module, images: Tensor) -> Tensor:
    """Return what an encoder's first layer reads."""
    seen: list[Tensor] = []
    handle = first_layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(images, torch.float32)
    handle.remove()
    return seen[0]


def test_both_encoders_scale_pictures_alike() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    siglip, resnet = SigLIP(SIGLIP, 6), ResNet(RESNET, 6)
    expected = images.double() / 255.0 * 2.0 - 1.0
    assert expected.min() == -1.0
    assert expected.max() == 1.0
    for seen in (seen_by(siglip, siglip.patches, images), seen_by(resnet, resnet.stem, images)):
        torch.testing.assert_close(seen.double(), expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, 5])
@pytest.mark.parametrize("size", [32, 45])
def test_resnet_gives_as_many_tokens_as_its_config_says(
    size: int, num_tokens: int, dtype: torch.dtype
) -> None:
    config = ResNetConfig(
        image_size=size, widths=(8, 16), blocks=(1, 1), strides=(1, 2), num_groups=4, num_tokens=num_tokens
    )
    tokens = ResNet(config, 6)(pictures(3, size), dtype)
    assert tokens.shape == (3, num_tokens, 6)
    assert tokens.dtype == dtype
    assert tokens.isfinite().all()


@pytest.mark.parametrize("encoder", [SigLIP(SIGLIP, 6), ResNet(RESNET, 6)], ids=["siglip", "resnet"])
def test_pictures_of_a_batch_do_not_mix(encoder: SigLIP | ResNet) -> None:
    images = pictures(3, 32)
    together = encoder(images, torch.float32)
    torch.testing.assert_close(encoder(images[1:2], torch.float32), together[1:2], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("encoder", [SigLIP(SIGLIP, 6), ResNet(RESNET, 6)], ids=["siglip", "resnet"])
def test_every_weight_of_an_encoder_learns_in_float32(encoder: SigLIP | ResNet) -> None:
    encoder(pictures(2, 32), torch.bfloat16).float().square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.any(), name


def test_siglip_tokens_are_patches_row_by_row() -> None:
    """Without layers, a patch reaches one token: that of its row and column."""
    encoder = SigLIP(SigLIPConfig(width=16, depth=0, mlp_dim=24, num_heads=4, patch_size=8, image_size=32), 6)
    assert encoder.config.num_tokens == 16
    image = pictures(1, 32)
    before = encoder(image, torch.float32)
    for row, column in [(0, 0), (0, 3), (2, 1)]:
        changed = image.clone()
        changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] ^= 128
        moved = (encoder(changed, torch.float32) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [4 * row + column]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_group_norm_is_its_formula(num_groups: int, channels_per_group: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels = num_groups * channels_per_group
    x = rng.normal(3.0, 2.0, size=(2, channels, 3, 5)).astype(np.float32)
    norm = GroupNorm(num_groups, channels)
    torch.nn.init.normal_(norm.scale)
    torch.nn.init.normal_(norm.bias)
    groups = x.astype(np.float64).reshape(2, num_groups, -1)
    normed = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    scale, bias = (parameter.detach().numpy()[:, None, None] for parameter in (norm.scale, norm.bias))
    expected = normed.reshape(x.shape) * scale + bias
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)
    assert norm(torch.from_numpy(x).bfloat16()).dtype == torch.bfloat16


@given(st.integers(0, 5), st.integers(0, 7), st.floats(40, 80))
def test_spatial_softmax_finds_a_peak(row: int, column: int, height: float) -> None:
    """One bright cell in a map of 6 x 8: its place, (-1, -1) at the top left, and its value."""
    maps = torch.zeros(1, 2, 6, 8)
    maps[0, 1, row, column] = height
    flat, peak = SpatialSoftmax(2)(maps)[0]
    expected = torch.tensor([2.0 * column / 7 - 1.0, 2.0 * row / 5 - 1.0, height])
    torch.testing.assert_close(peak, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(flat, torch.zeros(3), atol=1e-6, rtol=0)
