"""Commands that follow a target as closely as limits of position, rate and acceleration allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from pizero.data.rotations import read_rotation, write_rotation
from pizero.embodiment import Embodiment
from pizero.policy.groups import Group, groups_of
from pizero.policy.limits import DimensionLimits, Limits

Numbers = Float[np.ndarray, "action_dim"]

TURN = 2 * math.pi

SLACK = 1e-6
"""Of a limit's size: what rounding to float32 may add before it counts as an intervention."""


class Limiter:
    """Follows targets within limits, one command every `period` seconds.

    Every command lies within the limits of position, and differs from the last one by no more than the
    rate allows; its change differs from the last change by no more than the acceleration allows. A number
    with a limit of acceleration brakes in time: it reaches its limit of position, and a target that stands
    still, without going beyond. Angles of a whole turn go the short way round; rotations turn by at most
    their rate. `touched` names what the last command had to give up.
    """

    def __init__(self, embodiment: Embodiment, limits: Limits, *, period: float) -> None:
        given = limits.dimensions
        self.names = [dimension.name for dimension in given]
        self.kinds = [dimension.kind for dimension in embodiment.actions]
        self.low = np.array([_inward(limit.low, math.inf) for limit in given])
        self.high = np.array([_inward(limit.high, -math.inf) for limit in given])
        self.rate = np.array([_per_tick(limit.rate, period) for limit in given])
        self.acceleration = np.array([_per_tick(limit.acceleration, period * period) for limit in given])
        self.round = _whole_turns(self.kinds, given)
        self.velocity = np.array([kind == "velocity" for kind in self.kinds])
        self.rotations = [group for group in groups_of(embodiment.actions) if group.rotation is not None]
        self.plain = np.ones(len(given), dtype=bool)
        for group in self.rotations:
            self.plain[group.slice] = False
        self.forget()

    def forget(self) -> None:
        """Know nothing of the last command: the next one is held to limits of position alone."""
        self.last: Numbers | None = None
        self.target: Numbers | None = None
        self.step_before = np.zeros(len(self.names))
        self.touched: tuple[str, ...] = ()

    def start(self, command: Numbers) -> None:
        """Note what the robot was told last, before it stood still."""
        self.forget()
        self.last = self.within(command.astype(np.float64))
        self.target = self.last

    def follow(self, target: Numbers) -> Numbers:
        """Return the next command on the way to a target of finite numbers."""
        wanted = target.astype(np.float64)
        if self.last is None:
            bounded = self.within(wanted)
            for group in self.rotations:
                bounded[group.slice] = _turned(group, bounded[group.slice], bounded[group.slice], 0.0)[0]
            self.touched = tuple(self._named("position", self._far(bounded, wanted)))
            self.last = self.target = bounded
            return bounded
        last, before = self.last, self.target
        assert before is not None
        aim = np.where(self.round, last + _short(wanted - last), wanted)
        bounded = np.where(self.round, aim, np.clip(aim, self.low, self.high))
        touched = self._named("position", self._far(bounded, aim) & self.plain)
        before = np.where(self.round, last + _short(before - last), before)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = before - last
            ideal = (bounded - before) + np.sign(gap) * _brakes(np.abs(gap), self.acceleration)
        ideal = np.where(np.isfinite(self.acceleration), ideal, bounded - last)
        slow = np.clip(ideal, -self.rate, self.rate)
        touched += self._named("rate", self._far(slow, ideal) & self.plain)
        gentle = self._gentle(slow)
        touched += self._named("acceleration", self._far(gentle, slow) & self.plain)
        return self._commit(last + gentle, gentle, bounded, touched)

    def brake(self) -> Numbers | None:
        """Return the next command of a robot that is to come to a standstill; None if it was told nothing.

        Positions stop as soon as their acceleration allows, and velocities go to 0, or the limit next to it.
        """
        if self.last is None:
            return None
        rest = np.clip(0.0, self.low, self.high) - self.last
        ideal = np.where(self.velocity, np.clip(rest, -self.rate, self.rate), 0.0)
        gentle = self._gentle(ideal)
        command = self.last + gentle
        return self._commit(command, gentle, command, [])

    def _gentle(self, step: Numbers) -> Numbers:
        """Return a step that the last one allows, and from which a limit of position can be respected."""
        assert self.last is not None
        bounded = np.isfinite(self.acceleration) & ~self.round
        ahead = np.where(bounded, _brakes(np.maximum(self.high - self.last, 0), self.acceleration), np.inf)
        behind = np.where(bounded, _brakes(np.maximum(self.last - self.low, 0), self.acceleration), np.inf)
        least = np.maximum(np.maximum(self.step_before - self.acceleration, -self.rate), -behind)
        most = np.minimum(np.minimum(self.step_before + self.acceleration, self.rate), ahead)
        return np.minimum(np.maximum(step, np.minimum(least, most)), most)

    def _commit(self, command: Numbers, step: Numbers, target: Numbers, touched: list[str]) -> Numbers:
        last = self.last
        assert last is not None
        command = np.where(self.round, command, np.clip(command, self.low, self.high))
        for group in self.rotations:
            aim = self.within(target)[group.slice]
            low, high = self.low[group.slice], self.high[group.slice]
            moved, slowed = _turned(group, last[group.slice], aim, float(self.rate[group.slice].min()))
            written = group.next_to(moved, last[group.slice])
            inside = bool(((written >= low) & (written <= high)).all())
            touched += [f"rate:{self.names[group.start]}"] if slowed else []
            command[group.slice] = np.clip(written if inside else moved, low, high)
        self.step_before = np.where(self.plain, command - last, 0.0)
        told = np.where(self.round, self.low + (command - self.low) % TURN, command)
        told = np.clip(told, self.low, self.high)
        self.target = np.where(self.round, told + (target - command), target)
        self.last, self.touched = told, tuple(touched)
        return told

    def within(self, numbers: Numbers) -> Numbers:
        """Return the numbers next to some that are within the limits of position."""
        turned = np.where(self.round, self.low + (numbers - self.low) % TURN, numbers)
        return np.clip(turned, self.low, self.high)

    def _far(self, found: Numbers, wanted: Numbers) -> Bool[np.ndarray, "action_dim"]:
        return np.abs(found - wanted) > SLACK * np.maximum(1.0, self.high - self.low)

    def _named(self, what: str, where: Bool[np.ndarray, "action_dim"]) -> list[str]:
        found = []
        for index in np.flatnonzero(where):
            word = "gripper" if what == "position" and self.kinds[index] == "gripper" else what
            found.append(f"{word}:{self.names[index]}")
        return found


def _inward(limit: float, toward: float) -> float:
    """Return the last float32 within a limit, so that a command in float32 does not leave it."""
    nearest = np.float32(limit)
    inside = float(nearest) >= limit if toward > 0 else float(nearest) <= limit
    return float(nearest if inside else np.nextafter(nearest, np.float32(toward)))


def _per_tick(limit: float | None, factor: float) -> float:
    return math.inf if limit is None else limit * factor


def _whole_turns(kinds: Sequence[str], limits: Sequence[DimensionLimits]) -> Bool[np.ndarray, "action_dim"]:
    """Return which numbers have no end: angles whose limits are a turn apart."""
    pairs = zip(kinds, limits, strict=True)
    return np.array([kind == "angle" and limit.high - limit.low >= TURN - 1e-4 for kind, limit in pairs])


def _short(change: Numbers) -> Numbers:
    return change - TURN * np.round(change / TURN)


def _brakes(distance: Numbers, acceleration: Numbers) -> Numbers:
    """Return the longest step after which steps that shrink by `acceleration` end within a distance.

    n steps d, d - a, … sum up to n d - a n (n - 1) / 2; the longest first step takes the n for which the
    last step is between 0 and a.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.ceil((np.sqrt(1.0 + 8.0 * distance / acceleration) - 1.0) / 2.0)
        count = np.maximum(count, 1.0)
        step = distance / count + acceleration * (count - 1.0) / 2.0
    return np.where(np.isfinite(acceleration), step, distance)


def _turned(group: Group, last: Numbers, target: Numbers, rate: float) -> tuple[Numbers, bool]:
    """Return the rotation on the way to a target, and whether the rate kept it from being there."""
    kind = group.rotation
    assert kind is not None
    start = read_rotation(kind, last)
    way = (start.inv() * read_rotation(kind, target)).as_rotvec()[0]
    angle = float(np.linalg.norm(way))
    share = min(1.0, rate / angle) if angle > 0 else 1.0
    moved = start * start.from_rotvec(share * way)
    return write_rotation(kind, moved, last.shape), share < 1.0 - SLACK
