"""F25 and F26: whatever a policy says and a camera shows, a robot is told finite numbers within limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pizero.embodiment import Dimension
from pizero.policy.guard import Guard, OnViolation
from pizero.policy.limits import DimensionLimits, Limits
from pizero.policy.robot import Stamped
from pizero.types import Observation
from tests.policy.players import ARM, seen

PERIOD = 1 / ARM.rate

LIMITS = Limits(
    dimensions=(
        DimensionLimits(name="joint", low=-2.0, high=2.0, rate=5.0, acceleration=50.0),
        DimensionLimits(name="slide", low=-0.3, high=0.3, rate=4.0),
        DimensionLimits(name="gripper", low=0.0, high=0.8),
    ),
    max_age=0.1,
    max_frozen=5,
    max_wait=1.0,
)

TURNING = replace(
    ARM,
    actions=tuple(
        Dimension(name=f"q{axis}", unit="", kind="quaternion_xyzw", low=-1, high=1) for axis in "xyzw"
    )
    + tuple(Dimension(name=f"m{n}", unit="", kind="rotation_6d", low=-1, high=1) for n in range(6))
    + (Dimension(name="turn", unit="rad", kind="angle", low=-3.2, high=3.2),),
)


def turning_limits() -> Limits:
    bounds = [
        DimensionLimits(name=each.name, low=each.low, high=each.high, rate=2.0) for each in TURNING.actions
    ]
    return Limits(dimensions=tuple(bounds), max_frozen=0)


def stamped(tick: int, *, age: float = 0.0) -> Stamped:
    return Stamped(observation=seen(tick), time=tick * PERIOD - age)


wild = (
    st.floats(width=32)
    | st.floats()
    | st.sampled_from([0.0, 1e30, -1e300, float("nan"), float("inf"), 2.0, -2.0])
)


def commands(width: int) -> st.SearchStrategy[np.ndarray | None]:
    right = arrays(np.float64, width, elements=wild) | arrays(
        np.float32, width, elements=st.floats(-3, 3, width=32)
    )
    wrong = st.sampled_from(
        [np.zeros(width + 1), np.zeros((1, width)), np.zeros(0), np.zeros(width, dtype=bool)]
    )
    return right | right | right | wrong | st.none()


@settings(max_examples=150)
@given(
    sequence=st.lists(commands(3), min_size=1, max_size=40),
    policy=st.sampled_from(["clamp", "hold", "stop"]),
    ages=st.lists(st.floats(0, 0.12), min_size=40, max_size=40),
)
def test_f25_whatever_is_asked_the_robot_is_told_finite_numbers_within_limits(
    sequence: list[np.ndarray | None], policy: OnViolation, ages: list[float]
) -> None:
    guard = Guard(ARM, LIMITS, policy)
    told = []
    for tick, (command, age) in enumerate(zip(sequence, ages, strict=False)):
        guarded = guard.check(command, stamped(tick, age=age), tick * PERIOD)
        assert guarded.command is not None
        told.append(guarded.command)
    assert all(each.dtype == np.float32 and each.shape == (3,) for each in told)
    rows = np.stack(told).astype(np.float64)
    assert np.isfinite(rows).all()
    low = np.array([each.low for each in LIMITS.dimensions])
    high = np.array([each.high for each in LIMITS.dimensions])
    assert ((rows >= low) & (rows <= high)).all()
    steps = np.diff(rows, axis=0, prepend=[[0.0, 0.0, 0.5]])
    assert np.abs(steps[:, 0]).max() <= 5.0 * PERIOD + 1e-6
    assert np.abs(steps[:, 1]).max() <= 4.0 * PERIOD + 1e-6
    assert np.abs(np.diff(steps[:, 0])).max(initial=0.0) <= 50.0 * PERIOD**2 + 1e-6


@settings(max_examples=60)
@given(sequence=st.lists(commands(11), min_size=1, max_size=20))
def test_f25_rotations_too(sequence: list[np.ndarray | None]) -> None:
    guard = Guard(TURNING, turning_limits())
    told = [guard.check(c, stamped(t), t * PERIOD).command for t, c in enumerate(sequence)]
    for command in told:
        if command is not None:
            assert np.isfinite(command).all()
            assert (np.abs(command) <= 3.2).all()
            assert (np.abs(command[:10]) <= 1.0).all()
            assert np.linalg.norm(command[:4]) == pytest.approx(1.0, abs=1e-5)


def drive(guard: Guard, ticks: int, command: np.ndarray, *, first: int = 0) -> list[np.ndarray]:
    found = []
    for tick in range(first, first + ticks):
        guarded = guard.check(command, stamped(tick), tick * PERIOD)
        assert guarded.command is not None
        found.append(guarded.command)
    return found


GOOD = np.array([0.0, 0.06, 0.5])


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (np.array([np.nan, 0, 0]), "not-finite:joint"),
        (np.array([0, np.inf, 0]), "not-finite:slide"),
        (np.zeros(4), "wrong-dimension"),
    ],
)
@pytest.mark.parametrize("policy", ["clamp", "hold", "stop"])
def test_f25_what_is_no_action_holds_or_stops(bad: np.ndarray, name: str, policy: OnViolation) -> None:
    state = "stopped" if policy == "stop" else "holding"
    guard = Guard(ARM, LIMITS, policy)
    drive(guard, 2, GOOD)
    guarded = guard.check(bad, stamped(2), 2 * PERIOD)
    assert (guarded.state, guarded.interventions) == (state, (name,))
    assert guarded.command is not None
    assert guarded.command.tolist() == pytest.approx([0.0, 0.0, 0.5])
    assert guard.interventions == {name: 1}
    after = guard.check(GOOD, stamped(3), 3 * PERIOD)
    assert after.state == ("stopped" if policy == "stop" else "running")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (np.array([50.0, 0.06, 0.5]), "rate:joint"),
        (np.array([0.0, 0.5, 0.5]), "position:slide"),
        (np.array([0.0, 0.06, 1.0]), "gripper:gripper"),
    ],
)
def test_f25_limits_are_kept_by_the_chosen_policy(command: np.ndarray, name: str) -> None:
    """Ten times the rate, and beyond a position: brought within, held, or stopped."""
    for policy, state in (("clamp", "running"), ("hold", "holding"), ("stop", "stopped")):
        guard = Guard(ARM, LIMITS, policy)
        drive(guard, 2, GOOD)
        guarded = guard.check(command, stamped(2), 2 * PERIOD)
        assert guarded.state == state
        assert name in guarded.interventions
        assert guard.interventions[name] == 1
        drive(guard, 1, GOOD, first=3)
        assert guard.state == ("stopped" if policy == "stop" else "running")


def without_camera(one: Stamped, now: float) -> Stamped:
    return replace(one, observation=replace(one.observation, images={}))


def stale(one: Stamped, now: float) -> Stamped:
    return replace(one, time=now - 0.2)


def frozen(one: Stamped, now: float) -> Stamped:
    return replace(one, observation=seen(0))


def smaller(one: Stamped, now: float) -> Stamped:
    return replace(one, observation=replace(one.observation, images={"top": np.zeros((2, 4, 3), np.uint8)}))


def lost(one: Stamped, now: float) -> Stamped:
    state = np.array([np.nan, 0.5], dtype=np.float32)
    return replace(one, observation=replace(one.observation, state=state))


@pytest.mark.parametrize(
    ("fault", "name", "within"),
    [
        (without_camera, "missing-camera:top", 1),
        (smaller, "missing-camera:top", 1),
        (stale, "stale-observation", 1),
        (lost, "state-not-finite", 1),
        (frozen, "frozen-camera:top", LIMITS.max_frozen + 1),
    ],
)
def test_f26_cameras_that_freeze_drop_out_or_lag_are_noticed_and_named(
    fault: Callable[[Stamped, float], Stamped], name: str, within: int
) -> None:
    guard = Guard(ARM, LIMITS)
    drive(guard, 3, GOOD)
    for tick in range(3, 3 + within):
        one = fault(stamped(tick), tick * PERIOD)
        guarded = guard.check(GOOD, one, tick * PERIOD)
        assert (guarded.state == "holding") == (tick == 2 + within)
    assert guarded.interventions == (name,)
    assert guarded.command is not None
    assert guarded.command[1] == 0.0
    assert guard.check(GOOD, stamped(20), 20 * PERIOD).state == "running"


def test_pictures_that_are_overwritten_in_place_are_not_taken_for_still() -> None:
    """Drivers hand out the same buffer again and again."""
    buffer = np.zeros((4, 4, 3), dtype=np.uint8)
    guard = Guard(ARM, LIMITS)
    for tick in range(20):
        buffer[...] = tick
        one = Observation(images={"top": buffer}, state=np.zeros(2, np.float32))
        guarded = guard.check(GOOD, Stamped(observation=one, time=tick * PERIOD), tick * PERIOD)
        assert guarded.state == "running"


def test_waiting_too_long_for_actions_stops_the_robot() -> None:
    guard = Guard(ARM, LIMITS)
    assert guard.check(None, stamped(0), 0.0).interventions == ()
    drive(guard, 5, GOOD, first=1)
    for tick in range(6, 90):
        guarded = guard.check(None, stamped(tick), tick * PERIOD)
        waited = (tick - 6) * PERIOD
        assert guarded.state == ("stopped" if waited > LIMITS.max_wait + 1e-9 else "holding")
    assert guard.interventions["nothing-planned"] == 84
    assert guard.interventions["waited-too-long"] >= 1
    assert guard.check(GOOD, stamped(90), 90 * PERIOD).state == "stopped"


def test_before_its_first_action_a_robot_may_wait_for_ever() -> None:
    """A network that is compiled for minutes is no reason to stop a robot that does not move."""
    guard = Guard(ARM, LIMITS)
    for tick in range(0, 5000, 50):
        assert guard.check(None, stamped(tick), tick * PERIOD).state == "holding"
    assert guard.interventions == {}
