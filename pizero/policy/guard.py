"""The guard between a policy and a motor: what passes is finite and within limits, whatever comes.

It supplements the robot's own emergency stop and the limits of its own controller; it does not replace them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment
from pizero.policy.freshness import Freshness
from pizero.policy.groups import groups_of
from pizero.policy.hold import hold_command
from pizero.policy.limiter import Limiter
from pizero.policy.limits import Limits, check_limits
from pizero.policy.robot import Stamped

OnViolation = Literal["clamp", "hold", "stop"]
State = Literal["running", "holding", "stopped"]

NOTHING_PLANNED, WAITED_TOO_LONG = "nothing-planned", "waited-too-long"


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """What a robot is told: finite and within limits; and what had to be done to it, by name.

    None where the robot was told nothing yet and nothing may be told: it is to stay where it is.
    """

    command: Float32[np.ndarray, "action_dim"] | None
    interventions: tuple[str, ...]
    state: State


class Guard:
    """Lets commands pass, one a period, and counts by name each time that it does not.

    A command beyond a limit is brought within it (`clamp`), or the robot is told to stay where it is
    (`hold`), or stopped for good (`stop`). A command that is no action at all (not finite, of the wrong
    dimension, no rotation), and an observation that is not the present, are never clamped: the robot holds,
    or stops. Holding comes to a standstill within limits; a robot that waits longer than `max_wait` is
    stopped.
    `interventions` counts them. `rate` is commands a second, if not the embodiment's.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        limits: Limits,
        on_violation: OnViolation = "clamp",
        *,
        rate: float | None = None,
    ) -> None:
        check_limits(limits, embodiment)
        self.embodiment, self.limits, self.on_violation = embodiment, limits, on_violation
        self.limiter = Limiter(embodiment, limits, period=1.0 / (rate or embodiment.rate))
        self.rotations = [group for group in groups_of(embodiment.actions) if group.rotation is not None]
        self.reset()

    def reset(self) -> None:
        """Start anew, at a standstill: nothing was commanded, nothing counted, no stop in force."""
        self.limiter.forget()
        self.freshness = Freshness(
            self.embodiment, max_age=self.limits.max_age, max_frozen=self.limits.max_frozen
        )
        self.interventions: Counter[str] = Counter()
        self.state: State = "running"
        self.stopped_by = ""
        self.unseen: tuple[str, ...] = ()
        self.waiting_since: float | None = None
        self.moved = False

    def check(self, command: np.ndarray | None, observation: Stamped, now: float) -> Guarded:
        """Return what to tell the robot in place of `command`, which is None where nothing is planned.

        `now` is in seconds of the monotonic clock.
        """
        return self._decide(command, self.look(observation, now), observation, now)

    def look(self, observation: Stamped, now: float) -> tuple[str, ...]:
        """Return what is wrong with an observation; to be called once a control tick."""
        self.unseen = self.freshness.check(observation, now)
        return self.unseen

    def step(self, command: np.ndarray | None, observation: Stamped, now: float) -> Guarded:
        """Do as `check` does, with what the last `look` found: for commands between two control ticks."""
        return self._decide(command, self.unseen, observation, now)

    def stop(self, reason: str) -> None:
        """Stop for good, for a reason from outside, which is counted."""
        self.state, self.stopped_by = "stopped", reason
        self.interventions[reason] += 1

    def _decide(
        self, command: np.ndarray | None, unseen: tuple[str, ...], observation: Stamped, now: float
    ) -> Guarded:
        self._know_where(observation)
        wrong = list(unseen)
        if command is None:
            wrong += [NOTHING_PLANNED] if self.moved and not unseen else []
            self._wait(now, wrong)
        else:
            self.waiting_since = None
            wrong += self._nonsense(command)
        if self.state == "stopped":
            return self._told(self.limiter.brake(), wrong)
        if command is None or wrong:
            only_waiting = wrong in ([], [NOTHING_PLANNED])
            stops = self.on_violation == "stop" and not only_waiting
            self.state = "stopped" if stops or WAITED_TOO_LONG in wrong else "holding"
            return self._told(self.limiter.brake(), wrong)
        return self._within_limits(command)

    def _within_limits(self, command: np.ndarray) -> Guarded:
        before = self.limiter.last, self.limiter.target, self.limiter.step_before
        followed = self.limiter.follow(command)
        touched = list(self.limiter.touched)
        if touched and self.on_violation != "clamp":
            self.limiter.last, self.limiter.target, self.limiter.step_before = before
            self.state = "stopped" if self.on_violation == "stop" else "holding"
            return self._told(self.limiter.brake(), touched)
        self.state, self.moved = "running", True
        return self._told(followed, touched)

    def _told(self, command: np.ndarray | None, interventions: list[str]) -> Guarded:
        self.interventions.update(interventions)
        told = None if command is None else command.astype(np.float32)
        return Guarded(command=told, interventions=tuple(interventions), state=self.state)

    def _wait(self, now: float, wrong: list[str]) -> None:
        self.waiting_since = now if self.waiting_since is None else self.waiting_since
        if self.moved and now - self.waiting_since > self.limits.max_wait:
            wrong.append(WAITED_TOO_LONG)

    def _nonsense(self, command: np.ndarray) -> list[str]:
        if command.shape != (self.embodiment.action_dim,) or command.dtype.kind not in "fiu":
            return ["wrong-dimension"]
        found = [
            f"not-finite:{dimension.name}"
            for dimension, value in zip(self.embodiment.actions, command.tolist(), strict=True)
            if not np.isfinite(value)
        ]
        if found:
            return found
        return [
            f"no-rotation:{self.embodiment.actions[group.start].name}"
            for group in self.rotations
            if not group.is_rotation(self.limiter.within(command)[group.slice])
        ]

    def _know_where(self, observation: Stamped) -> None:
        """Take where the robot is for what it was told last, if it was told nothing and its state says it."""
        state = observation.observation.state
        if self.limiter.last is not None or not np.isfinite(state).all():
            return
        try:
            self.limiter.start(hold_command(self.embodiment, last=None, state=state))
        except ValueError:
            return
