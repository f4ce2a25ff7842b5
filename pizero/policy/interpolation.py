"""From the policy's rate to the motors': many smooth commands between two actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from pizero.data.rotations import read_rotation, write_rotation
from pizero.embodiment import Dimension
from pizero.policy.groups import Group, groups_of

Numbers = Float[np.ndarray, "action_dim"]


class Interpolator:
    """Makes `factor` commands of each action, the last of which is the action itself.

    Positions, joints and angles follow the cubic Hermite curve through the actions whose slopes are those of
    PCHIP (Fritsch and Butland 1984): speed is continuous, and nothing goes beyond two neighbouring actions.
    Rotations turn about one axis at even speed. Velocities and grippers are held: an action's velocity is
    for the whole of its tick. The curve reaches an action at the end of its tick, one tick after a robot that
    is told the action itself; what comes after the last known action is taken to stand still.
    """

    def __init__(self, dimensions: Sequence[Dimension], *, factor: int) -> None:
        if factor < 1:
            raise ValueError(f"expected one or more commands an action, found {factor}")
        self.factor = factor
        self.groups = groups_of(dimensions)
        self.smooth = [group for group in self.groups if group.kind in ("position", "joint", "angle")]
        self.rotations = [group for group in self.groups if group.rotation is not None]
        self.forget()

    def forget(self) -> None:
        """Start from a standstill at the next action."""
        self.last: Numbers | None = None
        self.slope: Numbers | None = None

    def start(self, position: Numbers) -> None:
        """Start from a standstill at a position."""
        self.last, self.slope = position.astype(np.float64), None

    def between(
        self,
        action: Float32[np.ndarray, "action_dim"],
        following: Float32[np.ndarray, "action_dim"] | None,
    ) -> Float[np.ndarray, "command action_dim"]:
        """Return the commands of one tick, on the way from the last action to this one.

        `following` is the action after it, if it is known. The very first action is repeated: there is
        nothing to come from.
        """
        end = action.astype(np.float64)
        start = end if self.last is None else self.last
        found = np.repeat(end[None], self.factor, axis=0)
        slope = np.zeros(len(end)) if self.slope is None else self.slope
        leaving = np.zeros(len(end))
        share = np.arange(1, self.factor + 1) / self.factor
        for group in self.smooth:
            place = group.slice
            reached = group.next_to(end[place], start[place])
            before = reached - start[place]
            if following is not None:
                after = group.next_to(following[place].astype(np.float64), reached) - reached
                leaving[place] = pchip_slope(before, after)
            found[:, place] = _hermite(start[place], reached, slope[place], leaving[place], share)
            found[:, place] = group.proper(found[:, place])
        for group in self.rotations:
            found[:, group.slice] = _turning(group, start[group.slice], end[group.slice], share)
        self.last, self.slope = end, leaving
        found[-1] = end
        return found


def pchip_slope(
    before: Float[np.ndarray, "*batch"], after: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch"]:
    """Return the slope between two steps of equal length: their harmonic mean, 0 where they turn round."""
    same = before * after > 0
    total = np.where(same, before + after, 1.0)
    return np.where(same, 2 * before * after / total, 0.0)


def _hermite(
    start: Float[np.ndarray, "number"],
    end: Float[np.ndarray, "number"],
    entering: Float[np.ndarray, "number"],
    leaving: Float[np.ndarray, "number"],
    share: Float[np.ndarray, "command"],
) -> Float[np.ndarray, "command number"]:
    t = share[:, None]
    rise = 3 * t**2 - 2 * t**3
    return start + (end - start) * rise + entering * (t**3 - 2 * t**2 + t) + leaving * (t**3 - t**2)


def _turning(
    group: Group,
    start: Float[np.ndarray, "number"],
    end: Float[np.ndarray, "number"],
    share: Float[np.ndarray, "command"],
) -> Float[np.ndarray, "command number"]:
    kind = group.rotation
    assert kind is not None
    first = read_rotation(kind, start)
    way = (first.inv() * read_rotation(kind, end)).as_rotvec()
    moved = first * first.from_rotvec(share[:, None] * way)
    written = write_rotation(kind, moved, (len(share), group.length))
    return group.next_to(written, end[None])
