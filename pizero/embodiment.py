"""Embodiments: what each number that a robot sends or takes means, checked, and read from a user's file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from pizero.records import differences, read_record, to_data

DimensionKind = Literal[
    "position",
    "joint",
    "angle",
    "velocity",
    "gripper",
    "axis_angle",
    "euler_xyz",
    "quaternion_xyzw",
    "quaternion_wxyz",
    "rotation_6d",
]
"""What a number is. An `angle` wraps at a turn, a `joint` does not.

The last five are parts of a rotation, whose numbers (3, 3, 4, 4 and 6) stand next to each other.
"""

ROTATION_LENGTHS: dict[DimensionKind, int] = {
    "axis_angle": 3,
    "euler_xyz": 3,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "rotation_6d": 6,
}
"""How many numbers one rotation has, for each kind that writes rotations."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One number of a state or an action: its name, unit, kind and limits (in that unit).

    Limits become floats, and -0.0 becomes 0.0, so that equal dimensions have equal hashes.
    """

    name: str
    unit: str
    kind: DimensionKind
    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", float(self.low) + 0.0)
        object.__setattr__(self, "high", float(self.high) + 0.0)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera as the policy sees it: its name and its picture's size in pixels.

    A policy acts without a camera that is not `required`.
    """

    name: str
    height: int
    width: int
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """A robot as a policy sees it: state and action dimensions, cameras, and the control rate in Hz.

    ValueError lists everything that is wrong at once: names that are empty or occur twice, limits that are
    not finite or not in order, rotations that lack numbers, pictures of odd size, a rate that is not above 0.
    """

    name: str
    state: tuple[Dimension, ...]
    actions: tuple[Dimension, ...]
    cameras: tuple[Camera, ...]
    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", float(self.rate))
        wrong = list(_faults(self))
        if wrong:
            raise ValueError(f"the embodiment {self.name!r} is not one yet: {'; '.join(wrong)}")

    @property
    def state_dim(self) -> int:
        """Return how many numbers a state has."""
        return len(self.state)

    @property
    def action_dim(self) -> int:
        """Return how many numbers an action has."""
        return len(self.actions)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Return the cameras, in the order in which a policy sees them."""
        return tuple(camera.name for camera in self.cameras)

    def diff(self, other: Embodiment) -> list[str]:
        """Return one line for each value in which two robots differ; empty if they are equal."""
        return differences(to_data(self), to_data(other))


def read_embodiment(path: Path) -> Embodiment:
    """Read a robot from a JSON file, the form in which `write_record` writes one.

    ValueError names the file and what is wrong in it: an unknown field with the nearest known one, a missing
    field, a value of another type, or what an `Embodiment` refuses.
    """
    return read_record(Embodiment, path)


def _faults(embodiment: Embodiment) -> Iterator[str]:
    if not embodiment.name:
        yield "expected a name, found none"
    if not (math.isfinite(embodiment.rate) and embodiment.rate > 0):
        yield f"expected a control rate above 0 Hz, found {embodiment.rate}"
    for label, dimensions in (("state", embodiment.state), ("actions", embodiment.actions)):
        if not dimensions:
            yield f"{label}: expected at least one dimension, found none"
        yield from _name_faults(label, (dimension.name for dimension in dimensions))
        yield from _limit_faults(label, dimensions)
        yield from _rotation_faults(label, dimensions)
    yield from _name_faults("cameras", embodiment.camera_names)
    for camera in embodiment.cameras:
        if min(camera.height, camera.width) < 2 or camera.height % 2 or camera.width % 2:
            yield (
                f"cameras: expected an even height and width of {camera.name!r}, as video needs, found "
                f"{camera.height} x {camera.width}"
            )


def _name_faults(label: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if not name:
            yield f"{label}: expected a name for each, found an empty one"
        elif count > 1:
            yield f"{label}: expected names that differ, found {name!r} {count} times"


def _limit_faults(label: str, dimensions: tuple[Dimension, ...]) -> Iterator[str]:
    for dimension in dimensions:
        low, high = dimension.low, dimension.high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            yield f"{label}: expected finite limits of {dimension.name!r}, low < high, found {low} and {high}"


def _rotation_faults(label: str, dimensions: tuple[Dimension, ...]) -> Iterator[str]:
    for kind, run in groupby(dimensions, key=_kind_of):
        names = [dimension.name for dimension in run]
        length = ROTATION_LENGTHS.get(kind, 1)
        if len(names) % length:
            yield (
                f"{label}: expected {length} numbers of kind {kind!r} next to each other for each rotation, "
                f"found {len(names)} ({', '.join(names)})"
            )


def _kind_of(dimension: Dimension) -> DimensionKind:
    return dimension.kind
