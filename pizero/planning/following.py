"""What a planner says, carried out: the newest instruction in every observation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pizero.embodiment import Embodiment
from pizero.planning.asking import Answer, Asking
from pizero.planning.planner import Given, Situation
from pizero.policy.controllers.controller import Controller
from pizero.policy.controllers.player import Action
from pizero.policy.director import Direction, Director
from pizero.policy.hold import hold_command
from pizero.types import Observation

State = Literal["waiting", "following", "silent", "reached", "failed"]
"""Before the first answer, under an instruction, without an answer for too long, at the goal, given up.

The robot stays where it is in all of them but `following`.
"""

MAX_EVENTS = 1_000

ROUNDING = 1e-6
"""Seconds by which a tick may seem early: sums of control periods are not exact."""


@dataclass(frozen=True, kw_only=True)
class FollowingConfig:
    """How often a planner is asked, and when the robot holds: after `max_silence` seconds without an answer.

    An error is no answer. An instruction is stale if its observation is more than two periods (in
    seconds) old.
    """

    period: float = 1.0
    max_silence: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.period <= self.max_silence:
            raise ValueError(
                f"expected a period above 0 s and a silence of no less, found {self.period} s and "
                f"{self.max_silence} s"
            )


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened at a second of the episode: a new instruction, or another state, and why."""

    seconds: float
    state: State
    text: str


class Following:
    """Carries out what a planner says; implements `Director`.

    The last instruction is in force until there is another one. `state`, `instruction`, `timeline`,
    `num_answers`, `errors` (by name), `last_error`, `num_stale` and `num_held` ticks tell of the episode.
    """

    def __init__(self, asking: Asking, *, goal: str, config: FollowingConfig | None = None) -> None:
        self.asking, self.goal, self.config = asking, goal, config or FollowingConfig()
        self._begin()

    def reset(self) -> None:
        """Start a new episode, whose time begins with its first tick."""
        self.asking.reset()
        self._begin()

    def direct(self, observe: Callable[[], Observation], now: float) -> Direction:
        """Return the instruction in force, or why the robot is to stay where it is."""
        self.began = now if self.began is None else self.began
        seconds = now - self.began
        last = self.timeline[-1] if self.timeline else None
        self._listen(seconds)
        if self._due(seconds):
            self.asked = seconds
            history = tuple(self.history)
            self.asking.ask(
                Situation(goal=self.goal, observation=observe(), seconds=seconds, history=history)
            )
            self._listen(seconds)
        if self.state in ("waiting", "following") and seconds - self.heard > self.config.max_silence:
            reason = f"no answer for {self.config.max_silence:g} s"
            self._enter("silent", seconds, f"{reason}; {self.last_error}" if self.last_error else reason)
        follows = self.state == "following"
        self.num_stale += follows and seconds - self.informed > 2 * self.config.period
        self.num_held += not follows
        return Direction(
            instruction=self.instruction,
            new=bool(self.timeline) and self.timeline[-1] is not last,
            hold="" if follows else self.state,
        )

    def _begin(self) -> None:
        self.began: float | None = None
        self.asked = float("-inf")
        self.heard = self.informed = 0.0
        self.state: State = "waiting"
        self.instruction, self.last_error = "", ""
        self.history: list[Given] = []
        self.timeline: list[Event] = []
        self.errors: Counter[str] = Counter()
        self.num_answers = self.num_stale = self.num_held = 0

    def _due(self, now: float) -> bool:
        over = self.state in ("reached", "failed")
        return not over and not self.asking.busy and now - self.asked > self.config.period - ROUNDING

    def _listen(self, now: float) -> None:
        answer = self.asking.take(now)
        if answer is None:
            return
        if answer.error:
            self._note_error(answer, now)
            return
        self.num_answers += 1
        self.heard, self.informed = now, answer.seconds
        if answer.instruction is None:
            self._enter("reached", now, "the planner says that the goal is reached")
        elif answer.instruction != self.instruction or self.state != "following":
            self._give(answer.instruction, now)

    def _note_error(self, answer: Answer, now: float) -> None:
        self.errors[answer.error] += 1
        self.last_error = answer.words
        if answer.final:
            self._enter("failed", now, answer.words)

    def _give(self, instruction: str, now: float) -> None:
        if instruction != self.instruction:
            self.history = [*self.history, Given(instruction=instruction, seconds=now)][-MAX_EVENTS:]
        self.instruction = instruction
        self._enter("following", now, instruction)

    def _enter(self, state: State, now: float, text: str) -> None:
        self.state = state
        self.timeline = [*self.timeline, Event(seconds=now, state=state, text=text)][-MAX_EVENTS:]


class FollowingController:
    """Wraps any controller and implements `Controller`: instructions change, and what was planned is dropped.

    Where there is another instruction the controller plans anew at once, but for what is committed already.
    `clock` tells seconds and never goes back.
    """

    def __init__(
        self,
        controller: Controller,
        director: Director,
        embodiment: Embodiment,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.controller, self.director, self.embodiment = controller, director, embodiment
        self.clock = clock
        self.last: Action | None = None

    def reset(self, *, seed: int) -> None:
        """Start a new episode, whose time begins with its first step."""
        self.controller.reset(seed=seed)
        self.director.reset()
        self.last = None

    def replan(self) -> None:
        """Let the controller plan anew."""
        self.controller.replan()

    def step(self, observe: Callable[[], Observation]) -> Action:
        """Return the action of this tick."""
        look = _Look(observe)
        direction = self.director.direct(look, self.clock())
        if direction.new:
            self.controller.replan()
        if direction.hold:
            self.last = hold_command(self.embodiment, last=self.last, state=look().state)
        else:
            self.last = self.controller.step(lambda: replace(look(), instruction=direction.instruction))
        return self.last


class _Look:
    """Looks at most once in a tick, and only if somebody wants to see."""

    def __init__(self, observe: Callable[[], Observation]) -> None:
        self.observe = observe
        self.seen: Observation | None = None

    def __call__(self) -> Observation:
        self.seen = self.seen or self.observe()
        return self.seen
