"""Results of episodes, success rates, and how sure they are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How one episode went; `seconds` is its wall-clock time.

    The robot waited for the policy in `held` of its control steps; `roughness` says how jerky the commands
    were (`pizero.policy.smoothness`). Results of older versions say neither.
    """

    task: str
    index: int
    seed: int
    success: bool
    steps: int
    seconds: float
    held: int = 0
    roughness: float | None = None


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate (Wilson 1927); z = 1.96 gives 95 %."""
    rate = successes / trials
    center = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def read_results(log: Path) -> list[EpisodeResult]:
    """Return the episodes of a log, one JSON object a line; a last line that was cut off does not count."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    return [EpisodeResult(**json.loads(line)) for line in lines if line.endswith("}\n")]


def summarize(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Return success rates with Wilson 95 % intervals, over all episodes and per task."""
    tasks = dict.fromkeys(result.task for result in results)
    per_task = {task: _row([result for result in results if result.task == task]) for task in tasks}
    return {**_row(results), "tasks": per_task}


def _row(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    solved = sorted(result.steps for result in results if result.success)
    return {
        "success_rate": len(solved) / len(results),
        "interval": wilson_interval(len(solved), len(results)),
        "successes": len(solved),
        "episodes": len(results),
        "median_steps": solved[len(solved) // 2] if solved else None,
    }
