"""Instructions that a person types, or a program writes into a pipe, while the robot moves."""

from __future__ import annotations

import os
import select

from pizero.planning.instructions import one_line
from pizero.planning.planner import PlanFailedError, Situation

DONE = "done"
"""What a person types when the goal is reached."""

MAX_LINE = 4_096
"""Bytes of a line, and of a read."""

MAX_READS = 64
"""For one answer: an input that never pauses must not keep a planner from answering."""


class TypedPlanner:
    """Reads lines from a file descriptor, such as 0, the standard input; implements `Planner`.

    The newest line is the instruction, `done` says that the goal is reached. When the input ends, the last
    instruction stays in force. Only the first question waits, for there is nothing to say before the first
    line: a thread of its own asks it (`AskingInThread`).
    """

    def __init__(self, descriptor: int = 0) -> None:
        self.descriptor = descriptor
        self.begun, self.ended = b"", False
        self.reset()

    def reset(self) -> None:
        """Forget what was said in the last episode, but no line that is still to be read."""
        self.instruction, self.refusal = "", ""

    def plan(self, situation: Situation) -> str | None:
        """Return the newest line; None if it is `done`.

        ValueError if the newest line is no instruction, PlanFailedError if the input ended before there was
        one.
        """
        for _ in range(MAX_READS):
            if self.ended or not self._ready(wait=not self.instruction and not self.refusal):
                break
            self._read()
        if self.refusal:
            refusal, self.refusal = self.refusal, ""
            raise ValueError(refusal)
        if self.instruction:
            return None if self.instruction.lower() == DONE else self.instruction
        if self.ended:
            raise PlanFailedError("the input ended before an instruction was given")
        raise ValueError("there is no instruction among the first lines")

    def _ready(self, *, wait: bool) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], None if wait else 0.0)
        return bool(ready)

    def _read(self) -> None:
        found = os.read(self.descriptor, MAX_LINE)
        self.ended = not found
        *whole, self.begun = (self.begun + (found or b"\n")).split(b"\n")
        self.begun = self.begun[:MAX_LINE]
        for line in filter(bytes.strip, whole):
            try:
                self.instruction, self.refusal = one_line(line.decode("utf-8", errors="replace")), ""
            except ValueError as error:
                self.refusal = str(error)
