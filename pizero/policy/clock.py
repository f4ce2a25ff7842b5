"""Ticks at absolute deadlines of the monotonic clock: no drift, and no bursts to catch up."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

LEAST_GAP = 0.5
"""Of a period: no tick begins sooner after the one before."""


@runtime_checkable
class Time(Protocol):
    """Seconds that never run backwards, whatever the wall clock is set to."""

    def now(self) -> float:
        """Return the present."""
        ...

    def wait_until(self, deadline: float) -> None:
        """Return at a time, or at once if it is past."""
        ...


class MonotonicTime:
    """The machine's monotonic clock; implements `Time`."""

    def now(self) -> float:
        """Return the present."""
        return time.monotonic()

    def wait_until(self, deadline: float) -> None:
        """Return at a time, or at once if it is past."""
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(left)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One tick: its number, its deadline, when it began, and how many ticks before it were left out."""

    index: int
    deadline: float
    began: float
    skipped: int

    @property
    def lateness(self) -> float:
        """Return seconds from the deadline to the beginning."""
        return self.began - self.deadline


class Clock:
    """Begins tick k at `start` + k periods.

    A tick whose time has come before the one before is done is left out, for its command would follow at
    once upon a late one: the next tick is the first whose deadline is at least half a period away. What was
    left out is counted in `skipped` and never made up for, and all others stay on the grid.
    """

    def __init__(self, rate: float, time: Time | None = None) -> None:
        if not rate > 0:
            raise ValueError(f"expected a rate above 0 Hz, found {rate}")
        self.period = 1.0 / rate
        self.time = MonotonicTime() if time is None else time
        self.start()

    def start(self) -> None:
        """Let tick 0 be now."""
        self.origin = self.time.now()
        self.next, self.skipped = 0, 0
        self.began = self.origin - self.period

    def wait(self) -> Tick:
        """Return the next tick when it begins."""
        first, now = self.next, self.time.now()
        earliest = self.began + LEAST_GAP * self.period
        if now > self.origin + first * self.period and first:
            earliest = max(earliest, now + LEAST_GAP * self.period)
        index = max(first, math.ceil((earliest - self.origin) / self.period - 1e-9))
        deadline = self.origin + index * self.period
        self.time.wait_until(deadline)
        self.skipped += index - first
        self.next, self.began = index + 1, self.time.now()
        return Tick(index=index, deadline=deadline, began=self.began, skipped=index - first)
