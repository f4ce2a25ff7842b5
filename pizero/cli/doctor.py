"""`pizero doctor`: what is wrong with a dataset, a policy, a training run or this machine."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from pizero.cli.options import Json, say
from pizero.diagnose.doctor.doctor import Subject, examine, subject_of
from pizero.diagnose.doctor.findings import Finding, exit_status
from pizero.records import to_data

COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
SHOWN = 5
"""Findings of one code that are printed; a wrong rate is wrong for every file."""
NEXT: dict[Subject, str] = {
    "dataset": "pizero train --dataset {path}",
    "policy": "pizero evaluate {path}",
    "run": "pizero evaluate {path}/policy",
}


def doctor(
    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = None,
    /,
    *,
    quick: bool = False,
    strict: bool = False,
    max_frames: int = 120,
    as_json: Json = False,
) -> None:
    """Look for what is wrong with a dataset, a policy folder, a training run, or this machine.

    Nothing is changed. Exit status: 0 nothing or only notes and warnings, 1 warnings with --strict, 2 errors.

    Args:
        path: A dataset's, policy's or run's folder; without it, this machine is examined.
        quick: Decode no pictures, read no weights, draw nothing.
        strict: Let warnings fail too.
        max_frames: Frames of a camera looked at closely in each of some episodes; 0 looks at every frame.
        as_json: Print the findings as JSON.
    """
    if max_frames < 0:
        raise ValueError(f"expected --max-frames of 0 or more, found {max_frames}")
    subject = subject_of(path)
    findings = examine(path, quick=quick, max_frames=max_frames)
    status = exit_status(findings, strict=strict)
    if as_json:
        record = {"subject": subject, "path": str(path) if path else "", "findings": to_data(findings)}
        print(json.dumps(record, ensure_ascii=False))
    else:
        console = Console(soft_wrap=True)
        counts = Counter(one.code for one in findings)
        shown: Counter[str] = Counter()
        for one in findings:
            shown[one.code] += 1
            if shown[one.code] <= SHOWN:
                console.print(_line(one), highlight=False)
            elif shown[one.code] == counts[one.code]:
                more = counts[one.code] - SHOWN
                console.print(
                    f"… and {more} more {escape(f'[{one.code}]')}: --json lists all", highlight=False
                )
        clean = status == 0 and path is not None
        say(
            _summary(subject, findings), next_command=NEXT.get(subject, "").format(path=path) if clean else ""
        )
    if status:
        sys.exit(status)


def _line(found: Finding) -> str:
    advice = f". {found.advice}" if found.advice else ""
    return (
        f"[{COLOURS[found.severity]}]{found.severity}[/] {escape(f'[{found.code}]')} "
        f"{escape(f'{found.place}: {found.what}{advice}')}"
    )


def _summary(subject: str, findings: tuple[Finding, ...]) -> str:
    counts = Counter(one.severity for one in findings)
    if not counts["error"] + counts["warning"]:
        return f"{subject}: nothing wrong was found"
    parts = [f"{counts[name]} {name}{'s' if counts[name] > 1 else ''}" for name in counts if counts[name]]
    return f"{subject}: {', '.join(parts)}"
