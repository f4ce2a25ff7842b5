"""Guidance against normal actions of equal deviation, whose guided flow leads to a normal again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from pizero.generative.guidance import Guidance, drop_condition
from tests.generative.closed_forms import Mixture, grid

DEVIATION, ANY, ASKED = 0.4, -0.3, 0.9


def normal(mean: float) -> Mixture:
    return Mixture((mean,), (DEVIATION,), (1.0,))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 2.0, 2.5])
def test_the_guided_flow_moves_the_mean_by_the_scale(scale: float) -> None:
    """Both velocities differ by a multiple of the means' difference, so the guided flow is that of a normal
    with mean `any + scale · (asked - any)` and the same deviation.
    """
    guided = Guidance(scale=scale).guide(normal(ASKED).velocity, normal(ANY).velocity)
    actions = FlowMatching(solver="rk4", num_steps=32).generate(guided, grid())
    expected = ANY + scale * (ASKED - ANY) + DEVIATION * grid()
    torch.testing.assert_close(actions, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prediction", ["noise", "sample", "velocity"])
def test_guided_diffusion_is_the_diffusion_of_the_moved_normal(prediction) -> None:
    process = Diffusion(prediction=prediction, num_steps=7)

    def network(mean: float):
        def denoise(noisy: Tensor, time: Tensor) -> Tensor:
            signal = process.signal(time)
            alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
            actions, noise = normal(mean).expected(noisy, alpha, sigma)
            velocity = alpha[:, None, None] * noise - sigma[:, None, None] * actions
            return {"noise": noise, "sample": actions, "velocity": velocity}[prediction]

        return denoise

    guided = Guidance(scale=2.0).guide(network(ASKED), network(ANY))
    expected = process.generate(network(ANY + 2.0 * (ASKED - ANY)), grid())
    torch.testing.assert_close(process.generate(guided, grid()), expected, atol=1e-9, rtol=0)


def test_at_scales_one_and_zero_one_network_is_called_alone() -> None:
    def refuse(noisy: Tensor, time: Tensor) -> Tensor:
        raise AssertionError("called")

    def network(noisy: Tensor, time: Tensor) -> Tensor:
        return noisy.sin()

    x, time = torch.randn(2, 3, 1), torch.rand(2)
    assert torch.equal(Guidance(scale=1.0).guide(network, refuse)(x, time), x.sin())
    assert torch.equal(Guidance(scale=0.0).guide(refuse, network)(x, time), x.sin())
    with pytest.raises(AssertionError, match="called"):
        Guidance(scale=1.5).guide(network, refuse)(x, time)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.3, 1.0])
def test_the_condition_is_dropped_as_often_as_asked(dropout: float) -> None:
    keeps = Guidance(dropout=dropout).keeps(10_000, torch.Generator().manual_seed(0))
    five_errors = 5 * math.sqrt(dropout * (1 - dropout) / 10_000)
    assert abs((~keeps).double().mean().item() - dropout) <= five_errors
    again = Guidance(dropout=dropout).keeps(10_000, torch.Generator().manual_seed(0))
    assert torch.equal(keeps, again)


def test_a_policy_trained_with_dropout_knows_the_mean_with_and_without_the_condition() -> None:
    """Least squares on one-hot conditions at time 1, where x is noise alone: the best prediction of `noise -
    actions` apart from x is minus the mean action, given the condition or, in the third column, not.
    """
    generator, count = torch.Generator().manual_seed(0), 20_000
    label = torch.randint(2, (count,), generator=generator)
    condition = torch.nn.functional.one_hot(label, 3).double()
    actions = torch.where(label == 1, 3.0, -1.0).double()[:, None, None]
    noise = torch.randn(count, 1, 1, generator=generator, dtype=torch.float64)
    noisy, target = FlowMatching().corrupt(actions, noise=noise, time=torch.ones(count).double())
    nothing = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    shown = drop_condition(condition, nothing, Guidance(dropout=0.3).keeps(count, generator))
    design = torch.cat([shown, noisy[:, 0]], dim=-1)
    fitted = torch.linalg.lstsq(design, target[:, 0]).solution.flatten()
    expected = torch.tensor([1.0, -3.0, -1.0, 1.0], dtype=torch.float64)
    assert ((fitted - expected).abs() < 0.13).all()
    assert ((fitted - expected)[:2].abs() < 1e-2).all()


def test_dropping_touches_only_the_rows_that_do_not_keep() -> None:
    condition, nothing = torch.randn(3, 2, 4), torch.randn(2, 4)
    dropped = drop_condition(condition, nothing, torch.tensor([True, False, True]))
    assert torch.equal(dropped[[0, 2]], condition[[0, 2]])
    assert torch.equal(dropped[1], nothing)


@pytest.mark.parametrize("dropout", [-0.1, 1.1])
def test_a_dropout_that_is_no_probability_is_an_error(dropout: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Guidance(dropout=dropout)
