"""Opening a dataset of 100,000 episodes: seconds, memory, and which files were touched.

    python -m benchmarks.opening
    python -m benchmarks.opening --episodes 10000 100000 --layouts v3.0

Each dataset has all of its metadata (statistics of every episode, three cameras), and in the places of
its columns and videos files that are neither: who reads one fails. It is opened in a fresh process; then once
more under strace, where there is one, or under an audit hook, to list what was opened. The status is 1 if a
file of columns or video was. Needs under 1 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.large_dataset import data_path, link_all, write_metadata
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import WrittenVersion

LENGTH = 20
MEBIBYTE = 2**20
OPENED = re.compile(r'open(?:at2?)?\((?:[^"]*, )?"([^"]*)", ([^)]*)\)')


def make(folder: Path, layout: WrittenVersion, num_episodes: int) -> None:
    """Write the metadata of a dataset, and files in the places of its columns and videos."""
    write_metadata(folder, layout, num_episodes, LENGTH)
    paths = dict.fromkeys(data_path(layout, index) for index in range(num_episodes))
    link_all(b"not columns", map(folder.joinpath, paths))


def open_once(folder: Path, listing: Path | None) -> None:
    """Open the dataset in this process and print what that took; `listing` takes the files' names."""
    opened: list[str] = []
    if listing is not None:

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(arguments[0], str):
                opened.append(arguments[0])

        sys.addaudithook(hook)
    before = resident()
    began, worked = time.perf_counter(), time.process_time()
    dataset = LeRobotDataset.open(folder)
    seconds, work = time.perf_counter() - began, time.process_time() - worked
    figures = {
        "open_seconds": seconds,
        "processor_seconds": work,
        "resident_mib": (resident() - before) / MEBIBYTE,
        "episodes": len(dataset.episodes),
        "frames": dataset.num_frames,
    }
    if listing is not None:
        listing.write_text("\n".join(opened), encoding="utf-8")
    print(json.dumps(figures))


def resident() -> int:
    """Return this process's resident memory, in bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def measure(folder: Path) -> dict[str, Any]:
    """Open a dataset in a fresh process, its start and its imports counted apart."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.opening", "--folder", str(folder), "--step", "open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        text = output.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"opening {folder} ended with status {os.waitstatus_to_exitcode(status)}")
    return json.loads(text.splitlines()[-1]) | {
        "process_seconds": time.perf_counter() - began,
        "peak_mib": usage.ru_maxrss * 1024 / MEBIBYTE,
    }


def opened_files(folder: Path, scratch: Path) -> tuple[str, list[str]]:
    """Return how files were watched, and those of the dataset that were opened, folders aside."""
    listing = scratch / "opened.txt"
    command = [sys.executable, "-m", "benchmarks.opening", "--folder", str(folder), "--step"]
    watcher = shutil.which("strace")
    if watcher:
        trace = [watcher, "-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", str(listing)]
        subprocess.run([*trace, *command, "open"], check=True, stdout=subprocess.DEVNULL)
        calls = OPENED.findall(listing.read_text(encoding="utf-8", errors="replace"))
        names = [name for name, flags in calls if "O_DIRECTORY" not in flags]
    else:
        subprocess.run([*command, "list", str(listing)], check=True, stdout=subprocess.DEVNULL)
        names = listing.read_text(encoding="utf-8").splitlines()
    root = f"{folder}/"
    return "strace" if watcher else "audit hook", [
        name.removeprefix(root) for name in names if name.startswith(root)
    ]


def benchmark(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Make each dataset, open it twice, and remove it."""
    rows: list[dict[str, Any]] = []
    for layout in options.layouts:
        for episodes in options.episodes:
            folder = scratch / f"{layout}_{episodes}"
            print(f"{folder.name} …", file=sys.stderr)
            began = time.perf_counter()
            make(folder, layout, episodes)
            made = time.perf_counter() - began
            figures = measure(folder)
            assert figures["episodes"] == episodes
            watched, names = opened_files(folder, scratch)
            if not any(name.startswith("meta/") for name in names):
                raise SystemExit(f"{watched} saw no file of {folder} opened, not even its metadata")
            rows.append(
                {"layout": layout, **figures, "made_seconds": made, "watched_by": watched}
                | {kind: sum(n.startswith(f"{kind}/") for n in names) for kind in ("meta", "data", "videos")}
            )
            shutil.rmtree(folder)
    return rows


def main() -> None:
    """Measure and print a table; the status is 1 if a file of columns or video was opened."""
    parser = argparse.ArgumentParser(description="Opening a dataset of many episodes.")
    parser.add_argument("--episodes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--layouts", nargs="+", choices=("v3.0", "v2.1"), default=["v3.0", "v2.1"])
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        open_once(options.folder, Path(options.step[1]) if options.step[0] == "list" else None)
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opening_", dir=options.folder) as scratch:
        rows = benchmark(options, Path(scratch))
    if options.json:
        print(json.dumps(rows, indent=2))
    for row in () if options.json else rows:
        print(
            f"{row['layout']}  {row['episodes']:>7,} episodes  open {row['open_seconds']:.2f} s (of "
            f"processor {row['processor_seconds']:.2f}, whole process {row['process_seconds']:.2f})  memory "
            f"+{row['resident_mib']:.0f} MiB, peak {row['peak_mib']:.0f}  files opened, by "
            f"{row['watched_by']}: meta {row['meta']}, data {row['data']}, videos {row['videos']}"
        )
    if any(row["data"] or row["videos"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
