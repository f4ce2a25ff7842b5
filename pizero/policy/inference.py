"""A policy that computes beside the loop that drives a robot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pizero.policy.acting import Acting
from pizero.policy.clock import MonotonicTime
from pizero.policy.controllers.player import Request
from pizero.policy.robot import Stamped
from pizero.types import ActionChunk


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a policy is asked: a request, an observation, and flow steps in place of its own.

    `asked` is the moment of asking, of the monotonic clock.
    """

    request: Request
    stamped: Stamped
    asked: float
    num_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a question: a chunk, or the error in its place; times are of the monotonic clock.

    `stages` has the seconds of its parts, where a policy tells them.
    """

    question: Question
    chunk: ActionChunk | None
    error: Exception | None
    began: float
    ended: float
    stages: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Inference(Protocol):
    """Answers questions in its own time; the newest question is the one that counts."""

    def ask(self, question: Question) -> None:
        """Take a question, without waiting for its answer."""
        ...

    def answers(self) -> list[Answer]:
        """Return what was answered since the last call."""
        ...

    def close(self) -> None:
        """End; what is being computed is not waited for."""
        ...


class InferenceThread:
    """Runs a policy in a thread of its own; implements `Inference`.

    A question that was not begun when the next one comes is dropped: its observation is older. `stages` is
    called after each answer for the seconds of its parts (`lambda: remote.timing`).
    """

    def __init__(self, policy: Acting, *, stages: Callable[[], Mapping[str, float]] = dict) -> None:
        self.policy, self.stages, self.time = policy, stages, MonotonicTime()
        self.change = threading.Condition()
        self.waiting: Question | None = None
        self.found: list[Answer] = []
        self.closed = False
        self.thread = threading.Thread(target=self._work, name="pizero-inference", daemon=True)
        self.thread.start()

    def ask(self, question: Question) -> None:
        """Take a question, in place of one that waits."""
        with self.change:
            self.waiting = question
            self.change.notify()

    def answers(self) -> list[Answer]:
        """Return what was answered since the last call."""
        with self.change:
            found, self.found = self.found, []
        return found

    def close(self) -> None:
        """End after the answer that is being computed."""
        with self.change:
            self.closed, self.waiting = True, None
            self.change.notify()

    def _work(self) -> None:
        while True:
            with self.change:
                self.change.wait_for(lambda: self.waiting is not None or self.closed)
                if self.closed:
                    return
                question, self.waiting = self.waiting, None
            assert question is not None
            answer = self._answer(question)
            with self.change:
                self.found.append(answer)

    def _answer(self, question: Question) -> Answer:
        began = self.time.now()
        chunk: ActionChunk | None = None
        failure: Exception | None = None
        stages: Mapping[str, float] = {}
        try:
            chunk, stages = answer_to(self.policy, question), self.stages()
        except Exception as error:  # whatever a policy raises, the robot must be told to hold
            failure = error
        ended = self.time.now()
        return Answer(question=question, chunk=chunk, error=failure, began=began, ended=ended, stages=stages)


def answer_to(policy: Acting, question: Question) -> ActionChunk:
    """Return what a policy answers; arguments that say nothing are left out."""
    given: Mapping[str, Any] = {
        "continuation": question.request.continuation,
        "num_steps": question.num_steps,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return policy.act(question.stamped.observation, **told)
