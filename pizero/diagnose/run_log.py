"""The logs of a run, as far as they can be read: one JSON object a line, and their columns as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The objects of a log, and how many of its whole lines are none."""

    rows: list[dict[str, Any]]
    damaged: int = 0


def read_lines(path: Path, *, key: str = "step", kind: type = int) -> Lines:
    """Return a log's objects whose `key` is of a kind; there are none if there is no such file.

    A last line without an end is still being written, and counts neither way.
    """
    if not path.is_file():
        return Lines(rows=[])
    rows, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get(key), kind):
            rows.append(row)
        else:
            damaged += 1
    return Lines(rows=rows, damaged=damaged)


def column(rows: Sequence[Mapping[str, Any]], key: str) -> Float64[np.ndarray, " row"]:
    """Return one figure of each row; NaN where it is missing or no number."""
    values = [row.get(key) for row in rows]
    numbers = [
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
        for value in values
    ]
    return np.array(numbers, dtype=np.float64)


def names_of(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """Return the keys of all rows that begin with a prefix, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))


def tail_mean(values: Float64[np.ndarray, " row"], count: int = 50) -> float | None:
    """Return the mean of the finite numbers among the last `count`; None if there are none."""
    tail = values[-count:]
    finite = tail[np.isfinite(tail)]
    return float(finite.mean()) if len(finite) else None


def last(values: Float64[np.ndarray, " row"]) -> float | None:
    """Return the last finite number; None if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None


def smoothed(values: Float64[np.ndarray, " row"], decay: float) -> Float64[np.ndarray, " row"]:
    """Return the moving average of the finite numbers; where one is not, the average so far."""
    found, average = np.full(len(values), np.nan), np.nan
    for place, value in enumerate(values):
        if np.isfinite(value):
            average = value if np.isnan(average) else decay * average + (1 - decay) * value
        found[place] = average
    return found


def thinned(
    steps: Float64[np.ndarray, " row"], values: Float64[np.ndarray, " row"], *, most: bool = False
) -> tuple[Float64[np.ndarray, " bin"], Float64[np.ndarray, " bin"]]:
    """Return a curve of at most `MAX_POINTS` points: the mean, or the `most`, of neighbours' finite numbers.

    A point stands at the last step of its neighbours.
    """
    if len(values) <= MAX_POINTS:
        return steps, values
    found = []
    for part in np.array_split(values, MAX_POINTS):
        finite = part[np.isfinite(part)]
        found.append((finite.max() if most else finite.mean()) if len(finite) else np.nan)
    ends = np.array([part[-1] for part in np.array_split(steps, MAX_POINTS)])
    return ends, np.array(found, dtype=np.float64)


MAX_POINTS = 1_000
"""A drawn curve has at most so many points; more are not seen, and make a page slow."""
