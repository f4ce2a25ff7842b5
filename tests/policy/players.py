"""Policies without networks, and robots without motors, for tests of what stands between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pizero.embodiment import Camera, Dimension, Embodiment
from pizero.policy.inference import Answer, Question, answer_to
from pizero.policy.robot import Stamped
from pizero.types import ActionChunk, Continuation, Observation

ARM = Embodiment(
    name="two_joints",
    state=(
        Dimension(name="joint", unit="rad", kind="joint", low=-10.0, high=10.0),
        Dimension(name="gripper", unit="fraction", kind="gripper", low=0.0, high=1.0),
    ),
    actions=(
        Dimension(name="joint", unit="rad", kind="joint", low=-10.0, high=10.0),
        Dimension(name="slide", unit="m/s", kind="velocity", low=-1.0, high=1.0),
        Dimension(name="gripper", unit="fraction", kind="gripper", low=0.0, high=1.0),
    ),
    cameras=(Camera(name="top", height=4, width=4),),
    rate=50.0,
)
"""A robot with one number of each common kind."""


def seen(tick: int = 0, joint: float = 0.0) -> Observation:
    """Return an observation whose picture and state tell its tick."""
    picture = np.full((4, 4, 3), tick % 251, dtype=np.uint8)
    return Observation(images={"top": picture}, state=np.array([joint, 0.5], dtype=np.float32))


Act = Callable[[Observation, Continuation | None], ActionChunk]


@dataclass
class Scripted:
    """A policy that answers with what a function says, and remembers what it was asked."""

    horizon: int
    function: Act
    rate: float = 50.0
    asked: list[Continuation | None] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)

    def reset(self, *, seed: int) -> None:
        self.seeds.append(seed)

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        self.asked.append(continuation)
        self.steps.append(num_steps)
        return self.function(observation, continuation)


def numbered(horizon: int, first: float = 0.0, width: int = 3) -> ActionChunk:
    """Return a chunk whose rows are first, first + 1, …"""
    return np.repeat(first + np.arange(horizon, dtype=np.float32)[:, None], width, axis=1)


def walking(
    horizon: int, rng: np.random.Generator, *, step: float, position: Callable[[], np.ndarray]
) -> Act:
    """Return a policy that goes on from what is committed, or from where the robot is, by random steps of at
    most `step`, but says something else about the committed rows themselves: who executes its rows for them
    makes a jump.
    """

    def act(observation: Observation, continuation: Continuation | None) -> ActionChunk:
        start = position()
        committed = np.zeros((0, len(start)), np.float32)
        if continuation is not None and continuation.delay:
            committed = continuation.actions[: continuation.delay]
            start = committed[-1]
        moves = rng.uniform(-step, step, (horizon - len(committed), len(start)))
        return np.concatenate([committed + 100 * step, start + np.cumsum(moves, axis=0)]).astype(np.float32)

    return act


class VirtualTime:
    """A clock that moves only when it is told to, so that hours of control take milliseconds.

    `at` calls functions when their time has come.
    """

    def __init__(self) -> None:
        self.present = 0.0
        self.pending: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0

    def now(self) -> float:
        return self.present

    def advance(self, seconds: float) -> None:
        self.wait_until(self.present + seconds)

    def wait_until(self, deadline: float) -> None:
        while self.pending and min(self.pending)[0] <= deadline:
            first = min(self.pending)
            self.pending.remove(first)
            self.present = max(self.present, first[0])
            first[2]()
        self.present = max(self.present, deadline)

    def at(self, moment: float, call: Callable[[], None]) -> None:
        self.count += 1
        self.pending.append((moment, self.count, call))


class VirtualInference:
    """Answers the n-th question after `latency(n)` virtual seconds, one question at a time, or all at once.

    An error in place of a latency is raised in place of an answer.
    """

    def __init__(
        self,
        time: VirtualTime,
        policy: Scripted,
        latency: Callable[[int], float | Exception],
        *,
        together: bool = False,
    ) -> None:
        self.time, self.policy, self.latency, self.together = time, policy, latency, together
        self.count, self.busy = 0, False
        self.waiting: Question | None = None
        self.found: list[Answer] = []
        self.closed = False

    def ask(self, question: Question) -> None:
        if self.busy and not self.together:
            self.waiting = question
        else:
            self._begin(question)

    def answers(self) -> list[Answer]:
        found, self.found = self.found, []
        return found

    def close(self) -> None:
        self.closed = True

    def _begin(self, question: Question) -> None:
        self.busy = True
        latency = self.latency(self.count)
        self.count += 1
        began, error = self.time.now(), None
        if isinstance(latency, Exception):
            latency, error = 0.01, latency
        chunk = None if error is not None else answer_to(self.policy, question)

        def end() -> None:
            self.found.append(
                Answer(question=question, chunk=chunk, error=error, began=began, ended=self.time.now())
            )
            self.busy, waiting, self.waiting = False, self.waiting, None
            if waiting is not None:
                self._begin(waiting)

        self.time.at(began + latency, end)


class VirtualRobot:
    """Goes where it is told at once, and keeps what it was told; `fault` changes what it shows."""

    def __init__(self, time: VirtualTime, embodiment: Embodiment = ARM) -> None:
        self.time, self.embodiment = time, embodiment
        self.fault: Callable[[Stamped], Stamped] = lambda stamped: stamped
        self.told: list[tuple[float, np.ndarray]] = []
        self.held: list[float] = []
        self.stops = self.looks = 0
        self.work = 0.0

    def observe(self) -> Stamped:
        self.looks += 1
        self.time.advance(self.work)
        joint = float(self.told[-1][1][0]) if self.told else 0.0
        return self.fault(Stamped(observation=seen(self.looks, joint), time=self.time.now()))

    def command(self, action: np.ndarray) -> None:
        assert not self.stops
        self.told.append((self.time.now(), action))

    def hold(self) -> None:
        assert not self.stops
        self.held.append(self.time.now())

    def stop(self) -> None:
        self.stops += 1

    @property
    def joints(self) -> np.ndarray:
        return np.array([action[0] for _, action in self.told])
