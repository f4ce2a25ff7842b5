"""The columns that count: rows, frames, episodes, tasks and times of each episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.diagnose.doctor.findings import COPY, Findings, several
from pizero.diagnose.doctor.source import Source

RATE_TOLERANCE = 0.01
"""A rate that differs by more than one in a hundred is another rate and no jitter."""
GAP = 1.5
"""A step of more than one and a half frames leaves out at least one."""
UNEVEN = 1e-3
"""Seconds that a time may be away from its frame's; the video of a frame is looked up as finely."""


def check_counters(
    source: Source,
    path: Path,
    episodes: list[EpisodeInfo],
    columns: Mapping[str, np.ndarray],
    findings: Findings,
) -> list[EpisodeInfo]:
    """Return the episodes whose rows are known; say where counters contradict the table of episodes.

    `columns` are the rows of `episodes`, in order. With another number of rows than the table says, no row
    can be told from another, and none is checked further.
    """
    if not columns:
        return []
    num_rows = len(next(iter(columns.values())))
    expected = sum(episode.length for episode in episodes)
    if num_rows != expected:
        if not findings.has("episodes-damaged"):
            what = f"{num_rows} rows, expected {expected} of {_span(episodes)}"
            findings.add("count-mismatch", path, what, COPY)
        return []
    first = episodes[0].start
    index = np.arange(first, first + num_rows)
    local = np.concatenate([np.arange(episode.length) for episode in episodes])
    owner = np.repeat([episode.index for episode in episodes], [episode.length for episode in episodes])
    rows = [("index", index, "count-mismatch"), ("episode_index", owner, "count-mismatch")]
    if findings.has("episodes-damaged"):  # then it is the table that numbers wrongly
        rows = []
    for key, right, code in (*rows, ("frame_index", local, "frame-index-broken")):
        wrong = np.flatnonzero(columns[key] != right) if key in columns else np.array([], int)
        if len(wrong):
            row = int(wrong[0])
            findings.add(
                code,
                path,
                f"{len(wrong)} rows have another {key} than their place, first row {row} (episode "
                f"{owner[row]}): {columns[key][row]} instead of {right[row]}",
                "sort the rows and number them anew",
            )
    _check_tasks(source, path, owner, columns, findings)
    if "timestamp" in columns and source.fps:
        _check_times(source, path, episodes, columns["timestamp"].astype(np.float64), findings)
    return episodes


def _check_tasks(
    source: Source, path: Path, owner: np.ndarray, columns: Mapping[str, np.ndarray], findings: Findings
) -> None:
    if source.tasks is None or findings.has("tasks-damaged") or "task_index" not in columns:
        return
    wrong = np.flatnonzero(~np.isin(columns["task_index"], list(source.tasks)))
    if len(wrong):
        findings.add(
            "tasks-damaged",
            path,
            f"{len(wrong)} frames, the first in episode {owner[wrong[0]]}, have task "
            f"{columns['task_index'][wrong[0]]}, and there are the tasks 0 to {len(source.tasks) - 1}",
            "add the task to the table of tasks, or correct task_index",
        )


def _check_times(
    source: Source, path: Path, episodes: Sequence[EpisodeInfo], times: np.ndarray, findings: Findings
) -> None:
    damaged: list[str] = []
    other: list[str] = []
    uneven: list[str] = []
    start = 0
    for episode in episodes:
        own = times[start : start + episode.length]
        start += episode.length
        who = f"episode {episode.index}"
        steps = np.diff(own) * source.fps
        if not np.isfinite(own).all():
            damaged.append(f"{who} has times that are not finite")
        elif (steps <= 0).any():
            damaged.append(f"{who} runs back at frame {int(np.argmax(steps <= 0)) + 1}")
        elif len(steps) and abs(np.median(steps) - 1) > RATE_TOLERANCE:
            other.append(f"{source.fps / np.median(steps):.4g} Hz in {who}")
        elif (steps > GAP).any():
            frame = int(np.argmax(steps > GAP))
            damaged.append(f"{who} has a gap of {steps[frame] / source.fps:.3f} s after frame {frame}")
        elif abs(own[0]) > UNEVEN:
            damaged.append(f"{who} begins at {own[0]:.3f} s instead of 0")
        else:
            away = np.abs(own - np.arange(len(own)) / source.fps)
            slack = UNEVEN + 4 * np.finfo(np.float32).eps * own[-1]  # times are float32
            if (away > slack).any():
                uneven.append(f"{who} by up to {away.max() * 1e3:.1f} ms")
    if damaged:
        findings.add(
            "timestamps-damaged",
            path,
            several(damaged, shown=3),
            "write frame_index / fps as times if no frame is missing; else remove these episodes",
        )
    if other:
        findings.add(
            "rate-mismatch",
            path,
            f"info.json says {source.fps:g} Hz, the times say {several(other, shown=3)}",
            "correct fps in info.json, or the times",
        )
    if uneven:
        findings.add(
            "timestamps-uneven",
            path,
            f"times are away from frame_index / fps: {several(uneven, shown=3)}",
            "LeRobot refuses times that are more than 0.1 ms away: write frame_index / fps",
        )


def _span(episodes: Sequence[EpisodeInfo]) -> str:
    if len(episodes) == 1:
        return f"episode {episodes[0].index}"
    return f"episodes {episodes[0].index} to {episodes[-1].index}"
