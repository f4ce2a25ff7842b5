"""Commands between actions lie on the curve that scipy draws through them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from pizero.embodiment import Dimension
from pizero.policy.interpolation import Interpolator
from pizero.policy.limiter import Limiter
from pizero.policy.limits import DimensionLimits, Limits
from tests.policy.players import ARM

FACTOR = 10

JOINT = ARM.actions[0]


def commands_of(actions: np.ndarray, dimensions: tuple[Dimension, ...], factor: int = FACTOR) -> np.ndarray:
    """Return all commands of a chunk, each action told with the one after it."""
    interpolator = Interpolator(dimensions, factor=factor)
    following = [*actions[1:], None]
    parts = [interpolator.between(one, after) for one, after in zip(actions, following, strict=True)]
    return np.concatenate(parts)


columns = arrays(np.float32, st.integers(3, 20), elements=st.floats(-5, 5, width=32))


@given(column=columns)
def test_joints_follow_the_curve_that_scipy_draws(column: np.ndarray) -> None:
    """Between all actions but the first two and the last two, where ends are treated in ways of their own."""
    found = commands_of(column[:, None], (JOINT,))[:, 0]
    ours = found[FACTOR:]
    times = np.arange(len(column))
    fine = (np.arange(len(ours)) + 1) / FACTOR
    expected = PchipInterpolator(times, column.astype(np.float64))(fine)
    inner = (fine > 1) & (fine <= len(column) - 2)
    np.testing.assert_allclose(ours[inner], expected[inner], atol=1e-6)
    np.testing.assert_allclose(found[FACTOR - 1 :: FACTOR], column)


@given(column=columns)
def test_speed_is_continuous_and_nothing_goes_beyond_two_actions(column: np.ndarray) -> None:
    """At a hundred times the rate, speed changes little between commands: C1."""
    factor = 200
    found = commands_of(column[:, None], (JOINT,), factor)[:, 0]
    jumps = np.abs(np.diff(np.diff(found))).max()
    largest = np.abs(np.diff(column.astype(np.float64))).max()
    assert jumps <= 20 * largest / factor**2 + 1e-9
    for tick in range(1, len(column)):
        part = found[tick * factor : (tick + 1) * factor]
        low, high = sorted(column[tick - 1 : tick + 1])
        assert (part >= low - 1e-6).all()
        assert (part <= high + 1e-6).all()


def test_velocities_and_grippers_are_held() -> None:
    actions = np.array([[0, 0.1, 0.0], [1, 0.5, 1.0], [2, -0.5, 0.3]], dtype=np.float32)
    found = commands_of(actions, ARM.actions)
    np.testing.assert_array_equal(found[:, 1:], np.repeat(actions[:, 1:].astype(np.float64), FACTOR, axis=0))


def test_angles_go_the_short_way_round() -> None:
    angle = replace(JOINT, kind="angle", low=-math.pi, high=math.pi)
    found = commands_of(np.array([[3.0], [-3.0], [-2.8]], dtype=np.float32), (angle,))[:, 0]
    turned = np.unwrap(found)
    assert np.diff(turned).min() >= -1e-6
    assert np.abs(found).max() <= math.pi + 1e-9
    assert turned[-1] - turned[0] == pytest.approx(2 * math.pi - 3.0 - 2.8, abs=1e-5)


def test_rotations_turn_as_scipy_s_slerp() -> None:
    names = tuple(replace(JOINT, name=f"q{axis}", kind="quaternion_xyzw", low=-1, high=1) for axis in "xyzw")
    ends = Rotation.from_rotvec([[0.1, 0.2, 0.3], [1.0, -0.5, 0.2]])
    found = commands_of(ends.as_quat().astype(np.float32), names)[FACTOR:]
    expected = Slerp([0, 1], ends)((np.arange(FACTOR) + 1) / FACTOR)
    apart = (Rotation.from_quat(found).inv() * expected).magnitude()
    assert apart.max() < 1e-6
    assert np.abs(np.diff(found, axis=0)).max() < 0.2


@given(column=columns)
def test_behind_a_limiter_speed_and_acceleration_are_bounded(column: np.ndarray) -> None:
    """50 Hz chunks at 500 Hz, as an executor sends them, with jumps of up to 10 between actions."""
    period, rate, acceleration = 0.002, 3.0, 40.0
    limit = DimensionLimits(name="joint", low=-4.0, high=4.0, rate=rate, acceleration=acceleration)
    robot = replace(ARM, actions=(JOINT,))
    limiter = Limiter(robot, Limits(dimensions=(limit,)), period=period)
    limiter.start(np.zeros(1))
    told = [limiter.follow(command) for command in commands_of(column[:, None], (JOINT,))]
    commands = np.array([0.0, 0.0, *(float(each[0]) for each in told)])
    assert np.abs(commands).max() <= 4.0
    assert np.abs(np.diff(commands)).max() <= rate * period + 1e-9
    assert np.abs(np.diff(commands, n=2)).max() <= acceleration * period**2 + 1e-9
