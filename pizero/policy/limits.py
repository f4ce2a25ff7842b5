"""What a robot may be told: positions, rates and accelerations, and how old and how still pictures may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pizero.embodiment import ROTATION_LENGTHS, Dimension, Embodiment
from pizero.names import nearest
from pizero.records import read_record

USUAL_RATE = 0.5
"""Of its range that a position may change in a second where no limit is given: a guess, meant to be replaced.

A ViperX's joint of a whole turn may then move by half a turn in a second, which is what the arm itself can.
"""


@dataclass(frozen=True, kw_only=True)
class DimensionLimits:
    """What one number of an action may be, in its unit; per second, and per second squared.

    None says that there is no limit. The `rate` of a rotation is that of its angle, in rad/s, the same for
    all its numbers; rotations have no limit of acceleration.
    """

    name: str
    low: float
    high: float
    rate: float | None = None
    acceleration: float | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a guard lets pass.

    An observation may be `max_age` seconds old, a camera's pictures may be equal in `max_frozen` observations
    (0: for ever, as simulated ones may), and a robot may stand still for want of actions for
    `max_wait` seconds before it is stopped.
    """

    dimensions: tuple[DimensionLimits, ...]
    max_age: float = 0.5
    max_frozen: int = 25
    max_wait: float = 10.0


def usual_limits(embodiment: Embodiment) -> Limits:
    """Return limits that a robot's description gives: its positions, and half a range a second.

    Velocities, grippers and rotations have no limit of their rate, and nothing one of its acceleration: the
    description does not say.
    """
    return Limits(dimensions=tuple(_usual(dimension) for dimension in embodiment.actions))


def _usual(dimension: Dimension) -> DimensionLimits:
    bounded = dimension.kind in ("position", "joint", "angle")
    return DimensionLimits(
        name=dimension.name,
        low=dimension.low,
        high=dimension.high,
        rate=USUAL_RATE * (dimension.high - dimension.low) if bounded else None,
    )


def read_limits(path: Path, embodiment: Embodiment) -> Limits:
    """Read limits from a JSON file, the form in which `write_record` writes them.

    ValueError names what is wrong in it, or that it is not for this robot.
    """
    found = read_record(Limits, path)
    try:
        check_limits(found, embodiment)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def check_limits(limits: Limits, embodiment: Embodiment) -> None:
    """Raise ValueError, with everything that is wrong, unless limits are for a robot and within its own."""
    wrong = list(_faults(limits, embodiment))
    if wrong:
        raise ValueError(f"these are no limits for {embodiment.name}: {'; '.join(wrong)}")


def _faults(limits: Limits, embodiment: Embodiment) -> Iterator[str]:
    names = [dimension.name for dimension in embodiment.actions]
    given = [dimension.name for dimension in limits.dimensions]
    if given != names:
        for name in given:
            if name not in names:
                yield f"no action is called {name!r}: {nearest(name, names)}"
        yield f"expected limits of {', '.join(names)} in this order, found {', '.join(given) or 'none'}"
        return
    for limit, dimension in zip(limits.dimensions, embodiment.actions, strict=True):
        if not dimension.low <= limit.low < limit.high <= dimension.high:
            yield (
                f"{limit.name}: expected low < high within the robot's {dimension.low} … {dimension.high}, "
                f"found {limit.low} … {limit.high}"
            )
        for label, value in (("rate", limit.rate), ("acceleration", limit.acceleration)):
            if value is not None and not (math.isfinite(value) and value > 0):
                yield f"{limit.name}: expected a {label} above 0 or none, found {value}"
        if dimension.kind in ROTATION_LENGTHS and limit.acceleration is not None:
            yield f"{limit.name}: expected no acceleration, for it is part of a rotation"
    if limits.max_age <= 0 or limits.max_frozen < 0 or limits.max_wait <= 0:
        yield (
            f"expected max_age and max_wait above 0 seconds and max_frozen of 0 or more ticks, found "
            f"{limits.max_age}, {limits.max_wait} and {limits.max_frozen}"
        )
