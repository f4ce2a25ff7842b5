"""What an executor writes down: every control tick, every answer, every change of state."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32

ExecutorState = Literal["starting", "running", "holding", "stopped"]

MAX_RECORDS = 200_000
"""Of ticks and of answers that are kept, the newest: more than an hour at 50 Hz."""


@dataclass(frozen=True, kw_only=True)
class TickRecord:
    """One control tick; times are seconds, of the monotonic clock where they are moments.

    `command` is what the robot was told at the tick's beginning, None before its first action. `source` is
    the sequence of the chunk that the action is of, `age` the time since that chunk's observation. `seconds`
    has how long each part of the loop took: observe, plan, guard, tell.
    """

    index: int
    deadline: float
    began: float
    skipped: int
    state: ExecutorState
    command: Float32[np.ndarray, "action_dim"] | None
    planned: bool
    source: int
    age: float | None
    interventions: tuple[str, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """One answer: what was measured of it; `error` names what came in place of a chunk.

    `waited` is the time that the question waited for the policy, `seconds` the policy's own. `delay` and
    `estimate` are in control ticks, None where nobody awaited the answer any more. `stages` has the seconds
    of the policy's parts, where it tells them.
    """

    sequence: int
    tick: int
    waited: float
    seconds: float
    num_steps: int | None
    delay: int | None
    estimate: int | None
    used: bool
    continued: bool
    error: str
    stages: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A change of state: at which tick, at which moment, into what, and why."""

    tick: int
    time: float
    state: ExecutorState
    reason: str


@dataclass(kw_only=True)
class Record:
    """What happened in a run. `commands` counts commands, of which there may be several a tick."""

    ticks: deque[TickRecord] = field(default_factory=lambda: deque(maxlen=MAX_RECORDS))
    answers: deque[AnswerRecord] = field(default_factory=lambda: deque(maxlen=MAX_RECORDS))
    transitions: list[Transition] = field(default_factory=list)
    interventions: dict[str, int] = field(default_factory=dict)
    commands: int = 0
    late_ticks: int = 0
    skipped_ticks: int = 0
