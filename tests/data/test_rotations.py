"""Relative rotations against matrices multiplied by hand, and back to the very numbers that were recorded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.rotations import (
    ROTATION_KINDS,
    RotationKind,
    absolute_rotation,
    nearest_writing,
    relative_rotation,
    wrapped,
)
from pizero.embodiment import ROTATION_LENGTHS

seeds = st.integers(0, 2**32 - 1)


def matrix_of(kind: RotationKind, numbers: np.ndarray) -> np.ndarray:
    """Return a rotation's matrix by its textbook formula."""
    if kind == "axis_angle":  # Rodrigues
        angle = np.linalg.norm(numbers)
        x, y, z = numbers / angle if angle > 0 else numbers
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    if kind == "euler_xyz":
        (cx, cy, cz), (sx, sy, sz) = np.cos(numbers), np.sin(numbers)
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        return about_z @ about_y @ about_x
    if kind == "rotation_6d":
        first, second = numbers[:3], numbers[3:]
        return np.stack([first, second, np.cross(first, second)], axis=1)
    w, x, y, z = np.roll(numbers, 1) if kind == "quaternion_xyzw" else numbers
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def draw(kind: RotationKind, rng: np.random.Generator) -> np.ndarray:
    """Return some rotation's numbers, as a robot may record them: not always the shortest writing."""
    if kind == "axis_angle":
        axis = rng.normal(size=3)
        return axis / np.linalg.norm(axis) * rng.uniform(0.01, 1.9 * np.pi)
    if kind == "euler_xyz":
        return rng.uniform([-3.1, -1.5, -3.1], [3.1, 1.5, 3.1])
    if kind == "rotation_6d":
        orthogonal, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        return orthogonal.T[:2].ravel()
    quaternion = rng.normal(size=4)
    return quaternion / np.linalg.norm(quaternion)


@pytest.mark.parametrize("kind", ROTATION_KINDS)
@given(seed=seeds)
def test_relative_is_the_target_seen_from_the_state(kind: RotationKind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, target = draw(kind, rng), draw(kind, rng)
    found = matrix_of(kind, relative_rotation(kind, target, state))
    np.testing.assert_allclose(found, matrix_of(kind, state).T @ matrix_of(kind, target), atol=1e-9)


@pytest.mark.parametrize("kind", ROTATION_KINDS)
@given(seed=seeds)
def test_back_is_the_same_rotation_from_any_state(kind: RotationKind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, target = draw(kind, rng), draw(kind, rng)
    back = absolute_rotation(kind, relative_rotation(kind, target, state), state)
    np.testing.assert_allclose(matrix_of(kind, back), matrix_of(kind, target), atol=1e-9)


@pytest.mark.parametrize("kind", ROTATION_KINDS)
@given(seed=seeds)
def test_a_recorded_neighbour_comes_back_number_by_number(kind: RotationKind, seed: int) -> None:
    """Within a chunk a robot turns little: numbers past half a turn, or of a negative quaternion, return."""
    rng = np.random.default_rng(seed)
    state = draw(kind, rng)
    target = state + rng.uniform(-0.2, 0.2, ROTATION_LENGTHS[kind]) * min(1.0, np.linalg.norm(state))
    if kind == "rotation_6d":
        orthogonal, _ = np.linalg.qr(target.reshape(2, 3).T)
        target = (orthogonal * np.sign((orthogonal * target.reshape(2, 3).T).sum(axis=0))).T.ravel()
    elif kind.startswith("quaternion"):
        target /= np.linalg.norm(target)
    elif kind == "euler_xyz":
        target[1] = np.clip(target[1], -1.5, 1.5)
    back = absolute_rotation(kind, relative_rotation(kind, target, state), state)
    np.testing.assert_allclose(back, target, atol=1e-6)


@given(seed=seeds)
def test_other_writings_mean_the_same_rotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ROTATION_KINDS:
        numbers, reference = draw(kind, rng), draw(kind, rng)
        other = nearest_writing(kind, numbers, reference)
        np.testing.assert_allclose(matrix_of(kind, other), matrix_of(kind, numbers), atol=1e-9)
        assert np.linalg.norm(other - reference) <= np.linalg.norm(numbers - reference) + 1e-12


@given(angle=st.floats(-50, 50))
def test_wrapping_keeps_the_direction(angle: float) -> None:
    (found,) = wrapped(np.array([angle]))
    assert abs(found) <= np.pi + 1e-12
    assert np.cos(found) == pytest.approx(np.cos(angle), abs=1e-9)
    assert np.sin(found) == pytest.approx(np.sin(angle), abs=1e-9)
    if abs(angle) <= np.pi:
        assert found == angle
