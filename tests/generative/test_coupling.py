"""Couplings against all permutations, and what each makes a conditional policy learn, in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pizero.generative.coupling import ConditionalCoupling, naive_coupling
from pizero.generative.flow import FlowMatching

sizes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))


def draw(size: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    actions, noise = torch.randn(2, *size, generator=generator, dtype=torch.float64)
    return actions, noise, torch.randn(size[0], 2, generator=generator, dtype=torch.float64)


def best_of_all(actions: Tensor, noise: Tensor, condition: Tensor, weight: float) -> Tensor:
    """Return the noise in the best of all orders, by the squared distances themselves."""
    orders = torch.tensor(list(itertools.permutations(range(len(noise)))))
    cost = (actions - noise[orders]).square().flatten(1).sum(dim=1)
    cost += weight * (condition - condition[orders]).square().flatten(1).sum(dim=1)
    return noise[orders[cost.argmin()]]


@given(sizes, st.integers(0, 99))
def test_the_naive_coupling_is_the_best_of_all_orders(size: tuple[int, int, int], seed: int) -> None:
    actions, noise, condition = draw(size, seed)
    assert torch.equal(naive_coupling(actions, noise), best_of_all(actions, noise, condition, 0.0))


@given(sizes, st.integers(0, 99), st.sampled_from([0.0, 0.3, 2.0, 50.0]))
def test_the_conditional_coupling_is_the_best_of_all_orders(
    size: tuple[int, int, int], seed: int, weight: float
) -> None:
    actions, noise, condition = draw(size, seed)
    paired = ConditionalCoupling(condition_weight=weight).pair(actions, noise, condition)
    assert torch.equal(paired, best_of_all(actions, noise, condition, weight))


@pytest.mark.parametrize("weight", [0.1, 0.5, 2.0])
def test_the_weight_is_what_it_says(weight: float) -> None:
    """In 40 draws of the size at which it matters most, no other weight would do."""
    best = dict.fromkeys((0.5, 1.0, 2.0), 0)
    for seed in range(40):
        actions, noise, condition = draw((6, 1, 1), seed)
        paired = ConditionalCoupling(condition_weight=weight).pair(actions, noise, condition)
        for factor in best:
            best[factor] += torch.equal(paired, best_of_all(actions, noise, condition, factor * weight))
    assert best[1.0] == 40
    assert best[0.5] < 40
    assert best[2.0] < 40


def test_in_one_dimension_the_naive_coupling_sorts() -> None:
    actions, noise = torch.randn(2, 200, 1, 1)
    paired = naive_coupling(actions, noise)
    assert torch.equal(paired.flatten()[actions.flatten().argsort()], noise.flatten().sort().values)


@given(st.integers(0, 99))
def test_the_order_in_which_noise_is_drawn_does_not_matter(seed: int) -> None:
    actions, noise, condition = draw((6, 2, 2), seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(naive_coupling(actions, noise[order]), naive_coupling(actions, noise))
    assert torch.equal(naive_coupling(actions[order], noise), naive_coupling(actions, noise)[order])
    coupling = ConditionalCoupling(condition_weight=3.0)
    moved = coupling.pair(actions[order], noise[order], condition[order])
    assert torch.equal(moved, coupling.pair(actions, noise, condition)[order])


def test_a_great_weight_pairs_rows_of_equal_conditions_alone() -> None:
    actions, noise, _ = draw((60, 2, 1), 0)
    label = torch.arange(60) % 4
    paired = ConditionalCoupling(condition_weight=1e6).pair(actions, noise, label.double()[:, None])
    for value in range(4):
        rows = label == value
        assert torch.equal(paired[rows], naive_coupling(actions[rows], noise[rows]))
    distinct = torch.arange(60.0)[:, None]
    assert torch.equal(ConditionalCoupling(condition_weight=1e6).pair(actions, noise, distinct), noise)


def test_a_negative_weight_is_an_error() -> None:
    with pytest.raises(ValueError, match="condition_weight of at least 0, found -1"):
        ConditionalCoupling(condition_weight=-1.0)


class LinearPolicy:
    """A velocity `b_0 + b_1 x + b_2 c` for each time, fitted by least squares to what flow matching asks."""

    def __init__(self, actions: Tensor, noise: Tensor, condition: Tensor) -> None:
        self.actions, self.noise, self.condition = actions, noise, condition

    def velocity(self, x: Tensor, time: Tensor, condition: float) -> Tensor:
        everywhere = time[0].double().expand(len(self.actions))
        noisy, target = FlowMatching().corrupt(self.actions, noise=self.noise, time=everywhere)
        one = torch.ones_like(self.condition)
        design = torch.stack([one, noisy.flatten(), self.condition], dim=-1)
        b = torch.linalg.lstsq(design, target.flatten()).solution
        return b[0] + b[1] * x + b[2] * condition


def generated(actions: Tensor, noise: Tensor, condition: Tensor, asked: float) -> tuple[float, float]:
    """Return mean and deviation of what a policy trained on these pairs does under the asked condition."""
    policy = LinearPolicy(actions, noise, condition)
    start = torch.tensor([-1.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    process = FlowMatching(num_steps=20, solver="midpoint")
    low, high = process.generate(lambda x, t: policy.velocity(x, t, asked), start).flatten().tolist()
    return (low + high) / 2, (high - low) / 2


def test_the_naive_coupling_makes_a_policy_deaf_to_its_condition() -> None:
    """With c and z standard normal and actions c + s z, the velocity is linear whatever the coupling, and a
    linear flow carries N(0, 1) to a normal whose mean and deviation two points tell.

    Under independent pairs, and under pairs of equal conditions, actions given c have mean c and deviation s.
    The naive coupling makes the noise actions / √(1 + s²), so that x alone tells the velocity: under any
    condition the policy draws from the mean 0 and deviation √(1 + s²) of all actions.
    """
    count, s = 700, 0.5
    generator = torch.Generator().manual_seed(0)
    condition, z, noise = torch.randn(3, count, generator=generator, dtype=torch.float64)
    actions, noise = (condition + s * z)[:, None, None], noise[:, None, None]
    naive = naive_coupling(actions, noise)
    conditional = ConditionalCoupling(condition_weight=100.0).pair(actions, noise, condition[:, None])

    assert generated(actions, noise, condition, 2.0) == pytest.approx((2.0, s), abs=0.1)
    assert generated(actions, conditional, condition, 2.0) == pytest.approx((2.0, s), abs=0.1)
    assert generated(actions, naive, condition, 2.0) == pytest.approx((0.0, math.sqrt(1 + s**2)), abs=0.1)
    assert (actions - conditional).square().mean() < 0.7 * (actions - noise).square().mean()


def test_how_much_the_noise_tells_about_the_condition() -> None:
    """Conditions ±1 and actions ±m, far apart: the naive coupling gives one condition all noise below the
    median, whose mean is -√(2/π); noise that is paired within conditions has mean 0.
    """
    count = 600
    condition = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(count // 2)
    actions = (5 * condition)[:, None, None]
    noise = torch.randn(count, 1, 1, dtype=torch.float64)
    positive = condition > 0
    naive = naive_coupling(actions, noise)[positive].mean().item()
    aware = ConditionalCoupling(condition_weight=100.0).pair(actions, noise, condition[:, None])
    assert naive == pytest.approx(math.sqrt(2 / math.pi), abs=0.1)
    assert aware[positive].mean().item() == pytest.approx(0.0, abs=0.15)
