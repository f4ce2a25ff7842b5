"""A policy that goes on from planned actions: exact where committed, in the new frame, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pizero.contract import ActionForm, Contract, Convention
from pizero.data.conventions import find_convention
from pizero.data.processor import Processor
from pizero.data.text import ByteTokenizer
from pizero.embodiment import Embodiment
from pizero.generative.chunking import soft_mask
from pizero.models.build import build
from pizero.models.pi0 import Pi0
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.policy.policy import Policy
from pizero.policy.prepared import Prepared
from pizero.robots import ALOHA, METAWORLD, METAWORLD_POSITIONS, NAVIGATION2D
from pizero.types import Continuation, ContinuationMethod, Example, Observation
from tests.examples import TINY_PI0, contract, observation

HORIZON = 8
METHODS: tuple[ContinuationMethod, ...] = ("guided", "guided_identity", "trained")
ROBOTS: dict[str, tuple[Embodiment, ActionForm, Convention]] = {
    "velocities": (METAWORLD, "displacement", "native"),
    "positions": (METAWORLD_POSITIONS, "relative", "native"),
    "two arms": (ALOHA, "relative", "aloha"),
    "recorded": (NAVIGATION2D, "recorded", "native"),
}


def contract_of(robot: str, *, width: int = 0) -> Contract:
    embodiment, form, convention = ROBOTS[robot]
    base = contract(embodiment)
    statistics = replace(
        base.statistics,
        action_form=form,
        convention=convention,
        horizon=HORIZON if form == "displacement" else 1,
    )
    tokens = 80 if embodiment is ALOHA else base.max_tokens
    return replace(
        base, horizon=HORIZON, convention=convention, statistics=statistics, width=width, max_tokens=tokens
    )


def policy_of(robot: str = "velocities", *, width: int = 0, max_delay: int = 4, **changes: Any) -> Policy:
    agreed = contract_of(robot, width=width)
    size = {
        "state_dim": width or agreed.embodiment.state_dim,
        "action_dim": width or agreed.embodiment.action_dim,
    }
    config = replace(TINY_PI0, horizon=HORIZON, max_delay=max_delay, **size, **changes)
    return Policy(build(config, seed=1), agreed)


def plan(policy: Policy, length: int = HORIZON, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = (
        np.array([getattr(each, end) for each in policy.contract.embodiment.actions])
        for end in ("low", "high")
    )
    return rng.uniform(low, high, (length, len(low))).astype(np.float32)


def going_on(policy: Policy, method: ContinuationMethod, **changes: Any) -> Continuation:
    given: dict[str, Any] = {"actions": plan(policy), "delay": 2, "execution": 4, "method": method}
    return Continuation(**(given | changes))


def noise_of(policy: Policy, seed: int) -> np.ndarray:
    return policy.draw_noise(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("robot", list(ROBOTS))
def test_committed_actions_come_back_bit_for_bit(robot: str, method: ContinuationMethod) -> None:
    policy = policy_of(robot)
    shown = observation(policy.contract.embodiment, seed=2)
    continuation = going_on(policy, method)
    before = continuation.actions.copy()
    policy.reset(seed=7)
    chunk = policy.act(shown, continuation=continuation)
    policy.reset(seed=7)
    free = policy.act(shown)
    assert chunk.dtype == np.float32
    assert chunk.shape == free.shape == (HORIZON, policy.contract.embodiment.action_dim)
    assert chunk[:2].tobytes() == continuation.actions[:2].tobytes()
    assert np.array_equal(continuation.actions, before)
    assert np.abs(chunk[2:] - free[2:]).max() > 1e-4
    policy.reset(seed=7)
    assert np.array_equal(policy.act(shown, continuation=continuation), chunk)


POLICY = policy_of("positions")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_delay_and_execution_that_fit_are_exact(data: st.DataObject) -> None:
    delay = data.draw(st.integers(0, HORIZON // 2))
    execution = data.draw(st.integers(max(delay, 1), HORIZON - delay))
    length = data.draw(st.integers(delay, HORIZON))
    method = data.draw(st.sampled_from(METHODS))
    continuation = Continuation(actions=plan(POLICY, length), delay=delay, execution=execution, method=method)
    chunk = POLICY.act(observation(METAWORLD_POSITIONS), continuation=continuation)
    assert chunk.shape == (HORIZON, 4)
    assert chunk[:delay].tobytes() == continuation.actions[:delay].tobytes()
    assert np.isfinite(chunk).all()


@pytest.mark.parametrize("robot", list(ROBOTS))
def test_a_whole_chunk_is_written_as_in_training(robot: str) -> None:
    policy = policy_of(robot, width=32)
    shown, actions = observation(policy.contract.embodiment, seed=3), plan(policy)
    written = policy.processor.encode_actions(actions, shown)
    trained = policy.processor.encode_example(
        Example(observation=shown, actions=actions, valid=np.ones(HORIZON, dtype=bool))
    )
    assert np.array_equal(written, trained.actions)
    assert written.shape == (HORIZON, 32)
    part = policy.processor.encode_actions(actions[:3], shown)
    assert np.array_equal(part, written[:3])


@pytest.mark.parametrize("robot", list(ROBOTS))
def test_planned_actions_are_seen_from_the_new_observation(robot: str) -> None:
    """Written out by hand: sums from now for velocities, differences to the new state for positions."""
    embodiment, form, convention = ROBOTS[robot]
    processor = Processor(contract_of(robot))
    shown, actions = observation(embodiment, seed=4), plan(policy_of(robot), 5)
    known = find_convention(convention)
    state, written = known.encode_state(shown.state), known.encode_actions(actions).astype(np.float64)
    for number, dimension in enumerate(embodiment.actions):
        if dimension.kind == "gripper":
            continue
        if form == "displacement" and dimension.kind == "velocity":
            written[:, number] = [written[: i + 1, number].sum() for i in range(5)]
        if form == "relative":
            written[:, number] -= state[number]
    statistics = processor.contract.statistics.actions
    expected = (written - np.array(statistics.mean)) / (np.array(statistics.std) + 1e-6)
    np.testing.assert_allclose(processor.encode_actions(actions, shown), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["guided", "guided_identity"])
def test_guidance_of_a_known_velocity_in_robot_units(method: ContinuationMethod) -> None:
    """A network that says b whatever it sees has J = 1: every number then follows a recursion of its own.

    Planned are 6 actions of 8, in 4 dimensions of 7; what is missing and what is padded is not guided.
    """
    policy = policy_of("positions", width=7)
    assert isinstance(policy.model, Pi0)
    bias = torch.linspace(-0.4, 0.5, 7)
    with torch.no_grad():
        policy.model.action_out.weight.zero_()
        policy.model.action_out.bias.copy_(bias)  # pyright: ignore
    shown, noise = observation(METAWORLD_POSITIONS), noise_of(policy, 3)
    continuation = going_on(policy, method, actions=plan(policy, 6), delay=1, execution=3)
    planned = policy.processor.encode_actions(continuation.actions, shown)
    weights = np.zeros((HORIZON, 7))
    weights[:6, :4] = soft_mask(HORIZON, delay=1, execution=3)[:6, None]
    target = np.zeros((HORIZON, 7))
    target[:6] = planned
    x = noise.astype(np.float64)
    for step in range(10):
        t = 1 - step / 10
        weight = min(5.0, (t**2 + (1 - t) ** 2) / (t * (1 - t))) if t < 1 else 5.0
        velocity = bias.numpy() - weight * weights * (target - (x - t * bias.numpy()))
        x = x - velocity / 10
    expected = policy.processor.decode(x.astype(np.float32), shown)
    expected[:1] = continuation.actions[:1]
    found = policy.act(shown, continuation=continuation, noise=noise)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - policy.act(shown, noise=noise)).max() > 0.1


def test_a_given_prefix_reaches_the_network_as_it_is_executed() -> None:
    """What the network is shown of committed actions decodes to them, whatever form they have."""
    policy, shown = policy_of("velocities"), observation(METAWORLD)
    continuation = going_on(policy, "trained", delay=3)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    assert isinstance(policy.model, Pi0)
    denoise = policy.model.denoise

    def watched(context: Any, noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((noisy, time))
        return denoise(context, noisy, time)

    policy.model.denoise = watched
    policy.act(shown, continuation=continuation)
    assert len(seen) == 10
    for noisy, time in seen:
        read = policy.processor.decode(noisy[0].numpy(), shown)
        np.testing.assert_allclose(read[:3], continuation.actions[:3], atol=1e-5)
        assert (time[0, :3] == 0).all()
        assert (time[0, 3:] > 0).all()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"delay": 3, "execution": 2}, r"delay of 3 and an execution of 2 ticks.*delay ≤ execution ≤ horizon"),
    (
        {"delay": 2, "execution": 7},
        r"chunk of 8 actions cannot go on after a delay of 2 and an execution of 7",
    ),
    ({"delay": 5, "execution": 5}, r"delay of 5 and an execution of 5"),
    ({"delay": -1}, r"delay of -1"),
    ({"delay": 0, "execution": 0}, r"an execution of at least 1"),
    ({"actions": np.zeros((1, 4), np.float32)}, r"expected 2 to 8 planned actions of 4 numbers.*\[1, 4\]"),
    ({"actions": np.zeros((9, 4), np.float32)}, r"expected 2 to 8 planned actions of 4 numbers.*\[9, 4\]"),
    ({"actions": np.zeros((8, 3), np.float32)}, r"planned actions of 4 numbers.*found shape \[8, 3\]"),
    ({"actions": np.full((8, 4), np.nan, np.float32)}, r"planned actions that are finite"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_does_not_fit_is_refused_before_anything_runs(
    method: ContinuationMethod, changes: dict[str, Any], message: str
) -> None:
    policy = policy_of()

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("the network was asked")

    policy.model.observe = refuse  # pyright: ignore
    with pytest.raises(ValueError, match=message):
        policy.act(observation(METAWORLD), continuation=going_on(policy, method, **changes))


def test_a_prefix_that_was_not_learnt_is_refused() -> None:
    plain, short = policy_of(max_delay=0), policy_of(max_delay=2)
    assert (plain.max_delay, short.max_delay) == (0, 2)
    shown = observation(METAWORLD)
    with pytest.raises(ValueError, match=r"did not learn to be given.*method 'guided', or train it"):
        plain.act(shown, continuation=going_on(plain, "trained"))
    with pytest.raises(ValueError, match=r"up to 2 actions, found a delay of 3.*larger max_delay"):
        short.act(shown, continuation=going_on(short, "trained", delay=3))
    short.act(shown, continuation=going_on(short, "trained", delay=2))
    plain.act(shown, continuation=going_on(plain, "guided"))


def test_tokens_cannot_go_on() -> None:
    model = build(
        Pi0FASTConfig(
            backbone=replace(TINY_PI0.backbone, vocab_size=ByteTokenizer.vocab_size + 640),
            action_dim=4,
            horizon=HORIZON,
        )
    )
    policy = Policy(model, replace(contract_of("velocities"), prompt="pi0_fast", max_tokens=80))
    with pytest.raises(
        ValueError, match="writes its actions as tokens, and cannot go on from planned actions"
    ):
        policy.act(observation(METAWORLD), continuation=going_on(policy, "guided"))
    with pytest.raises(ValueError, match="writes its actions as tokens, and has no flow steps"):
        policy.act(observation(METAWORLD), num_steps=5)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_number_of_steps_is_that_of_the_request(num_steps: int) -> None:
    policy, shown = policy_of(), observation(METAWORLD)
    noise = noise_of(policy, 1)
    found = policy.act(shown, num_steps=num_steps, noise=noise)
    assert isinstance(policy.model, Pi0)
    usual = policy.act(shown, noise=noise)
    policy.model.process = replace(policy.model.process, num_steps=num_steps)
    assert np.array_equal(policy.act(shown, noise=noise), found)
    assert not np.array_equal(usual, found)
    with pytest.raises(ValueError, match="at least one flow step, found 0"):
        policy.act(shown, num_steps=0)


def test_another_solver_is_refused() -> None:
    policy = policy_of()
    assert isinstance(policy.model, Pi0)
    policy.model.process = replace(policy.model.process, solver="heun")
    with pytest.raises(ValueError, match="Euler's steps"):
        policy.act(observation(METAWORLD), continuation=going_on(policy, "guided"))
    policy.act(observation(METAWORLD), continuation=going_on(policy, "trained"))


def mixed_requests(policy: Policy) -> list[Prepared]:
    """Return requests of every kind, of other observations, delays, steps and noise, in no order."""
    embodiment = policy.contract.embodiment
    kinds: list[tuple[Continuation | None, int | None]] = [
        (None, None),
        (going_on(policy, "guided"), None),
        (going_on(policy, "trained"), None),
        (None, 3),
        (going_on(policy, "guided", delay=0, execution=1, actions=plan(policy, 3, seed=8)), None),
        (going_on(policy, "guided_identity"), 3),
        (None, None),
        (going_on(policy, "trained", delay=4), None),
    ]
    return [
        policy.prepare(
            observation(embodiment, seed=row),
            continuation=continuation,
            num_steps=num_steps,
            noise=noise_of(policy, row),
        )
        for row, (continuation, num_steps) in enumerate(kinds)
    ]


@pytest.mark.parametrize("robot", ["velocities", "two arms"])
def test_many_requests_at_once_are_answered_as_each_alone(robot: str) -> None:
    policy = policy_of(robot)
    requests = mixed_requests(policy)
    together = policy.infer(requests)
    looks = []
    assert isinstance(policy.model, Pi0)
    observe = policy.model.observe
    policy.model.observe = lambda inputs: looks.append(len(inputs.state)) or observe(inputs)  # type: ignore
    again = policy.infer(requests)
    assert sorted(looks) == [1, 1, 2, 2, 2]  # one pass for each kind
    for row, request in enumerate(requests):
        assert np.array_equal(together[row], again[row])
        (alone,) = policy.infer([request])
        np.testing.assert_allclose(together[row], alone, atol=2e-5)
        planned = request.planned
        solo = policy.act(
            request.observation,
            continuation=None if planned is None else planned.continuation,
            num_steps=request.num_steps,
            noise=request.noise,
        )
        assert np.array_equal(solo, policy.finish(request, alone))


def test_what_others_ask_does_not_reach_a_row() -> None:
    """Bitwise: a row's numbers are the same whatever stands in the other rows of its batch."""
    policy = policy_of()
    requests = mixed_requests(policy)
    before = policy.infer(requests)
    other: Observation = observation(METAWORLD, seed=99)
    requests[0] = policy.prepare(other, noise=noise_of(policy, 77))
    requests[2] = policy.prepare(other, noise=noise_of(policy, 78), continuation=going_on(policy, "trained"))
    after = policy.infer(requests)
    for row in (1, 3, 4, 5, 6, 7):
        assert np.array_equal(before[row], after[row])
    for row in (0, 2):
        assert not np.array_equal(before[row], after[row])


def test_noise_of_a_generator_is_that_of_an_episode() -> None:
    policy, shown = policy_of(), observation(METAWORLD)
    policy.reset(seed=12)
    generator = torch.Generator().manual_seed(12)
    for _ in range(3):
        own = policy.act(shown)
        assert np.array_equal(own, policy.act(shown, noise=policy.draw_noise(generator)))
        policy.noise.set_state(generator.get_state())


def test_a_policy_says_its_horizon_and_rate() -> None:
    policy = policy_of()
    assert (policy.horizon, policy.rate) == (HORIZON, METAWORLD.rate)


def test_noise_of_another_shape_is_refused() -> None:
    policy = policy_of()
    with pytest.raises(ValueError, match=r"noise of shape \[8, 4\], found \[3, 2\]"):
        policy.act(observation(METAWORLD), noise=np.zeros((3, 2), np.float32))
