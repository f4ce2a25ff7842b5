"""What holds for every process, solver, coupling, guidance rule and one-step model, whatever the network."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pizero.generative.consistency import ConsistencyDistillation
from pizero.generative.coupling import ConditionalCoupling, naive_coupling
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from pizero.generative.guidance import Guidance
from pizero.generative.mean_flow import MeanFlow
from pizero.generative.process import Process
from pizero.generative.reflow import straightness
from pizero.generative.shortcut import Shortcut
from pizero.generative.solvers import NUM_STAGES, Solver, dormand_prince, solve
from pizero.generative.times import BetaTime, LogitNormalTime, TimeDensity, UniformTime

PROCESSES: list[Process] = [
    *(FlowMatching(solver=solver, num_steps=3) for solver in NUM_STAGES),
    *(
        Diffusion(schedule=schedule, prediction=prediction, sampler=sampler, num_steps=4)
        for schedule, prediction, sampler in itertools.product(
            ("cosine", "linear"), ("noise", "sample", "velocity"), ("ddim", "ddpm")
        )
    ),
]
ONE_STEP = [MeanFlow(num_steps=2), Shortcut(num_steps=2), ConsistencyDistillation()]
seeds = st.integers(0, 99)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def bent(seed: int) -> Callable[..., Tensor]:
    """Return a smooth network that mixes dimensions and times, and no rows."""
    first, second = normal(2, 3, 3, seed=seed)

    def network(x: Tensor, *times: Tensor) -> Tensor:
        mixed = x @ first
        for place, time in enumerate(times):
            mixed = mixed + (1 + place) * time.double().view(-1, 1, 1)
        return torch.sin(mixed) @ second + 0.3 * x

    return network


def turned(network: Callable[..., Tensor], turn: Tensor) -> Callable[..., Tensor]:
    """Return the same network, of turned actions."""
    return lambda x, *times: network(x @ turn.T, *times) @ turn


def noise_of(process: Process, rows: int, seed: int) -> Tensor:
    return normal(rows, *process.noise_shape(2, 3), seed=seed)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@given(seed=seeds)
def test_rows_of_a_batch_do_not_meet(process: Process, seed: int) -> None:
    noise, network = noise_of(process, 3, seed), bent(seed)
    alone = torch.cat([process.generate(network, row) for row in noise.split(1)])
    torch.testing.assert_close(process.generate(network, noise), alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@given(seed=seeds)
def test_no_direction_is_special(process: Process, seed: int) -> None:
    """Noise and network turned give actions turned."""
    noise, network, turn = noise_of(process, 2, seed), bent(seed), rotation(3, seed)
    found = process.generate(turned(network, turn), noise @ turn)
    torch.testing.assert_close(found, process.generate(network, noise) @ turn, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("model", ONE_STEP, ids=lambda model: type(model).__name__)
@given(seed=seeds)
def test_one_step_models_mix_no_rows_and_know_no_direction(
    model: MeanFlow | Shortcut | ConsistencyDistillation, seed: int
) -> None:
    noise, network, turn = normal(3, 2, 3, seed=seed), bent(seed), rotation(3, seed)
    made = model.generate(network, noise)
    alone = torch.cat([model.generate(network, row) for row in noise.split(1)])
    torch.testing.assert_close(made, alone, atol=1e-10, rtol=1e-10)
    found = model.generate(turned(network, turn), noise @ turn)
    torch.testing.assert_close(found, made @ turn, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("solver", list(NUM_STAGES))
@given(seed=seeds)
def test_solvers_do_not_depend_on_units(solver: Solver, seed: int) -> None:
    """In coordinates y = (x - shift) A⁻¹, in which dy/dt = v(x) A⁻¹, they go the same way."""
    x, velocity, shift = normal(2, 2, 3, seed=seed), bent(seed), normal(3, seed=seed + 1)
    units = rotation(3, seed) @ torch.diag(torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64))
    inverse = torch.linalg.inv(units)
    there = solve(
        lambda y, t: velocity(y @ units + shift, t) @ inverse,
        (x - shift) @ inverse,
        solver=solver,
        num_steps=3,
    )
    here = solve(velocity, x, solver=solver, num_steps=3)
    torch.testing.assert_close(there @ units + shift, here, atol=1e-8, rtol=1e-8)


@given(seed=seeds)
def test_the_adaptive_solver_goes_where_many_small_steps_go(seed: int) -> None:
    x, velocity = normal(2, 2, 3, seed=seed), bent(seed)
    many = solve(velocity, x, solver="rk4", num_steps=60)
    torch.testing.assert_close(dormand_prince(velocity, x, tolerance=1e-7), many, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@given(seed=seeds)
def test_what_a_network_predicts_does_not_change_where_diffusion_leads(schedule, sampler, seed: int) -> None:
    """The same knowledge told as noise, as actions or as velocity."""
    told_noise = Diffusion(schedule=schedule, sampler=sampler, prediction="noise", num_steps=4)
    noise, network = noise_of(told_noise, 2, seed), bent(seed)

    def actions(x: Tensor, time: Tensor) -> Tensor:
        return told_noise.separate(x, network(x, time), time)[0]

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        made, eps = told_noise.separate(x, network(x, time), time)
        signal = told_noise.signal(time).view(-1, 1, 1)
        return signal.sqrt() * eps - (1 - signal).sqrt() * made

    expected = told_noise.generate(network, noise)
    for prediction, told in (("sample", actions), ("velocity", velocity)):
        process = Diffusion(schedule=schedule, sampler=sampler, prediction=prediction, num_steps=4)
        torch.testing.assert_close(process.generate(told, noise), expected, atol=1e-6, rtol=1e-6)


@given(seed=seeds, scale=st.floats(-2, 8))
def test_guidance_is_affine_in_its_scale(seed: int, scale: float) -> None:
    x, time = normal(3, 2, 3, seed=seed), torch.rand(3, dtype=torch.float64)
    with_it, without = bent(seed), bent(seed + 1)
    guided = Guidance(scale=scale).guide(with_it, without)(x, time)
    expected = scale * with_it(x, time) + (1 - scale) * without(x, time)
    torch.testing.assert_close(guided, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        Guidance(scale=scale).guide(with_it, with_it)(x, time), with_it(x, time), atol=1e-9, rtol=1e-9
    )


@given(seed=seeds, scale=st.floats(0, 4))
def test_to_guide_the_noise_is_to_guide_the_velocity(seed: int, scale: float) -> None:
    """Both are the same affine function of the score: here of diffusion, through DDIM."""
    told = Diffusion(num_steps=4)
    noise, with_it, without = noise_of(told, 2, seed), bent(seed), bent(seed + 1)

    def as_velocity(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def velocity(x: Tensor, time: Tensor) -> Tensor:
            actions, eps = told.separate(x, network(x, time), time)
            signal = told.signal(time).view(-1, 1, 1)
            return signal.sqrt() * eps - (1 - signal).sqrt() * actions

        return velocity

    guidance = Guidance(scale=scale)
    by_noise = told.generate(guidance.guide(with_it, without), noise)
    by_velocity = Diffusion(num_steps=4, prediction="velocity").generate(
        guidance.guide(as_velocity(with_it), as_velocity(without)), noise
    )
    torch.testing.assert_close(by_velocity, by_noise, atol=1e-6, rtol=1e-6)


@given(seed=seeds, weight=st.sampled_from([0.0, 0.5, 30.0]))
def test_couplings_keep_every_noise_once_and_never_pair_worse(seed: int, weight: float) -> None:
    actions, noise, condition = (normal(20, 2, 3, seed=seed + place) for place in range(3))
    condition = condition[:, 0]
    for paired, of_condition in (
        (naive_coupling(actions, noise), 0.0),
        (ConditionalCoupling(condition_weight=weight).pair(actions, noise, condition), weight),
    ):
        order = (paired[:, None] == noise[None]).flatten(2).all(dim=-1).long().argmax(dim=1)
        assert torch.equal(order.sort().values, torch.arange(20))
        cost = (actions - paired).square().sum()
        cost = cost + of_condition * (condition - condition[order]).square().sum()
        assert cost <= (actions - noise).square().sum() + 1e-9


@given(seed=seeds)
def test_couplings_do_not_depend_on_where_actions_are_or_how_axes_lie(seed: int) -> None:
    actions, noise, condition = (normal(12, 1, 3, seed=seed + place) for place in range(3))
    condition, turn, shift = condition[:, 0], rotation(3, seed), normal(3, seed=seed + 7)
    coupling = ConditionalCoupling(condition_weight=2.0)
    moved = coupling.pair(actions @ turn + shift, noise @ turn, condition + 5.0)
    torch.testing.assert_close(moved, coupling.pair(actions, noise, condition) @ turn, atol=1e-12, rtol=0)
    assert torch.equal(naive_coupling(actions + shift, noise), naive_coupling(actions, noise))


@given(seed=seeds)
def test_straightness_depends_on_the_shape_of_a_path_alone(seed: int) -> None:
    """Turned, moved and twice as large, a path is as straight as before, and never more than straight."""
    x, velocity, turn = normal(3, 2, 3, seed=seed), bent(seed), rotation(3, seed)
    found = straightness(velocity, x, num_steps=8)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    shift = normal(3, seed=seed + 1)
    moved = straightness(
        lambda y, t: 2 * velocity((y - shift) @ turn.T / 2, t) @ turn, 2 * x @ turn + shift, num_steps=8
    )
    torch.testing.assert_close(moved, found, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("time", "low", "high"),
    [
        (UniformTime(low=0.2, high=0.7), 0.2, 0.7),
        (BetaTime(), 0.001, 1.0),
        (BetaTime(alpha=0.7, beta=0.6, low=0.3), 0.3, 1.0),
        (LogitNormalTime(mean=-0.4), 0.0, 1.0),
    ],
    ids=str,
)
@given(seed=seeds)
def test_times_stay_within_their_bounds(time: TimeDensity, low: float, high: float, seed: int) -> None:
    drawn = time.sample(500, torch.Generator().manual_seed(seed))
    assert low <= drawn.min() + 1e-7
    assert drawn.max() <= high + 1e-7
    assert drawn.std() > 0.05


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), seeds)
def test_diffusion_keeps_the_variance_and_flow_the_line(times: list[float], seed: int) -> None:
    time = torch.tensor(times, dtype=torch.float64)
    actions, noise = normal(2, len(times), 2, 3, seed=seed)
    signal = Diffusion().signal(time).view(-1, 1, 1)
    noisy, _ = Diffusion().corrupt(actions, noise=noise, time=time)
    aside = signal.sqrt() * noise - (1 - signal).sqrt() * actions
    torch.testing.assert_close(noisy.square() + aside.square(), actions.square() + noise.square())
    on_line, velocity = FlowMatching().corrupt(actions, noise=noise, time=time)
    torch.testing.assert_close(on_line - time.view(-1, 1, 1) * velocity, actions)
