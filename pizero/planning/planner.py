"""What turns a goal into short instructions, one after another, while a policy carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pizero.types import Observation


@dataclass(frozen=True, kw_only=True)
class Given:
    """An instruction that was given, and the second of the episode from which it was in force."""

    instruction: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a planner is asked about: the goal, the newest observation, and what was said so far.

    `seconds` is the time of the observation since the episode began.
    """

    goal: str
    observation: Observation
    seconds: float
    history: tuple[Given, ...] = ()


class PlanFailedError(Exception):
    """A planner says that it cannot go on: the robot is to stay where it is until a person starts anew."""


@runtime_checkable
class Planner(Protocol):
    """Something that says what to do next; it may take its time, and may fail."""

    def reset(self) -> None:
        """Start a new episode."""
        ...

    def plan(self, situation: Situation) -> str | None:
        """Return the instruction to be in force from now on, or None: the goal is reached.

        Any error means that there is no answer this time, but for `PlanFailedError`, which is the last.
        """
        ...
