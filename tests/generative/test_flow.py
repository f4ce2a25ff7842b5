"""Flow matching against closed forms: for normal actions, velocity and flow are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pizero.generative.flow import BetaTime, FlowMatching
from pizero.generative.solvers import euler
from tests.golden_weights import arrays


@dataclass(frozen=True)
class NormalActions:
    """Actions that are normal with this mean and deviation; everything about their flow is known.

    With a = mean + deviation · z and noise ε, x_t = t ε + (1 - t) a is normal too, with mean (1 - t) mean and
    variance V(t) = t² + (1 - t)² deviation². Of jointly normal variables the conditional mean is linear, so
    v(x, t) = E[ε - a | x_t = x] = -mean + Cov(ε - a, x_t) / V(t) · (x - (1 - t) mean), Cov = t - (1 - t)
    deviation². Along dx/dt = v the standardised (x - (1 - t) mean) / √V(t) stays constant: from t = 1 to 0, x
    becomes mean + deviation · x.
    """

    mean: float
    deviation: float

    def velocity(self, x: Tensor, time: Tensor) -> Tensor:
        t = time.double().view(-1, *[1] * (x.dim() - 1))
        variance = t**2 + (1 - t) ** 2 * self.deviation**2
        covariance = t - (1 - t) * self.deviation**2
        return -self.mean + covariance / variance * (x - (1 - t) * self.mean)

    def flow(self, noise: Tensor) -> Tensor:
        return self.mean + self.deviation * noise


CASES = [NormalActions(0.7, 0.3), NormalActions(-2.0, 1.0), NormalActions(1.5, 2.5)]


@pytest.mark.parametrize("actions", CASES, ids=str)
def test_euler_converges_to_the_exact_flow_with_order_one(actions: NormalActions) -> None:
    noise = torch.linspace(-3, 3, 21, dtype=torch.float64)[:, None, None]
    exact = actions.flow(noise)
    errors = []
    for num_steps in (64, 128, 256):
        x = FlowMatching(num_steps=num_steps).generate(actions.velocity, noise)
        errors.append((x - exact).abs().max().item())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert errors[-1] < 0.05
    np.testing.assert_allclose(orders, 1.0, atol=0.1)


def test_generated_actions_have_the_right_distribution() -> None:
    actions = NormalActions(0.7, 0.3)
    noise = torch.randn(4000, 1, 1, dtype=torch.float64)
    samples = FlowMatching(num_steps=500).generate(actions.velocity, noise).flatten().numpy()
    assert scipy.stats.kstest(samples, scipy.stats.norm(0.7, 0.3).cdf).pvalue > 0.01
    assert scipy.stats.kstest(samples, scipy.stats.norm(0.72, 0.3).cdf).pvalue < 0.01


@pytest.mark.parametrize("time", [0.05, 0.4, 0.95])
def test_least_squares_on_the_targets_finds_the_velocity(time: float) -> None:
    """What minimises the loss is the velocity: fitted by a line, at one time, within five standard errors."""
    actions, count = NormalActions(0.7, 0.3), 20_000
    noise = torch.randn(count, 1, 1, dtype=torch.float64)
    clean = actions.flow(torch.randn(count, 1, 1, dtype=torch.float64))
    noisy, target = FlowMatching().corrupt(
        clean, noise=noise, time=torch.full((count,), time, dtype=torch.float64)
    )
    design = torch.stack([torch.ones(count, dtype=torch.float64), noisy.flatten()], dim=-1)
    fitted = torch.linalg.lstsq(design, target.flatten()).solution
    residual = (target.flatten() - design @ fitted).var()
    errors = (residual * torch.linalg.inv(design.T @ design)).diagonal().sqrt()

    here = torch.tensor([time], dtype=torch.float64)
    at_zero, at_one = (
        actions.velocity(torch.full((1, 1, 1), x, dtype=torch.float64), here) for x in (0.0, 1.0)
    )
    expected = torch.stack([at_zero.flatten()[0], (at_one - at_zero).flatten()[0]])
    assert ((fitted - expected).abs() < 5 * errors).all()
    assert (errors < 0.1).all()


shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))


def draw(shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    actions, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return actions, noise


@given(shapes, st.integers(0, 99))
def test_the_path_leads_from_noise_at_one_to_actions_at_zero(shape: tuple[int, int, int], seed: int) -> None:
    actions, noise = draw(shape, seed)
    process, one = FlowMatching(), torch.ones(shape[0], dtype=torch.float64)
    assert torch.equal(process.corrupt(actions, noise=noise, time=one)[0], noise)
    assert torch.equal(process.corrupt(actions, noise=noise, time=0 * one)[0], actions)


@given(shapes, st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_the_target_is_the_path_s_velocity(
    shape: tuple[int, int, int], seed: int, earlier: float, later: float
) -> None:
    actions, noise = draw(shape, seed)
    one = torch.ones(shape[0], dtype=torch.float64)
    here, target = FlowMatching().corrupt(actions, noise=noise, time=earlier * one)
    there, _ = FlowMatching().corrupt(actions, noise=noise, time=later * one)
    torch.testing.assert_close(there - here, (later - earlier) * target, atol=1e-12, rtol=0)


def test_each_row_has_a_time_of_its_own() -> None:
    actions, noise = draw((3, 4, 2), 0)
    time = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together, _ = FlowMatching().corrupt(actions, noise=noise, time=time)
    for row in range(3):
        here = slice(row, row + 1)
        alone, _ = FlowMatching().corrupt(actions[here], noise=noise[here], time=time[here])
        assert torch.equal(together[here], alone)


def test_noise_and_actions_agree_with_openpi_s() -> None:
    raw = {name: torch.from_numpy(array) for name, array in arrays("pi0/inputs.npz").items()}
    noisy, target = FlowMatching().corrupt(raw["actions"], noise=raw["loss_noise"], time=raw["loss_time"])
    golden = arrays("pi0/outputs_jax.npz")
    np.testing.assert_allclose(noisy.numpy(), golden["x_t"], atol=1e-6)
    np.testing.assert_allclose(target.numpy(), golden["u_t"], atol=1e-6)


def test_solver_looks_at_openpi_s_times() -> None:
    seen: list[float] = []

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        seen.append(time.item())
        return torch.zeros_like(x)

    euler(velocity, torch.zeros(1, 2, 3), num_steps=10)
    assert seen == arrays("pi0/outputs_jax.npz")["traj10_time"].tolist()


@given(st.integers(1, 100), st.integers(0, 99))
def test_a_straight_flow_needs_one_step(num_steps: int, seed: int) -> None:
    actions, noise = draw((2, 3, 2), seed)
    x = euler(lambda x, _: noise - actions, noise, num_steps=num_steps)
    torch.testing.assert_close(x, actions, atol=1e-12, rtol=0)


def test_no_steps_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"at least one solver step, found num_steps=0"):
        euler(lambda x, _: x, torch.zeros(1, 2, 3), num_steps=0)


@pytest.mark.parametrize(
    "time", [BetaTime(), BetaTime(alpha=1.0, low=0.0), BetaTime(alpha=3.0, low=0.2)], ids=str
)
def test_training_times_are_beta_distributed(time: BetaTime) -> None:
    samples = time.sample(20_000, torch.Generator().manual_seed(0)).double().numpy()
    assert samples.min() >= time.low
    assert samples.max() <= 1.0
    unit = (samples - time.low) / (1.0 - time.low)
    assert scipy.stats.kstest(unit, scipy.stats.beta(time.alpha, 1.0).cdf).pvalue > 0.01
    assert scipy.stats.kstest(unit, scipy.stats.beta(1.1 * time.alpha, 1.0).cdf).pvalue < 1e-3
    assert scipy.stats.kstest(unit, scipy.stats.beta(1.0, time.alpha).cdf).pvalue < 1e-3 or time.alpha == 1.0


def test_the_default_times_are_those_of_the_paper() -> None:
    assert BetaTime() == BetaTime(alpha=1.5, low=0.001)


def test_the_same_generator_gives_the_same_times() -> None:
    first, second = (BetaTime().sample(5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
