"""Who says what a robot is to do, beside the policy that knows how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pizero.types import Observation


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What is in force at a tick: the instruction that the policy is told.

    It is `new` where what was planned is for something else; `hold` says why the robot is to stay where it
    is, and is empty where it may move.
    """

    instruction: str
    new: bool
    hold: str


@runtime_checkable
class Director(Protocol):
    """Gives instructions while a robot moves."""

    def reset(self) -> None:
        """Start a new episode, whose time begins with its first tick."""
        ...

    def direct(self, observe: Callable[[], Observation], now: float) -> Direction:
        """Return what is in force at a moment, in seconds of a clock that never goes back, without waiting.

        `observe` is called only if somebody wants to see.
        """
        ...
