"""Solvers against flows that are known exactly: of normal actions, of two modes, and of matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.generative.process import Process
from pizero.generative.solvers import (
    HEUN,
    METHODS,
    MIDPOINT,
    NUM_STAGES,
    RK4,
    RungeKutta,
    Solver,
    dormand_prince,
    solve,
)
from tests.generative.closed_forms import MIXTURES, TWO_MODES, Mixture, grid

ORDERS: dict[Solver, int] = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_the_error_falls_with_the_solver_s_order(solver: Solver, order: int) -> None:
    """Measured with two modes: 0.995, 1.998, 1.989 and 3.998. (A single mode is too easy: there the midpoint
    rule has order 3.)
    """
    noise = grid()
    exact = TWO_MODES.flow(noise)
    errors = []
    for num_steps in (128, 256):
        x = FlowMatching(solver=solver, num_steps=num_steps).generate(TWO_MODES.velocity, noise)
        errors.append((x - exact).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.03)
    assert errors[1] < 0.006


@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
@pytest.mark.parametrize("solver", list(ORDERS))
def test_every_solver_arrives(solver: Solver, mixture: Mixture) -> None:
    """Measured: the largest error of 100 Euler steps is 0.13, of 50 steps of order 2 0.01."""
    noise = grid(count=5)
    x = FlowMatching(solver=solver, num_steps=100 // NUM_STAGES[solver]).generate(mixture.velocity, noise)
    bound = {1: 0.2, 2: 0.02, 4: 1e-5}[ORDERS[solver]]
    assert (x - mixture.flow(noise)).abs().max() < bound


@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_a_polynomial_in_time_is_integrated_exactly_up_to_the_order(solver: Solver, order: int) -> None:
    """∫ t^k from 1 to 0 is -1/(k + 1): exact for k < order, and wrong at k = order for these solvers."""
    zero = torch.zeros(2, 3, dtype=torch.float64)
    for power in range(order + 1):
        x = solve(
            lambda x, t, power=power: t[:, None].double().expand_as(x) ** power,
            zero,
            solver=solver,
            num_steps=2,
        )
        wrong = (x + 1 / (power + 1)).abs().max().item()
        assert wrong < 1e-12 if power < order else wrong > 1e-4


@pytest.mark.parametrize("solver", ["midpoint", "heun", "rk4"])
def test_one_step_of_a_linear_flow_is_the_exponential_s_series(solver: Solver) -> None:
    """For dx/dt = A x one step of order p multiplies by Σ_{k ≤ p} (h A)^k / k!, here with h = -1."""
    generator = torch.Generator().manual_seed(0)
    matrix, x = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    found = solve(lambda y, _: y @ matrix.T, x, solver=solver, num_steps=1)
    series = sum(
        (torch.matrix_power(-matrix, k) / math.factorial(k) for k in range(ORDERS[solver] + 1)),
        torch.zeros(4, 4, dtype=torch.float64),
    )
    torch.testing.assert_close(found, x @ series.T, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", [MIDPOINT, HEUN, RK4], ids=["midpoint", "heun", "rk4"])
def test_tableaus_are_consistent(method: RungeKutta) -> None:
    """Weights sum to one and rows to their nodes (Hairer, Nørsett and Wanner, equation II.1.9)."""
    assert math.fsum(method.weights) == pytest.approx(1.0, abs=1e-15)
    for index, (node, row) in enumerate(zip(method.nodes, method.coefficients, strict=True)):
        assert len(row) == index
        assert math.fsum(row) == pytest.approx(node, abs=1e-15)


def test_each_row_crosses_its_own_stretch_of_time() -> None:
    """For dx/dt = cos t the step is exact enough: sin(end) - sin(start)."""
    start = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    end = torch.tensor([0.9, 0.7, 0.0], dtype=torch.float64)
    x = torch.zeros(3, 2, dtype=torch.float64)
    found = RK4.step(lambda y, t: t.cos()[:, None].expand_as(y), x, start=start, end=end)
    torch.testing.assert_close(found, (end.sin() - start.sin())[:, None].expand(3, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("solver", list(ORDERS))
def test_a_process_says_how_often_it_calls_the_network(solver: Solver) -> None:
    calls: list[Tensor] = []

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        calls.append(time)
        return torch.zeros_like(x)

    process = FlowMatching(solver=solver, num_steps=7)
    process.generate(velocity, torch.zeros(2, 3, 1))
    assert len(calls) == process.num_evaluations == 7 * NUM_STAGES[solver]
    assert all(time.dtype == torch.float32 and 0 <= time.min() <= time.max() <= 1 for time in calls)
    assert isinstance(process, Process)


@pytest.mark.parametrize("solver", list(METHODS))
def test_networks_of_low_precision_stay_in_it(solver: Solver) -> None:
    """But for time, of which bfloat16 has too few values."""

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        assert time.dtype == torch.float32
        return x * time[:, None].to(x)

    found = solve(velocity, torch.ones(2, 3, dtype=torch.bfloat16), solver=solver, num_steps=4)
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found.float().numpy(), math.exp(-0.5), rtol=0.03)


@pytest.mark.parametrize("solver", list(ORDERS))
def test_no_steps_is_an_error(solver: Solver) -> None:
    with pytest.raises(ValueError, match=r"at least one solver step, found num_steps=0"):
        solve(lambda x, _: x, torch.zeros(1, 2), solver=solver, num_steps=0)


@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_the_adaptive_solver_keeps_its_tolerance(mixture: Mixture, tolerance: float) -> None:
    """Errors of single steps add up along the way: to less than 30 times the tolerance here."""
    noise = grid(count=5)
    wrong = (dormand_prince(mixture.velocity, noise, tolerance=tolerance) - mixture.flow(noise)).abs().max()
    assert 1e-3 * tolerance < wrong < 30 * tolerance


def test_the_adaptive_solver_agrees_with_the_matrix_exponential() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, x = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    found = dormand_prince(lambda y, _: y @ matrix.T, x, tolerance=1e-10)
    np.testing.assert_allclose(found.numpy(), x.numpy() @ scipy.linalg.expm(-matrix.numpy()).T, atol=1e-8)


def test_the_adaptive_solver_keeps_float32_and_asks_at_times_within_the_path() -> None:
    times: list[float] = []

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        assert x.dtype == time.dtype == torch.float32
        times.append(time[0].item())
        return -x

    found = dormand_prince(velocity, torch.ones(2, 1, 3), tolerance=1e-5)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), math.e, rtol=1e-4)
    assert times[0] == 1.0
    assert 0 <= min(times) <= max(times) <= 1


def test_an_adaptive_solver_that_gets_stuck_says_so() -> None:
    """From 1, dx/dt = -5 x³ reaches infinity at time 0.9."""
    with pytest.raises(ValueError, match="stopped before time 0"):
        dormand_prince(lambda x, _: -5 * x**3, torch.ones(1, 1, dtype=torch.float64))
