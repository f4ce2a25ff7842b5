"""The linear map keeps float32 weights whatever it computes in; the RMS norm is Gemma's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pizero.nn.layers import Linear, RMSNorm


@given(st.floats(-5, 5), st.integers(1, 40), st.integers(0, 99))
def test_rms_norm_is_its_formula(log_size: float, width: int, seed: int) -> None:
    """Down to 1e-5, where the mean square is far below epsilon, and up to 1e5."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, width)).astype(np.float32) * np.float32(10.0**log_size)
    norm = RMSNorm(width)
    torch.nn.init.normal_(norm.scale)
    exact = x.astype(np.float64)
    expected = (
        exact / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-6) * (1.0 + norm.scale.detach().numpy())
    )
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, rtol=2e-6, atol=1e-7)


def test_a_new_rms_norm_leaves_a_root_mean_square_of_one() -> None:
    root_mean_square = RMSNorm(64)(17.0 * torch.randn(5, 64)).square().mean(dim=-1).sqrt()
    torch.testing.assert_close(root_mean_square, torch.ones(5))


def test_rms_norm_of_bfloat16_rounds_once() -> None:
    x = (30.0 * torch.randn(4, 512)).bfloat16()
    norm = RMSNorm(512)
    torch.nn.init.normal_(norm.scale)
    rounded = norm(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, norm(x.float()).bfloat16(), atol=0, rtol=0)


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_linear_is_a_matrix_product(in_features: int, out_features: int, bias: bool) -> None:
    linear = Linear(in_features, out_features, bias=bias)
    if linear.bias is not None:
        torch.nn.init.normal_(linear.bias)
    x = torch.randn(2, 3, in_features)
    expected = np.einsum("abi,oi->abo", x.numpy(), linear.weight.detach().numpy())
    if linear.bias is not None:
        expected = expected + linear.bias.detach().numpy()
    np.testing.assert_allclose(linear(x).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_linear_computes_in_the_dtype_of_its_input_and_learns_in_float32(dtype: torch.dtype) -> None:
    linear = Linear(32, 8, bias=True)
    x = torch.randn(4, 32, dtype=dtype, requires_grad=True)
    y = linear(x)
    y.square().sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert x.grad.dtype == dtype
    for parameter in linear.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_a_step_too_small_for_bfloat16_is_not_lost() -> None:
    linear = Linear(1, 1)
    torch.nn.init.ones_(linear.weight)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1e-4)
    for _ in range(100):
        optimizer.zero_grad()
        linear(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    assert linear.weight.item() == pytest.approx(0.99, abs=1e-5)


def test_linear_starts_as_a_lecun_normal() -> None:
    linear = Linear(400, 300, bias=True)
    assert linear.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert linear.weight.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert linear.bias is not None
    assert not linear.bias.any()
    x = torch.randn(500, 400)
    assert linear(x).std().item() == pytest.approx(1.0, rel=0.05)
