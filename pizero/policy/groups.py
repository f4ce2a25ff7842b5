"""Numbers of an action that belong together: one by itself, or those of one rotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pizero.data.rotations import ROTATION_KINDS, RotationKind, nearest_writing
from pizero.embodiment import ROTATION_LENGTHS, Dimension, DimensionKind

Numbers = Float[np.ndarray, "*batch number"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One number, or the numbers of one rotation, and where they stand among an action's."""

    kind: DimensionKind
    start: int
    length: int

    @property
    def slice(self) -> slice:
        """Return where the numbers stand."""
        return slice(self.start, self.start + self.length)

    @property
    def rotation(self) -> RotationKind | None:
        """Return how a rotation is written; None for what is no rotation."""
        return next((kind for kind in ROTATION_KINDS if kind == self.kind), None)

    def next_to(self, numbers: Numbers, reference: Float[np.ndarray, "*#batch number"]) -> Numbers:
        """Return the same angles or rotations, written as near to `reference` as they can be."""
        reference = np.broadcast_to(reference, numbers.shape)
        if self.kind == "angle":
            return numbers + 2 * np.pi * np.round((reference - numbers) / (2 * np.pi))
        return numbers if self.rotation is None else nearest_writing(self.rotation, numbers, reference)

    def is_rotation(self, numbers: Numbers) -> bool:
        """Return whether finite numbers mean a rotation: quaternions of zeros and flat matrices do not."""
        if self.kind == "rotation_6d":
            first, second = numbers[..., :3].astype(np.float64), numbers[..., 3:].astype(np.float64)
            return bool((np.linalg.norm(np.cross(first, second), axis=-1) > 1e-6).all())
        if self.kind in ("quaternion_xyzw", "quaternion_wxyz"):
            return bool((np.linalg.norm(numbers.astype(np.float64), axis=-1) > 1e-6).all())
        return True

    def proper(self, numbers: Numbers) -> Numbers:
        """Return numbers that were mixed as numbers of their kind: quaternions of length 1, angles in a turn.

        The six numbers of a rotation matrix need nothing: who reads them makes them orthonormal.
        """
        if self.kind == "angle":
            return numbers - 2 * np.pi * np.round(numbers / (2 * np.pi))
        if self.kind in ("quaternion_xyzw", "quaternion_wxyz"):
            return numbers / np.maximum(np.linalg.norm(numbers, axis=-1, keepdims=True), 1e-12)
        return numbers


def groups_of(dimensions: Sequence[Dimension]) -> tuple[Group, ...]:
    """Return the groups of some dimensions, in order."""
    groups, start = [], 0
    while start < len(dimensions):
        kind = dimensions[start].kind
        length = ROTATION_LENGTHS.get(kind, 1)
        groups.append(Group(kind=kind, start=start, length=length))
        start += length
    return tuple(groups)
