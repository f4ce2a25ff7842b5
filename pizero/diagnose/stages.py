"""How long each stage of a run took, over all the times that it was started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pizero.records import read_record, write_record


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Wall-clock seconds by stage, in the order in which the stages were first run."""

    seconds: dict[str, float]


def read_stages(path: Path) -> Stages:
    """Return what was noted so far; nothing if there is no such file."""
    return read_record(Stages, path) if path.exists() else Stages(seconds={})


def add_stage(path: Path, stage: str, seconds: float) -> None:
    """Add to a stage's time."""
    known = read_stages(path).seconds
    write_record(path, Stages(seconds=known | {stage: round(known.get(stage, 0.0) + seconds, 2)}))
