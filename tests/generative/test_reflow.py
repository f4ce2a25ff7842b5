"""Reflow against exact flows, and straightness against integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.generative.reflow import reflow_pairs, straightness
from tests.generative.closed_forms import MIXTURES, NORMAL, TWO_MODES, WIDE, Mixture, grid

FINE = FlowMatching(solver="rk4", num_steps=32)


@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
def test_pairs_are_the_two_ends_of_the_flow(mixture: Mixture) -> None:
    actions, noise = reflow_pairs(FINE, mixture.velocity, grid())
    assert torch.equal(noise, grid())
    torch.testing.assert_close(actions, mixture.flow(grid()), atol=1e-5, rtol=0)


def test_straight_paths_at_constant_speed_have_straightness_one() -> None:
    noise, actions = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    found = straightness(lambda x, _: noise - actions, noise, num_steps=7)
    torch.testing.assert_close(found, torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 4, 4000])
def test_changing_speed_counts_as_not_straight(num_steps: int) -> None:
    """For velocity 2 t d the path is d, and ∫ 4 t² ‖d‖² = 4/3 ‖d‖²: the ratio is 3/4. In n steps the sums
    over t = 1/n … 1 are (n + 1) / n and 2/3 (n + 1) (2 n + 1) / n².
    """
    noise, n = torch.randn(5, 2, 1, dtype=torch.float64), num_steps
    found = straightness(lambda x, t: 2 * t[:, None, None] * noise, noise, num_steps=n)
    expected = 1.5 * (n + 1) / (2 * n + 1)
    torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-9, rtol=0)
    assert n < 4000 or expected == pytest.approx(0.75, abs=1e-3)


def test_going_round_in_a_circle_leads_nowhere() -> None:
    def around(x: Tensor, _: Tensor) -> Tensor:
        return 2 * math.pi * torch.stack([-x[..., 1], x[..., 0]], dim=-1)

    found = straightness(around, torch.randn(4, 1, 2, dtype=torch.float64), num_steps=2000)
    assert (found < 2e-4).all()


@pytest.mark.parametrize("mixture", [NORMAL, WIDE], ids=str)
@pytest.mark.parametrize("z", [-1.0, 0.3, 2.0])
def test_straightness_of_the_flow_to_normal_actions(mixture: Mixture, z: float) -> None:
    """Its path from z is (1 - t) m + √V z with V = t² + (1 - t)² s²; its speed is integrated by SciPy."""
    m, s = mixture.means[0], mixture.deviations[0]

    def speed(t: float) -> float:
        return -m + z * (t - (1 - t) * s**2) / math.sqrt(t**2 + (1 - t) ** 2 * s**2)

    energy, _ = scipy.integrate.quad(lambda t: speed(t) ** 2, 0, 1)
    start = torch.full((1, 1, 1), z, dtype=torch.float64)
    found = straightness(mixture.velocity, start, num_steps=1500).item()
    assert found == pytest.approx((z - (m + s * z)) ** 2 / energy, abs=3e-3)


def test_the_flow_learned_from_its_pairs_is_straight_and_needs_one_step() -> None:
    """In one dimension pairs keep their order, so their lines never cross: at each time, position tells the
    line. The second flow is read off the pairs by interpolation.
    """
    actions, noise = reflow_pairs(FINE, TWO_MODES.velocity, grid(-3.5, 3.5, 400))

    def second(x: Tensor, time: Tensor) -> Tensor:
        noisy, velocity = FlowMatching().corrupt(actions, noise=noise, time=time[:1].double().expand(400))
        line = np.interp(x.flatten().numpy(), noisy.flatten().numpy(), velocity.flatten().numpy())
        return torch.from_numpy(line).view_as(x)

    start = grid(-2, 2)
    assert straightness(TWO_MODES.velocity, start, num_steps=200).min() < 0.7
    assert straightness(second, start, num_steps=200).min() > 0.999
    torch.testing.assert_close(
        FlowMatching(num_steps=1).generate(second, start), TWO_MODES.flow(start), atol=1e-3, rtol=0
    )
    assert (
        FlowMatching(num_steps=1).generate(TWO_MODES.velocity, start) - TWO_MODES.flow(start)
    ).abs().max() > 0.5
