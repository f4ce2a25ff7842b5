"""The command line on one of several processes, of which the second has a fault; torchrun starts this file.

torchrun --nproc-per-node 2 -m tests.training.on_faulty_ranks FAULT train …
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pizero.cli.main import main
from pizero.data.faults import DatasetError
from pizero.data.loader import Samples
from pizero.training import update
from pizero.training.loop import Stop

POISONED = 2
"""The step that has a number in it that is not finite."""

FAILS = 4
"""The step that is not made, and in which the fault comes."""


def fail(fault: str) -> None:
    match fault:
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "has a bug":
            raise KeyError("wrist")


def break_down(fault: str) -> None:
    """Poison the second batch of this process, damage the fourth, or do worse in the fourth step."""
    real_prepare, real_average = Samples.prepare, update.update_average
    made = {"batches": 0, "steps": 1}  # the poisoned step takes no average

    def prepare(*given: Any) -> Any:
        made["batches"] += 1
        prepared = real_prepare(*given)
        if made["batches"] == POISONED:
            prepared.batch.actions[0, 0] = float("nan")
        if made["batches"] == FAILS and fault == "damaged":
            error = DatasetError("video-damaged", Path("top.mp4"), "frame 7 of episode 2 cannot be decoded")
            prepared = replace(prepared, damaged=(error,))
        return prepared

    def average(*given: Any) -> None:
        made["steps"] += 1
        if made["steps"] == FAILS:
            fail(fault)
        real_average(*given)

    mock.patch.object(Samples, "prepare", prepare).start()
    mock.patch.object(update, "update_average", average).start()


def tell_parent_when_begun() -> None:
    """Send SIGTERM to torchrun, this process's parent, within a step."""
    real = update.update_average
    made = 0

    def average(*given: Any) -> None:
        nonlocal made
        made += 1
        real(*given)
        if made == FAILS - 1:
            os.kill(os.getppid(), signal.SIGTERM)
            while not asked:
                signal.pause()

    asked: list[int] = []
    request = Stop.request

    def note(self: Stop, number: int, frame: Any) -> None:
        asked.append(number)
        request(self, number, frame)

    mock.patch.object(Stop, "request", note).start()
    mock.patch.object(update, "update_average", average).start()


if __name__ == "__main__":
    torch.set_num_threads(1)
    fault, *arguments = sys.argv[1:]
    if os.environ["RANK"] == "1":
        if fault == "torchrun is told to stop":
            tell_parent_when_begun()
        elif fault:
            break_down(fault)
    sys.argv = ["pizero", *arguments]
    main()
