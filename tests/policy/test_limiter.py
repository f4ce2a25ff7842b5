"""Commands within limits, whatever they are to follow, and no slower than limits allow."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pizero.embodiment import Dimension, Embodiment
from pizero.policy.limiter import Limiter
from pizero.policy.limits import DimensionLimits, Limits, check_limits, read_limits, usual_limits
from pizero.records import write_record
from pizero.robots import CATALOG
from tests.policy.players import ARM

PERIOD = 0.02


def robot(*dimensions: Dimension) -> Embodiment:
    return Embodiment(name="r", state=ARM.state, actions=dimensions, cameras=(), rate=50.0)


def one(kind: str = "joint", *, rate: float | None, acceleration: float | None, low: float, high: float):
    """Return the limiter of a robot of one number."""
    dimension = Dimension(name="a", unit="", kind=kind, low=low, high=high)  # pyright: ignore
    limit = DimensionLimits(name="a", low=low, high=high, rate=rate, acceleration=acceleration)
    return Limiter(robot(dimension), Limits(dimensions=(limit,)), period=PERIOD)


targets = st.lists(st.floats(-1e6, 1e6) | st.floats(-2, 2), min_size=2, max_size=60)


@settings(max_examples=200)
@given(
    targets=targets,
    rate=st.none() | st.floats(0.1, 50),
    acceleration=st.none() | st.floats(0.5, 500),
    low=st.floats(-2, 0),
    brakes=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_positions_rates_and_accelerations_are_kept_whatever_is_followed(
    targets: list[float], rate: float | None, acceleration: float | None, low: float, brakes: list[bool]
) -> None:
    limiter = one(rate=rate, acceleration=acceleration, low=low, high=1.0)
    limiter.start(np.zeros(1))
    told = [np.zeros(1)]
    for target, brake in zip(targets, brakes, strict=False):
        command = limiter.brake() if brake else limiter.follow(np.array([target]))
        assert command is not None
        told.append(command)
    commands = np.concatenate([told[0], *told])
    assert (commands.astype(np.float32) >= low).all()
    assert (commands.astype(np.float32) <= 1.0).all()
    steps = np.diff(commands)
    if rate is not None:
        assert np.abs(steps).max() <= rate * PERIOD * (1 + 1e-9) + 1e-12
    if acceleration is not None:
        assert np.abs(np.diff(steps)).max() <= acceleration * PERIOD**2 * (1 + 1e-6) + 1e-9


def test_a_step_is_reached_as_fast_as_rate_and_acceleration_allow() -> None:
    """Steps of at most 0.04 that change by 0.008: 0.008, 0.016, 0.024, 0.032, 21 times 0.04, and down again
    sum up to 1 in 29 ticks; no fewer can.
    """
    limiter = one(rate=2.0, acceleration=20.0, low=-5.0, high=5.0)
    limiter.start(np.zeros(1))
    commands = [float(limiter.follow(np.ones(1))[0]) for _ in range(50)]
    assert max(commands) <= 1.0 + 1e-9
    there = next(tick for tick, command in enumerate(commands) if command > 1.0 - 1e-9)
    assert there + 1 == 29
    assert commands[-1] == pytest.approx(1.0, abs=1e-12)


def test_what_is_within_limits_passes_unchanged_and_unnamed() -> None:
    """A sine whose rate and acceleration are allowed is followed exactly."""
    limiter = one(rate=1.0, acceleration=5.0, low=-1.0, high=1.0)
    limiter.start(np.zeros(1))
    for tick in range(1, 300):
        target = 0.2 * (1 - math.cos(2 * tick * PERIOD))
        command = limiter.follow(np.array([target]))
        assert command[0] == pytest.approx(target, abs=1e-9)
        assert limiter.touched == ()


@pytest.mark.parametrize(
    ("given", "name"), [("rate", "rate:a"), ("acceleration", "acceleration:a"), ("position", "position:a")]
)
def test_what_is_given_up_is_named(given: str, name: str) -> None:
    limits = {"rate": (1.0, None), "acceleration": (None, 1.0), "position": (None, None)}[given]
    limiter = one(rate=limits[0], acceleration=limits[1], low=-1.0, high=1.0)
    limiter.start(np.zeros(1))
    limiter.follow(np.array([3.0 if given == "position" else 0.5]))
    assert limiter.touched == (name,)


def test_an_angle_goes_the_short_way_round() -> None:
    limiter = one("angle", rate=1.0, acceleration=None, low=-math.pi, high=math.pi)
    limiter.start(np.array([3.1]))
    commands = [float(limiter.follow(np.array([-3.1]))[0]) for _ in range(6)]
    assert commands[0] == pytest.approx(3.12)
    assert commands[-1] == pytest.approx(-3.1)
    turned = np.diff(np.unwrap([3.1, *commands]))
    assert (turned >= -1e-6).all()
    assert turned.max() <= 0.02 + 1e-9


def test_a_rotation_turns_at_its_rate_about_one_axis() -> None:
    """From no turn to a quarter turn at 1 rad/s: after n ticks the angle is n · 0.02, about one axis."""
    names = [Dimension(name=f"q{axis}", unit="", kind="quaternion_xyzw", low=-1, high=1) for axis in "xyzw"]
    limits = tuple(DimensionLimits(name=each.name, low=-1, high=1, rate=1.0) for each in names)
    limiter = Limiter(robot(*names), Limits(dimensions=limits), period=PERIOD)
    limiter.start(np.array([0.0, 0.0, 0.0, 1.0]))
    target = Rotation.from_rotvec([0, math.pi / 2, 0]).as_quat()
    for tick in range(1, 90):
        command = limiter.follow(-target)
        turned = Rotation.from_quat(command).as_rotvec()
        expected = [0, min(tick * PERIOD, math.pi / 2), 0]
        np.testing.assert_allclose(turned, expected, atol=1e-7)
        assert (limiter.touched == ("rate:qx",)) == (tick * PERIOD < math.pi / 2)


def test_a_brake_stops_positions_and_brings_velocities_to_zero() -> None:
    limits = Limits(
        dimensions=(
            DimensionLimits(name="joint", low=-10.0, high=10.0, acceleration=50.0),
            DimensionLimits(name="slide", low=-1.0, high=1.0, rate=10.0),
            DimensionLimits(name="gripper", low=0.0, high=1.0),
        )
    )
    limiter = Limiter(ARM, limits, period=PERIOD)
    limiter.start(np.array([0.0, 0.0, 0.5]))
    for tick in range(1, 6):
        limiter.follow(np.array([0.02 * tick * (tick + 1) / 2, 0.6, 0.9]))
    stops = np.array([limiter.brake() for _ in range(8)])
    assert np.diff(stops[:, 0], prepend=0.3).tolist() == pytest.approx([0.08, 0.06, 0.04, 0.02, 0, 0, 0, 0])
    assert stops[:, 1].tolist() == pytest.approx([0.4, 0.2, 0, 0, 0, 0, 0, 0])
    assert stops[:, 2].tolist() == pytest.approx([0.9] * 8)


@pytest.mark.parametrize("embodiment", CATALOG.values(), ids=list(CATALOG))
def test_every_robot_of_the_catalog_has_usual_limits_that_can_be_edited(
    embodiment: Embodiment, tmp_path: Path
) -> None:
    limits = usual_limits(embodiment)
    write_record(tmp_path / "limits.json", limits)
    assert read_limits(tmp_path / "limits.json", embodiment) == limits


def test_limits_that_do_not_fit_are_refused() -> None:
    usual = usual_limits(ARM)
    joint, *rest = usual.dimensions
    wider = replace(joint, high=11.0)
    with pytest.raises(
        ValueError, match=r"joint: expected low < high within the robot's -10.0 … 10.0, found"
    ):
        check_limits(replace(usual, dimensions=(wider, *rest)), ARM)
    with pytest.raises(ValueError, match=r"no action is called 'joints': .*joint"):
        check_limits(replace(usual, dimensions=(replace(joint, name="joints"), *rest)), ARM)
    with pytest.raises(ValueError, match="expected a rate above 0 or none, found -1"):
        check_limits(replace(usual, dimensions=(replace(joint, rate=-1.0), *rest)), ARM)
