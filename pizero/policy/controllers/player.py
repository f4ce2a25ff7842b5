"""From chunks of actions to one action per control tick: what every way of doing it shares.

A player is pure: ticks go in, actions and requests come out. It knows no clock, no thread and no policy, so
that the same object runs in simulation, where an answer comes after a number of ticks, and on a robot, where
it comes when it comes. At each tick, in this order:

1. answers that have come are given to `answer`;
2. `request` says what to ask for with the observation of this tick, if anything;
3. an answer that is there at once is given to `answer`;
4. `action` returns the action of this tick, or None: the robot is to stay where it is.

Row i of a chunk is for the i-th action that is executed after its observation. So a player counts actions,
not time: while a robot stands still no row is used up, however long an answer takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from pizero.types import ActionChunk, Continuation

Action = Float32[np.ndarray, "action_dim"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a policy is asked for with the observation of this tick; answers name its `sequence`."""

    sequence: int
    continuation: Continuation | None


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A request that is not answered: its tick, and the actions executed before its observation.

    `moving` says that there were planned actions then, `warm` that a request of its kind was answered before.
    """

    request: Request
    tick: int
    executed: int
    moving: bool
    warm: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One answer: ticks from its observation on, the estimate then, and actions executed in between.

    `used` says whether it came in time; `counted`, whether its delay entered the estimate.
    """

    sequence: int
    tick: int
    delay: int
    estimate: int | None
    consumed: int
    used: bool
    counted: bool


class Player(ABC):
    """Plays chunks of `horizon` actions; one request is on its way at a time.

    `measured` has the last answer, and `played` the sequence of the chunk that the last action is of, for
    reports.
    """

    def __init__(self, *, horizon: int) -> None:
        self.horizon = horizon
        self.sequence = 0
        self.reset()

    def reset(self) -> None:
        """Start a new episode: nothing is planned, and answers to what was asked before are not awaited."""
        self.tick = self.executed = 0
        self.pending: Pending | None = None
        self.starved = False
        self.warm: set[bool] = set()
        self.measured: Measured | None = None
        self.played = 0
        self._forget()

    def request(self) -> Request | None:
        """Return what to ask for with this tick's observation; None while nothing is due."""
        if self.pending is not None or not self._due():
            return None
        self.sequence += 1
        moving = self.num_planned > 0
        self.pending = Pending(
            request=Request(sequence=self.sequence, continuation=self._continuation()),
            tick=self.tick,
            executed=self.executed,
            moving=moving,
            warm=moving in self.warm,
        )
        self.starved = False
        return self.pending.request

    def answer(self, sequence: int, chunk: ActionChunk) -> bool:
        """Take a chunk; False if it is not used, for nobody awaits it or it came too late.

        Too late is a chunk whose observation a moving robot made, if the robot then ran out of actions: it
        stands still since, and gets a chunk made from there.
        """
        if self.pending is None or self.pending.request.sequence != sequence:
            return False
        if len(chunk) != self.horizon:
            raise ValueError(f"expected a chunk of {self.horizon} actions, found {len(chunk)}")
        pending, self.pending = self.pending, None
        used = not (pending.moving and self.starved)
        consumed = self.executed - pending.executed
        self.measured = Measured(
            sequence=sequence,
            tick=self.tick,
            delay=self.tick - pending.tick,
            estimate=self.estimate,
            consumed=consumed,
            used=used,
            counted=pending.warm,
        )
        self.warm.add(pending.moving)
        if pending.warm:
            self._note_delay(self.tick - pending.tick, moving=pending.moving)
        if used:
            self._accept(chunk, pending, consumed)
        return used

    def fail(self, sequence: int) -> None:
        """Note that a request will not be answered, so that another one may be made."""
        if self.pending is not None and self.pending.request.sequence == sequence:
            self.pending = None

    def action(self) -> Action | None:
        """Return the action of this tick, None where the robot is to stay where it is; the tick is over."""
        found = self._next()
        self.tick += 1
        if found is None:
            self.starved = True
            return None
        self.executed += 1
        action, self.played = found
        return action

    def halt(self) -> None:
        """Note that the robot stands still: what is planned or asked for starts from somewhere else."""
        self.pending = None
        self._forget_plan()

    def replan(self) -> None:
        """Drop what is planned, as far as it is not committed, and ask again at once."""
        self.halt()

    @property
    def estimate(self) -> int | None:
        """Return the delay that is expected of the next answer, in ticks; None where it does not matter."""
        return None

    @property
    @abstractmethod
    def num_planned(self) -> int:
        """Return how many actions there are before the robot has to stay where it is."""

    @abstractmethod
    def _due(self) -> bool:
        """Return whether to ask for a chunk at this tick."""

    @abstractmethod
    def _accept(self, chunk: ActionChunk, pending: Pending, consumed: int) -> None:
        """Plan with a chunk, `consumed` actions after its observation."""

    @abstractmethod
    def upcoming(self) -> Action | None:
        """Return what the next tick's action will be, if nothing new comes; None if nothing is planned."""

    @abstractmethod
    def _next(self) -> tuple[Action, int] | None:
        """Return the next planned action, and the sequence of the chunk that it is of."""

    @abstractmethod
    def _forget_plan(self) -> None:
        """Drop all planned actions."""

    def _forget(self) -> None:
        """Drop what an episode left."""
        self._forget_plan()

    def _continuation(self) -> Continuation | None:
        return None

    def _note_delay(self, delay: int, *, moving: bool) -> None:  # noqa: B027 — most players need no estimate
        """Learn from a measured delay."""
