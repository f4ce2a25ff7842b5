"""Rotations inside states and actions: relative ones and back, in the writing that the robot uses.

A relative rotation is the target seen from the current hand, R_stateᵀ R_action. On the way back, of the many
numbers that mean one rotation (a turn more, the other quaternion) those next to the state's are taken, so
that what a robot recorded comes back as it was.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pizero.embodiment import ROTATION_LENGTHS

RotationKind = Literal["axis_angle", "euler_xyz", "quaternion_xyzw", "quaternion_wxyz", "rotation_6d"]
ROTATION_KINDS: tuple[RotationKind, ...] = get_args(RotationKind)
"""Angles are in radians, Euler's about the fixed axes x, y, z in this order; six numbers are the first two
columns of the matrix (Zhou et al. 2019).
"""

Numbers = Float[np.ndarray, "*batch number"]


def relative_rotation(
    kind: RotationKind, target: Numbers, state: Float[np.ndarray, "*#batch number"]
) -> Numbers:
    """Return `target` as seen from `state`, in the same writing; axes before the last broadcast."""
    target, state = np.broadcast_arrays(target, state)
    return write_rotation(kind, read_rotation(kind, state).inv() * read_rotation(kind, target), target.shape)


def absolute_rotation(
    kind: RotationKind, relative: Numbers, state: Float[np.ndarray, "*#batch number"]
) -> Numbers:
    """Return what `relative` means from `state` on; the inverse of `relative_rotation`."""
    relative, state = np.broadcast_arrays(relative, state)
    found = write_rotation(kind, read_rotation(kind, state) * read_rotation(kind, relative), relative.shape)
    return nearest_writing(kind, found, state)


def nearest_writing(kind: RotationKind, numbers: Numbers, reference: Numbers) -> Numbers:
    """Return the same rotations, written as near to `reference` as they can be."""
    if kind.startswith("quaternion"):
        sign = np.where((numbers * reference).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
        return numbers * sign
    if kind == "euler_xyz":
        return numbers + 2 * np.pi * np.round((reference - numbers) / (2 * np.pi))
    if kind == "axis_angle":
        angle = np.linalg.norm(numbers, axis=-1, keepdims=True)
        axis = np.divide(numbers, angle, out=np.zeros_like(numbers), where=angle > 1e-12)
        turns = np.round(((axis * reference).sum(axis=-1, keepdims=True) - angle) / (2 * np.pi))
        return numbers + 2 * np.pi * turns * axis
    return numbers


def wrapped(angle: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """Return angles in radians within half a turn of 0; those that are there already are unchanged."""
    return np.where(np.abs(angle) <= np.pi, angle, angle - 2 * np.pi * np.round(angle / (2 * np.pi)))


def read_rotation(kind: RotationKind, numbers: Numbers) -> Rotation:
    """Return the rotations that some numbers mean, as one row; ValueError for a quaternion of zeros."""
    flat = np.array(numbers, dtype=np.float64).reshape(-1, ROTATION_LENGTHS[kind])
    if kind == "axis_angle":
        return Rotation.from_rotvec(flat)
    if kind == "euler_xyz":
        return Rotation.from_euler("xyz", flat)
    if kind == "rotation_6d":
        first = flat[:, :3] / np.linalg.norm(flat[:, :3], axis=1, keepdims=True)
        second = flat[:, 3:] - (first * flat[:, 3:]).sum(axis=1, keepdims=True) * first
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=-1))
    return Rotation.from_quat(flat if kind == "quaternion_xyzw" else np.roll(flat, -1, axis=1))


def write_rotation(kind: RotationKind, rotation: Rotation, shape: tuple[int, ...]) -> Numbers:
    """Return rotations as numbers of a shape; the inverse of `read_rotation`."""
    if kind == "axis_angle":
        numbers = rotation.as_rotvec()
    elif kind == "euler_xyz":
        numbers = rotation.as_euler("xyz")
    elif kind == "rotation_6d":
        numbers = rotation.as_matrix()[..., :2].swapaxes(-1, -2)
    else:
        numbers = rotation.as_quat(canonical=True)
        numbers = numbers if kind == "quaternion_xyzw" else np.roll(numbers, 1, axis=-1)
    return numbers.reshape(shape)
