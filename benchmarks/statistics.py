"""Statistics of millions of frames: frames a minute, and how memory grows with the dataset.

    python -m benchmarks.statistics                                        # 2,000,000 frames, v3.0 and v2.1
    python -m benchmarks.statistics --frames 2000000 8000000 --layouts v3.0

Statistics are computed in a process of their own, start included, and compared with what was known when
the dataset was written. `relative` are actions less the state, over whole chunks of 50. The aim is 1,000,000
frames a minute on two cores, in memory that does not grow in proportion. Needs 0.2 GB of disk for a million
frames, for one dataset at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large_dataset import EPISODE_FRAMES, HORIZON, make
from pizero.data.dataset import check_robot
from pizero.data.lerobot import LeRobotDataset
from pizero.data.statistics import compute_statistics
from pizero.records import write_record
from pizero.robots import ALOHA

AIM = 1_000_000
MEBIBYTE = 2**20
LARGEST_ERROR = 1e-6
LIMIT = 8 * 2**30
"""Bytes that a process may take before it fails, so that a benchmark does not take a whole machine."""


def measure(folder: Path, form: str, verb: str | None) -> None:
    """Compute the statistics of a dataset, by `pizero stats` if arguments are given, and write them."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    if verb is not None:
        from pizero.cli.main import main as pizero

        output = str(folder / "statistics.json")
        sys.argv = ["pizero", "stats", str(folder), "--output", output, *shlex.split(verb)]
        pizero()
        return
    dataset = LeRobotDataset.open(folder)
    check_robot(dataset, ALOHA)
    if form == "relative":
        statistics = compute_statistics(dataset, ALOHA, action_form="relative", horizon=HORIZON)
    else:
        statistics = compute_statistics(dataset, ALOHA)
    write_record(folder / "statistics.json", statistics)


def compare(folder: Path, form: str) -> dict[str, float]:
    """Return how far the statistics are from what is known; `quantiles` in standard deviations."""
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    state, actions = found["state"], found["actions"]

    def off(values: list[float], expected: list[float]) -> float:
        return float(np.abs(np.array(values) - np.array(expected)).max())

    counts = (state["count"], actions["count"])
    expected = (truth["frames"], truth["pairs"] if form == "relative" else truth["frames"])
    figures = {
        "count_error": off(list(counts), list(expected)),
        "mean_error": off(state["mean"], truth["mean"]),
        "extremes_error": max(off(state[name], truth[name]) for name in ("minimum", "maximum")),
        "quantile_error": off([state["q01"][0], state["q99"][0]], truth["quantiles"]) / state["std"][0],
    }
    if form == "relative":
        figures["relative_mean_error"] = off(actions["mean"], truth["relative_mean"])
    return figures


def run(arguments: list[str]) -> tuple[float, float, float]:
    """Run this file in a process of its own: its seconds, processor seconds, and peak resident MiB."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.statistics", *arguments]
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with status {os.waitstatus_to_exitcode(status)}")
    processor = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - began, processor, usage.ru_maxrss * 1024 / MEBIBYTE


def benchmark(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Make each dataset, measure it in each form of the actions, and remove it."""
    rows: list[dict[str, Any]] = []
    for layout in options.layouts:
        for frames in options.frames:
            frames -= frames % EPISODE_FRAMES
            dataset = folder / f"{layout}_{frames}"
            common = ["--folder", str(dataset), "--layouts", layout, "--frames", str(frames)]
            print(f"{dataset.name}: writing …", file=sys.stderr)
            made, _, _ = run([*common, "--step", "make"])
            for form in options.forms:
                print(f"{dataset.name}: {form} …", file=sys.stderr)
                verb = [] if options.verb is None else ["--verb", options.verb]
                seconds, processor, memory = run([*common, "--forms", form, *verb, "--step", "measure"])
                rows.append(
                    {
                        "layout": layout,
                        "frames": frames,
                        "form": form,
                        "seconds": round(seconds, 2),
                        "processor_seconds": round(processor, 2),
                        "frames_per_minute": round(frames / seconds * 60),
                        "peak_mib": round(memory),
                        "made_seconds": round(made, 1),
                        **compare(dataset, form),
                    }
                )
            shutil.rmtree(dataset)
    return rows


def main() -> None:
    """Measure and print a table; the status is 1 where the aim is missed or a statistic is wrong."""
    parser = argparse.ArgumentParser(description="Statistics of millions of frames.")
    parser.add_argument("--frames", type=int, nargs="+", default=[2_000_000])
    parser.add_argument("--layouts", nargs="+", choices=("v3.0", "v2.1"), default=["v3.0", "v2.1"])
    parser.add_argument(
        "--forms", nargs="+", choices=("recorded", "relative"), default=["recorded", "relative"]
    )
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument(
        "--verb",
        metavar="ARGUMENTS",
        help="run `pizero stats` with these arguments, which must ask for the one form given by --forms",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", choices=("make", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "make":
        make(options.folder, options.layouts[0], options.frames[0])
        return
    if options.step == "measure":
        measure(options.folder, options.forms[0], options.verb)
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="statistics_", dir=options.folder) as folder:
        rows = benchmark(options, Path(folder))
    errors = ("count_error", "mean_error", "extremes_error", "quantile_error", "relative_mean_error")
    if options.json:
        print(json.dumps(rows, indent=2))
    for row in () if options.json else rows:
        wrong = max(row.get(name, 0.0) for name in errors)
        print(
            f"{row['layout']}  {row['frames']:>9,} frames  {row['form']:8s}  {row['seconds']:6.1f} s (of "
            f"processor {row['processor_seconds']:.1f})  {row['frames_per_minute']:>10,} frames a minute  "
            f"peak {row['peak_mib']:>6,} MiB  largest error {wrong:.1e}"
        )
    slow = [row for row in rows if row["frames_per_minute"] < AIM]
    wrong = [row for row in rows if max(row.get(name, 0.0) for name in errors) > LARGEST_ERROR]
    if slow or wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
