"""How a planner is asked so that nothing it does reaches the control loop: one answer, or one named error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pizero.planning.instructions import brief, one_line
from pizero.planning.planner import PlanFailedError, Planner, Situation


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of asking: an instruction, None where the goal is reached, or an error's name and words.

    `seconds` is the time of the observation that it is about; `final` says that no other answer will come.
    """

    seconds: float
    instruction: str | None = None
    error: str = ""
    words: str = ""
    final: bool = False


@runtime_checkable
class Asking(Protocol):
    """One question is on its way at a time, and none of these calls waits for a planner."""

    def reset(self) -> None:
        """Start a new episode: what is on its way is not awaited any more."""
        ...

    @property
    def busy(self) -> bool:
        """Return whether a question is on its way."""
        ...

    def ask(self, situation: Situation) -> None:
        """Begin to ask."""
        ...

    def take(self, seconds: float) -> Answer | None:
        """Return the answer once, if it is there at this second of the episode."""
        ...


def answer_of(planner: Planner, situation: Situation, *, fresh: bool = False) -> Answer:
    """Ask a planner, reset before if the episode is `fresh`, and wait; whatever it raises becomes a short,
    named error.
    """
    try:
        if fresh:
            planner.reset()
        said = planner.plan(situation)
        instruction = None if said is None else one_line(said)
    except Exception as error:  # a planner is foreign code, and none of its errors may stop a robot's loop
        return Answer(
            seconds=situation.seconds,
            error=type(error).__name__,
            words=brief(error),
            final=isinstance(error, PlanFailedError),
        )
    return Answer(seconds=situation.seconds, instruction=instruction)


class AskingInStep:
    """Asks within the step, for simulators, in which time stands still meanwhile; implements `Asking`.

    An answer is there `latency` seconds of the episode after its observation.
    """

    def __init__(self, planner: Planner, *, latency: float = 0.0) -> None:
        if latency < 0:
            raise ValueError(f"expected a latency of 0 or more seconds, found {latency}")
        self.planner, self.latency = planner, latency
        self.reset()

    def reset(self) -> None:
        """Start a new episode."""
        self.fresh = True
        self.answer: Answer | None = None

    @property
    def busy(self) -> bool:
        """Return whether an answer is on its way."""
        return self.answer is not None

    def ask(self, situation: Situation) -> None:
        """Ask, and keep the answer until its time has come."""
        self.answer = answer_of(self.planner, situation, fresh=self.fresh)
        self.fresh = False

    def take(self, seconds: float) -> Answer | None:
        """Return the answer once, if its time has come."""
        if self.answer is None or seconds < self.answer.seconds + self.latency:
            return None
        found, self.answer = self.answer, None
        return found
