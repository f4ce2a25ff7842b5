"""Progress of anything longer than two seconds: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines."""


_silent: list[bool] = []


def be_silent() -> None:
    """Show no progress in this process from now on: another one of the same run shows it."""
    _silent.append(True)


class Counter:
    """Counts finished pieces of one piece of work."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.started, self.at_start, self.note = time.monotonic(), done, ""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more pieces; `note` is shown behind the figures."""
        self.done += amount
        self.note = note
        self.show()

    @property
    def rate(self) -> float:
        """Return pieces a second since the start."""
        return (self.done - self.at_start) / max(time.monotonic() - self.started, 1e-9)

    def show(self) -> None:
        """Show the present state; a counter by itself shows nothing."""


class _Lines(Counter):
    shown = 0.0

    def show(self) -> None:
        now = time.monotonic()
        if now - max(self.shown, self.started) < PLAIN_INTERVAL and self.done < self.total:
            return
        self.shown = now
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("inf")
        remaining = f", {left:.0f} s left" if self.done < self.total else f", took {now - self.started:.0f} s"
        note = f"  {self.note}" if self.note else ""
        sys.stderr.write(
            f"{self.what}: {self.done}/{self.total} {self.unit}, {self.rate:.1f}/s{remaining}{note}\n"
        )
        sys.stderr.flush()


class _Bar(Counter):
    bars: Progress

    def show(self) -> None:
        figures = f"{self.rate:.1f} {self.unit}/s  {self.note}"
        self.bars.update(self.bars.task_ids[0], completed=self.done, figures=figures)


@contextmanager
def counting(what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Counter]:
    """Show the progress of work with `total` pieces, of which `done` are finished already."""
    if _silent:
        yield Counter(what, total, unit, done)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, total, unit, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as bars:
        counter = _Bar(what, total, unit, done)
        counter.bars = bars
        bars.add_task(what, total=total, completed=done, figures="")
        yield counter
