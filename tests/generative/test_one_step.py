"""One-step models against the flow to normal actions, whose average velocities are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from pizero.generative.consistency import ConsistencyDistillation
from pizero.generative.flow import FlowMatching
from pizero.generative.mean_flow import MeanFlow
from pizero.generative.shortcut import Shortcut
from pizero.generative.times import UniformTime
from tests.generative.closed_forms import MIXTURES, NORMAL, WIDE, Mixture, grid, normal_flow

NORMALS = [NORMAL, WIDE]
torchs_own = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
"""PyTorch warns of itself when its forward mode is first used."""


def carried(mixture: Mixture, x: Tensor, time: Tensor, end: Tensor) -> Tensor:
    return normal_flow(x, time, end, mean=mixture.means[0], deviation=mixture.deviations[0])


def mean_velocity(mixture: Mixture):
    """Return the exact (x, time, end) → mean velocity between the two times."""

    def between(x: Tensor, time: Tensor, end: Tensor) -> Tensor:
        return (x - carried(mixture, x, time, end)) / (time - end)[:, None, None]

    return between


class Network(nn.Module):
    """A smooth function of x `[batch, 1, 1]` and two numbers per row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return self.out(self.layers(torch.stack([x.flatten(), first, second], dim=-1)))[:, None]


TIMES = torch.linspace(0.3, 1.0, 8, dtype=torch.float64)
ENDS = torch.linspace(0.0, 0.9, 8, dtype=torch.float64)


def test_the_flow_that_judges_here_is_the_one_by_quantiles() -> None:
    x, one = grid(), torch.ones(11, dtype=torch.float64)
    for mixture in NORMALS:
        torch.testing.assert_close(carried(mixture, x, one, 0 * one), mixture.flow(x), atol=1e-9, rtol=0)


@torchs_own
@pytest.mark.parametrize("mixture", NORMALS, ids=str)
@pytest.mark.parametrize("difference", [None, 1e-3])
def test_the_exact_mean_velocity_solves_the_mean_flow_identity(
    mixture: Mixture, difference: float | None
) -> None:
    x, exact = torch.randn(8, 1, 1, dtype=torch.float64), mean_velocity(mixture)
    target = MeanFlow(difference=difference).target(
        exact, x, mixture.velocity(x, TIMES), time=TIMES, end=ENDS
    )
    tolerance = 1e-9 if difference is None else 1e-3
    torch.testing.assert_close(target, exact(x, TIMES, ENDS), atol=tolerance, rtol=0)


@torchs_own
def test_the_mean_flow_target_of_any_network_agrees_with_finite_differences() -> None:
    network = Network(16).double()
    x, velocity = torch.randn(2, 8, 1, 1, dtype=torch.float64)
    found = MeanFlow().target(network, x, velocity, time=TIMES, end=ENDS)
    assert not found.requires_grad
    h = 1e-5
    later = network(x + h * velocity, TIMES + h, ENDS)
    earlier = network(x - h * velocity, TIMES - h, ENDS)
    expected = velocity - (TIMES - ENDS)[:, None, None] * (later - earlier) / (2 * h)
    torch.testing.assert_close(found, expected.detach(), atol=1e-8, rtol=0)
    same = MeanFlow().target(network, x, velocity, time=TIMES, end=TIMES)
    assert torch.equal(same, velocity)


@pytest.mark.parametrize("mixture", NORMALS, ids=str)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_mean_velocities_cross_in_any_number_of_steps(mixture: Mixture, num_steps: int) -> None:
    x = MeanFlow(num_steps=num_steps).generate(mean_velocity(mixture), grid())
    torch.testing.assert_close(x, mixture.flow(grid()), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("power", "offset"), [(0.0, 1e-3), (0.5, 0.1), (1.0, 1e-3)])
def test_the_mean_flow_error_s_gradient_has_a_constant_divisor(power: float, offset: float) -> None:
    prediction = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 3, 2, dtype=torch.float64)
    MeanFlow(power=power, offset=offset).error(prediction, target).sum().backward()
    apart = (prediction - target).detach()
    divisor = ((apart**2).sum(dim=(1, 2), keepdim=True) + offset) ** power
    torch.testing.assert_close(prediction.grad, 2 * apart / divisor, atol=1e-12, rtol=0)


def test_mean_flow_times_are_two_sorted_draws_of_which_most_are_made_equal() -> None:
    """The greater of two uniform draws has distribution t², the lesser 1 - (1 - t)²."""
    model, count = MeanFlow(time=UniformTime(), equal=0.75), 20_000
    time, end = model.draw_times(count, torch.Generator().manual_seed(0))
    same = (time == end).numpy()
    assert abs(same.mean() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / count)
    assert (end <= time).all()
    assert scipy.stats.kstest(time.numpy(), lambda t: t**2).pvalue > 0.01
    assert scipy.stats.kstest(end.numpy()[~same], lambda t: 1 - (1 - t) ** 2).pvalue > 0.01


def step_velocity(mixture: Mixture):
    """Return the exact (x, time, step) → velocity of a step; the flow's own at step 0."""

    def crossing(x: Tensor, time: Tensor, step: Tensor) -> Tensor:
        exact = (x - carried(mixture, x, time, time - step)) / step[:, None, None]
        return torch.where(step[:, None, None] == 0, mixture.velocity(x, time), exact)

    return crossing


@pytest.mark.parametrize("mixture", NORMALS, ids=str)
def test_exact_shortcuts_agree_with_their_halves(mixture: Mixture) -> None:
    time = torch.tensor([1.0, 1.0, 0.5, 0.75, 0.3], dtype=torch.float64)
    step = torch.tensor([1.0, 0.5, 0.5, 0.25, 0.0], dtype=torch.float64)
    x, velocity = torch.randn(2, 5, 1, 1, dtype=torch.float64)
    exact = step_velocity(mixture)
    target = Shortcut().target(exact, x, velocity, time=time, step=step)
    torch.testing.assert_close(target[:4], exact(x, time, step)[:4], atol=1e-9, rtol=0)
    assert torch.equal(target[4], velocity[4])
    wrong = Shortcut().target(lambda x, t, d: exact(x, t, 2 * d), x, velocity, time=time, step=step)
    assert ((wrong - exact(x, time, step))[:4].abs() > 1e-3).all()


def test_the_shortest_halves_are_asked_for_as_the_flow_itself() -> None:
    asked: list[Tensor] = []
    network = Network(4)

    def record(x: Tensor, time: Tensor, step: Tensor) -> Tensor:
        asked.extend([time, step])
        return network(x, time, step)

    x, velocity = torch.randn(2, 3, 1, 1)
    time, step = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([0.25, 0.5, 1.0])
    target = Shortcut(max_steps=8).target(record, x, velocity, time=time, step=step)
    assert not target.requires_grad
    expected = [[0.25, 0.5, 1.0], [0.0, 0.25, 0.5], [0.125, 0.25, 0.5], [0.0, 0.25, 0.5]]
    assert [values.tolist() for values in asked] == expected


def test_shortcut_times_are_multiples_of_their_steps() -> None:
    count = 20_000
    time, step = Shortcut(max_steps=8).draw_times(count, torch.Generator().manual_seed(0))
    long = step > 0
    assert abs(long.double().mean().item() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / count)
    assert scipy.stats.kstest(time[~long].numpy(), "uniform").pvalue > 0.01
    assert torch.equal((time[long] / step[long]).round() * step[long], time[long])
    assert (time >= step).all()
    assert time.max() <= 1
    assert set(step[long].tolist()) == {1.0, 0.5, 0.25}
    for length in (1.0, 0.5, 0.25):
        here = time[step == length]
        assert abs(len(here) / long.sum() - 1 / 3) < 0.05
        _, counts = here.unique(return_counts=True)
        assert len(counts) == round(1 / length)
        assert length == 1.0 or scipy.stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("mixture", NORMALS, ids=str)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_exact_shortcuts_cross_in_any_number_of_steps(mixture: Mixture, num_steps: int) -> None:
    x = Shortcut(num_steps=num_steps).generate(step_velocity(mixture), grid())
    torch.testing.assert_close(x, mixture.flow(grid()), atol=1e-9, rtol=0)


@pytest.mark.parametrize("max_steps", [0, 1, 100])
def test_steps_that_cannot_be_halved_are_an_error(max_steps: int) -> None:
    with pytest.raises(ValueError, match="power of 2"):
        Shortcut(max_steps=max_steps)


def to_the_end(mixture: Mixture):
    """Return the exact network of a consistency model: the mean velocity down to time 0."""

    def network(x: Tensor, time: Tensor) -> Tensor:
        return mean_velocity(mixture)(x, time, torch.zeros_like(time))

    return network


def test_every_network_s_jump_from_time_zero_stays() -> None:
    x = torch.randn(4, 3, 2)
    found = ConsistencyDistillation().jump(lambda x, t: x.exp(), x, torch.zeros(4))
    assert torch.equal(found, x)


@pytest.mark.parametrize("mixture", NORMALS, ids=str)
def test_the_exact_jump_is_its_own_target_up_to_the_teacher_s_step(mixture: Mixture) -> None:
    """Heun's error in one step falls with the cube of its length."""
    x, time = grid(), torch.full((11,), 0.75, dtype=torch.float64)
    network, errors = to_the_end(mixture), []
    for num_intervals in (64, 128):
        model = ConsistencyDistillation(num_intervals=num_intervals)
        end = time - 1 / num_intervals
        target = model.target(network, mixture.velocity, x, time=time, end=end)
        torch.testing.assert_close(
            model.jump(network, x, time), carried(mixture, x, time, 0 * time), atol=1e-9, rtol=0
        )
        errors.append((target - model.jump(network, x, time)).square().mean().sqrt().item())
    assert errors[1] < 1e-4
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3.0, abs=0.1)


def test_a_straight_teacher_has_no_error_and_the_target_no_gradient() -> None:
    noise, actions = torch.randn(2, 5, 1, 1, dtype=torch.float64)
    model = ConsistencyDistillation(num_intervals=2)
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    target = model.target(
        lambda x, t: scale * (noise - actions),
        lambda x, t: noise - actions,
        noise,
        time=torch.ones(5, dtype=torch.float64),
        end=torch.full((5,), 0.5, dtype=torch.float64),
    )
    assert not target.requires_grad
    torch.testing.assert_close(target, actions, atol=1e-12, rtol=0)


def test_consistency_times_are_the_ends_of_equal_intervals() -> None:
    time, end = ConsistencyDistillation(num_intervals=4).draw_times(8000, torch.Generator().manual_seed(0))
    values, counts = end.unique(return_counts=True)
    assert values.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert torch.equal(time - end, torch.full_like(time, 0.25))
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("mixture", NORMALS, ids=str)
def test_a_consistency_model_jumps_from_noise_to_actions(mixture: Mixture) -> None:
    x = ConsistencyDistillation().generate(to_the_end(mixture), grid())
    torch.testing.assert_close(x, mixture.flow(grid()), atol=1e-9, rtol=0)


def test_no_interval_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one interval, found num_intervals=0"):
        ConsistencyDistillation(num_intervals=0)


def test_one_euler_step_finds_only_the_mean() -> None:
    """At time 1 noise tells nothing, so the exact velocity is `noise - mean`: why one-step models exist."""
    for mixture in MIXTURES:
        mean = np.dot(mixture.means, mixture.weights)
        x = FlowMatching(num_steps=1).generate(mixture.velocity, grid())
        torch.testing.assert_close(x, torch.full_like(x, mean), atol=1e-9, rtol=0)
