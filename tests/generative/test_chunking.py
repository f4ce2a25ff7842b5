"""Real-time chunking against closed forms, finite differences, and the papers' formulas in their own time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pizero.generative.chunking import (
    Chunking,
    Guided,
    GuidedByIdentity,
    Prefixed,
    guidance_weight,
    soft_mask,
)
from pizero.generative.flow import FlowMatching
from tests.generative.closed_forms import NORMAL

HORIZON, DIM = 5, 2
Field = Callable[[np.ndarray, float], np.ndarray]
"""A velocity in the papers' time τ, of one chunk `[horizon, action_dim]`."""

WEIGHTS = np.random.default_rng(3).normal(size=(2, HORIZON * DIM, HORIZON * DIM)) / 2


def twisted(actions: np.ndarray, tau: float) -> np.ndarray:
    """A field that mixes all actions of a chunk, and is far from linear."""
    inner = np.tanh(WEIGHTS[0] @ actions.ravel() + tau)
    return (WEIGHTS[1] @ inner + np.sin(2 * actions.ravel()) * tau).reshape(actions.shape)


def as_network(noisy: Tensor, time: Tensor) -> Tensor:
    """The same field as a network of this project: batched, with time and velocity the other way round."""
    first, second = torch.from_numpy(WEIGHTS)
    tau = (1.0 - time.double())[:, None]
    flat = noisy.flatten(1)
    velocity = torch.tanh(flat @ first.T + tau) @ second.T + torch.sin(2 * flat) * tau
    return -velocity.view_as(noisy)


def vector_jacobian(field: Field, actions: np.ndarray, tau: float, error: np.ndarray) -> np.ndarray:
    """Return errorᵀ ∂/∂A (A + (1 - τ) v(A, τ)) by central differences of fourth order."""
    step, found = 1e-3, np.zeros(actions.size)
    for place in range(actions.size):
        aside = np.zeros(actions.size)
        aside[place] = step

        def at(factor: int, aside: np.ndarray = aside) -> np.ndarray:
            moved = actions + factor * aside.reshape(actions.shape)
            return moved + (1.0 - tau) * field(moved, tau)

        slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
        found[place] = (error * slope).sum()
    return found.reshape(actions.shape)


def papers_mask(horizon: int, delay: int, execution: int) -> list[float]:
    """Equation 5, case by case."""
    found = []
    for i in range(horizon):
        if i < delay:
            found.append(1.0)
        elif i < horizon - execution:
            c = (horizon - execution - i) / (horizon - execution - delay + 1)
            found.append(c * (math.e**c - 1) / (math.e - 1))
        else:
            found.append(0.0)
    return found


def papers_sampler(
    field: Field,
    noise: np.ndarray,
    planned: np.ndarray,
    mask: np.ndarray,
    *,
    num_steps: int,
    beta: float,
    identity: bool = False,
) -> np.ndarray:
    """Algorithm 1 in the paper's own time, τ = 0 (noise) to 1, with finite differences for the Jacobian."""
    actions = noise
    for step in range(num_steps):
        tau = step / num_steps
        velocity = field(actions, tau)
        error = mask * (planned - (actions + (1 - tau) * velocity))
        pull = error if identity else vector_jacobian(field, actions, tau, error)
        r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        weight = min(beta, (1 - tau) / (tau * r_squared)) if tau > 0 else beta
        actions = actions + (velocity + weight * pull) / num_steps
    return actions


def case(rows: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noise, planned actions and weights, other ones in every row."""
    rng = np.random.default_rng(seed)
    noise, planned = rng.normal(size=(2, rows, HORIZON, DIM))
    masks = [soft_mask(HORIZON, delay=row % 3, execution=2) for row in range(rows)]
    return noise, planned, np.stack(masks)[..., None] * np.array([1.0, 0.7])


def kind(identity: bool) -> type[Guided] | type[GuidedByIdentity]:
    return GuidedByIdentity if identity else Guided


@pytest.mark.parametrize(
    ("horizon", "delay", "execution"),
    [(8, 0, 1), (8, 0, 4), (8, 0, 8), (8, 3, 3), (8, 3, 5), (8, 4, 4), (2, 1, 1), (50, 6, 25), (20, 10, 10)],
)
def test_the_mask_is_the_paper_s(horizon: int, delay: int, execution: int) -> None:
    found = soft_mask(horizon, delay=delay, execution=execution)
    np.testing.assert_allclose(found, papers_mask(horizon, delay, execution), atol=1e-15)


def test_known_values_of_the_mask() -> None:
    """H = 8, d = 2, s = 3: c = 3/4, 2/4 and 1/4 between the ends."""
    found = soft_mask(8, delay=2, execution=3)
    expected = [1, 1, 0.487551, 0.188770, 0.041324, 0, 0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(st.integers(1, 60), st.data())
def test_the_mask_holds_what_is_committed_and_falls_to_nothing(horizon: int, data: st.DataObject) -> None:
    delay = data.draw(st.integers(0, horizon // 2))
    execution = data.draw(st.integers(max(delay, 1), horizon - delay))
    mask = soft_mask(horizon, delay=delay, execution=execution)
    assert (mask[:delay] == 1).all()
    assert (mask[horizon - execution :] == 0).all()
    between = mask[delay : horizon - execution]
    assert ((between > 0) & (between < 1)).all()
    assert (np.diff(mask) <= 0).all()


@given(st.integers(1, 60), st.integers(-2, 62), st.integers(-2, 62))
def test_a_mask_of_impossible_times_is_refused(horizon: int, delay: int, execution: int) -> None:
    fits = delay >= 0 and execution >= 1 and delay <= execution <= horizon - delay
    if fits:
        assert len(soft_mask(horizon, delay=delay, execution=execution)) == horizon
        return
    said = rf"delay of {delay} and an execution of {execution} ticks in a horizon of {horizon}"
    with pytest.raises(ValueError, match=said):
        soft_mask(horizon, delay=delay, execution=execution)


def test_the_weight_is_the_paper_s_in_its_own_time() -> None:
    times = torch.linspace(0, 1, 41, dtype=torch.float64)
    expected = []
    for time in times.tolist():
        tau = 1 - time
        r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        c = (1 - tau) / tau if tau > 0 else math.inf
        expected.append(min(5.0, c / r_squared if r_squared > 0 else math.inf))
    np.testing.assert_allclose(guidance_weight(times), expected, rtol=1e-12)
    assert guidance_weight(torch.tensor([0.0, 0.5, 1.0])).tolist() == [5.0, 2.0, 5.0]
    assert guidance_weight(torch.tensor([1.0]), 0.3).tolist() == [pytest.approx(0.3)]


@pytest.mark.parametrize("time", [1.0, 0.7, 0.2])
def test_the_correction_is_the_vector_jacobian_product(time: float) -> None:
    """By finite differences through a field that is not linear; the identity form is something else there."""
    noise, planned, mask = case()
    times = torch.full((3,), time, dtype=torch.float64)
    noisy = torch.from_numpy(noise)
    weight = guidance_weight(times)[0].item()

    def correction(identity: bool) -> np.ndarray:
        form = kind(identity)(planned=torch.from_numpy(planned), weights=torch.from_numpy(mask))
        moved = form.guide(as_network)(noisy, times) - as_network(noisy, times)
        return (-moved / weight).numpy()

    errors = [
        mask[row] * (planned[row] - (noise[row] + time * twisted(noise[row], 1 - time))) for row in range(3)
    ]
    expected = np.stack([vector_jacobian(twisted, noise[row], 1 - time, errors[row]) for row in range(3)])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(correction(identity=False), expected, atol=1e-8)
    np.testing.assert_allclose(correction(identity=True), np.stack(errors), atol=1e-12)
    assert np.abs(correction(identity=False) - correction(identity=True)).max() > 0.3


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize(("num_steps", "beta"), [(1, 5.0), (5, 5.0), (10, 10.0), (7, 0.8)])
def test_the_guided_sampler_is_the_paper_s(identity: bool, num_steps: int, beta: float) -> None:
    noise, planned, mask = case(seed=1)
    form = kind(identity)(planned=torch.from_numpy(planned), weights=torch.from_numpy(mask), max_weight=beta)
    made = form.generate(FlowMatching(num_steps=num_steps), as_network, torch.from_numpy(noise))
    expected = [
        papers_sampler(
            twisted, noise[row], planned[row], mask[row], num_steps=num_steps, beta=beta, identity=identity
        )
        for row in range(3)
    ]
    np.testing.assert_allclose(
        made.numpy(), np.stack(expected), atol=2e-5
    )  # time is float32 in Euler's steps
    unguided = FlowMatching(num_steps=num_steps).generate(as_network, torch.from_numpy(noise))
    assert (made - unguided).abs().max() > 0.1


@pytest.mark.parametrize("time", [0.9, 0.5, 0.1])
def test_for_normal_actions_the_jacobian_is_a_known_number(time: float) -> None:
    """E[a | x_t] of normal actions is linear in x_t, and J = (1 - t) s² / (t² + (1 - t)² s²) one number."""
    noise, planned, mask = case(seed=2)
    times = torch.full((3,), time, dtype=torch.float64)
    target, weights = torch.from_numpy(planned), torch.from_numpy(mask)
    noisy = torch.from_numpy(noise)
    (deviation,) = NORMAL.deviations
    jacobian = (1 - time) * deviation**2 / (time**2 + (1 - time) ** 2 * deviation**2)
    plain = NORMAL.velocity(noisy, times)
    true, identity = (
        kind(identity)(planned=target, weights=weights).guide(NORMAL.velocity)(noisy, times) - plain
        for identity in (False, True)
    )
    assert identity.abs().max() > 0.1
    torch.testing.assert_close(true, jacobian * identity, atol=1e-12, rtol=0)


@pytest.mark.parametrize("identity", [False, True])
def test_a_number_of_no_weight_is_not_guided(identity: bool) -> None:
    """With no weight at all the chunk is bitwise the unguided one, whatever is planned."""
    noise, planned, mask = (torch.from_numpy(array) for array in case())
    form = kind(identity)
    free = FlowMatching().generate(as_network, noise)
    assert torch.equal(
        form(planned=planned, weights=0 * mask).generate(FlowMatching(), as_network, noise), free
    )
    other = planned.clone()
    other[:, -2:] += 100.0
    made, same = (
        form(planned=plan, weights=mask).generate(FlowMatching(), as_network, noise)
        for plan in (planned, other)
    )
    assert (mask[:, -2:] == 0).all()
    assert torch.equal(made, same)
    assert not torch.equal(made, free)


def test_guidance_leaves_no_trace_in_the_network() -> None:
    """It differentiates inside `no_grad` too, and leaves no gradient and no graph behind."""
    noise, planned, mask = (torch.from_numpy(array).float() for array in case())
    layer = torch.nn.Linear(HORIZON * DIM, HORIZON * DIM)

    def network(noisy: Tensor, time: Tensor) -> Tensor:
        return layer(noisy.flatten(1)).tanh().view_as(noisy)

    with torch.no_grad():
        made = Guided(planned=planned, weights=mask).generate(FlowMatching(), network, noise)
    assert not made.requires_grad
    assert layer.weight.grad is None


@pytest.mark.parametrize("solver", ["midpoint", "heun", "rk4"])
@pytest.mark.parametrize("identity", [False, True])
def test_another_solver_is_refused_before_the_network_is_asked(solver, identity: bool) -> None:
    noise, planned, mask = (torch.from_numpy(array) for array in case())

    def refuse(noisy: Tensor, time: Tensor) -> Tensor:
        raise AssertionError("called")

    with pytest.raises(ValueError, match=f"Euler's steps.*solver is '{solver}'"):
        kind(identity)(planned=planned, weights=mask).generate(FlowMatching(solver=solver), refuse, noise)


@given(st.integers(1, 12), st.data())
def test_what_a_trained_network_is_given(horizon: int, data: st.DataObject) -> None:
    """At every look: the planned actions at time 0, and the others, noisy, at the time of the look."""
    delays = torch.tensor(data.draw(st.lists(st.integers(0, horizon // 2), min_size=3, max_size=3)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    noise, planned = torch.randn(2, 3, horizon, DIM, generator=generator, dtype=torch.float64)
    looks: list[tuple[Tensor, Tensor]] = []

    def network(noisy: Tensor, time: Tensor) -> Tensor:
        looks.append((noisy, time))
        return noisy.cumsum(dim=1).sin() + time[..., None]

    chunking: Chunking = Prefixed(planned=planned, delay=delays)
    made = chunking.generate(FlowMatching(num_steps=4), network, noise)
    assert len(looks) == 4
    expected = noise.clone()
    for number, (noisy, time) in enumerate(looks):
        for row, delay in enumerate(delays.tolist()):
            expected[row, :delay] = planned[row, :delay]
            assert (time[row, :delay] == 0).all()
            assert (time[row, delay:] == 1 - number / 4).all()
        torch.testing.assert_close(noisy, expected, atol=1e-12, rtol=0)
        expected = expected - network(expected, time) / 4
        looks.pop()
    for row, delay in enumerate(delays.tolist()):
        assert torch.equal(made[row, :delay], planned[row, :delay])
    after = torch.arange(horizon) >= delays[:, None]
    torch.testing.assert_close(made[after], expected[after], atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", ["midpoint", "heun", "rk4"])
def test_a_given_prefix_suits_every_solver(solver) -> None:
    noise, planned, _ = (torch.from_numpy(array) for array in case())
    given = Prefixed(planned=planned, delay=torch.tensor([0, 2, 5]))

    def network(noisy: Tensor, time: Tensor) -> Tensor:
        assert time.shape == (3, HORIZON)
        return NORMAL.velocity(noisy.flatten()[:, None], time[..., None].expand_as(noisy).flatten()).view_as(
            noisy
        )

    made = given.generate(FlowMatching(solver=solver, num_steps=64), network, noise)
    assert torch.equal(made[1, :2], planned[1, :2])
    assert torch.equal(made[2], planned[2])
    (mean,), (deviation,) = NORMAL.means, NORMAL.deviations
    torch.testing.assert_close(made[0], mean + deviation * noise[0], atol=5e-3, rtol=0)
