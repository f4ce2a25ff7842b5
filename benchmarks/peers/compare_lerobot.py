"""What pizero writes, LeRobot reads; what LeRobot reads, pizero reads: compared frame by frame.

    python -m benchmarks.peers.compare_lerobot runs/peers                     # datasets by pizero's writer
    python -m benchmarks.peers.compare_lerobot runs/peers --dataset FOLDER    # and a dataset of your own

Needs the environments of `lerobot_environment.py` in the folder. Each dataset is read by LeRobot in its own
process, item by item and as windows across its episodes' borders, and by pizero; columns, tasks and what is
padding must be equal, pictures equal in every pixel (`--tolerance` allows some of 255). The status is 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from benchmarks.peers.lerobot_environment import interpreter
from benchmarks.peers.made_datasets import Case, Truth, cases, make, numbers_on
from pizero.data.dataset import action_windows
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import ACTION, STATE, camera_of

OFFSETS = (-2, -1, 0, 1, 2, 3)
HORIZON = 4
READER = Path(__file__).with_name("lerobot_read.py")
READER_OF = {"v2.0": "0.3.3", "v2.1": "0.3.3", "v3.0": "0.4.4"}
Arrays = Mapping[str, np.ndarray]


@dataclass(kw_only=True)
class Comparison:
    """How one dataset compares: what was compared, what differs, and by how much pictures do."""

    name: str
    lerobot: str
    frames: int = 0
    columns: int = 0
    pictures: int = 0
    windows: int = 0
    statistics: int = 0
    largest_picture_difference: int = 0
    different: list[str] = field(default_factory=list)

    def same(self, what: str, found: np.ndarray, expected: np.ndarray) -> None:
        """Note a difference, unless two arrays have one shape and the same values."""
        if found.shape != expected.shape:
            self.different.append(f"{what}: shape {found.shape}, LeRobot has {expected.shape}")
        elif not np.array_equal(found, expected):
            rows = np.argwhere((found != expected).reshape(len(found), -1).any(axis=1)).ravel()
            self.different.append(f"{what}: {len(rows)} rows of {len(found)}, first {rows[0]}")

    def alike(self, what: str, found: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
        """Note a difference of pictures that is larger than allowed."""
        if found.shape != expected.shape:
            self.different.append(f"{what}: shape {found.shape}, LeRobot has {expected.shape}")
            return
        off = np.abs(found.astype(np.int16) - expected.astype(np.int16)).reshape(len(found), -1).max(axis=1)
        self.largest_picture_difference = max(self.largest_picture_difference, int(off.max()))
        if off.max() > tolerance:
            rows = np.argwhere(off > tolerance).ravel()
            self.different.append(
                f"{what}: {len(rows)} pictures of {len(found)}, first {rows[0]}, by {off.max()}"
            )


def read_with_lerobot(environments: Path, version: str, dataset: Path) -> dict[str, np.ndarray]:
    """Return what LeRobot reads of a dataset, in a process of its own that reaches no network."""
    with tempfile.TemporaryDirectory(prefix="lerobot_read_") as scratch:
        output = Path(scratch) / "read.npz"
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(Path(scratch) / "cache")}
        command = [str(interpreter(environments, version)), "-I", "-W", "ignore", str(READER)]
        done = subprocess.run(
            [*command, str(dataset), str(output), "--offsets", *map(str, OFFSETS)],
            env=os.environ | offline,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"LeRobot {version} cannot read {dataset}:\n{done.stderr[-2000:]}")
        with np.load(output) as file:
            return dict(file)


def compare(name: str, dataset: LeRobotDataset, read: Arrays, version: str, tolerance: int) -> Comparison:
    """Return how pizero's reading of a dataset compares with LeRobot's."""
    result = Comparison(name=name, lerobot=version, frames=dataset.num_frames)
    facts = json.loads(str(read["facts"]))
    items = {key.removeprefix("item/"): values for key, values in read.items() if key.startswith("item/")}
    cameras: dict[str, str] = {key: camera_of(key) for key in facts["cameras"]}
    result.same(
        "episodes",
        np.array([(episode.start, episode.end) for episode in dataset.episodes]),
        np.array(facts["episodes"]),
    )
    tasks = np.array([dataset.task_of_frame(frame) for frame in range(dataset.num_frames)])
    result.same("task", tasks, items.pop("task"))
    for key, expected in items.items():
        if key not in cameras:
            found = np.asarray(dataset.column(key))
            if found.size == expected.size:
                found = found.reshape(expected.shape)
            kind = expected.dtype if expected.dtype.kind != "U" else found.dtype
            result.same(key, found.astype(kind), expected)
            result.columns += 1
    result.same("states", dataset.states, items[STATE].reshape(dataset.num_frames, -1))
    result.same("actions", dataset.actions, items[ACTION].reshape(dataset.num_frames, -1))

    frames, episode = read["window_frames"], dataset.episode_index[read["window_frames"]]
    first = np.array([info.start for info in dataset.episodes])[episode, None]
    end = np.array([info.end for info in dataset.episodes])[episode, None]
    wanted = frames[:, None] + np.array(OFFSETS)
    inside, clamped = (wanted >= first) & (wanted < end), np.clip(wanted, first, end - 1)
    for key, camera in cameras.items():
        mine = np.concatenate(
            [dataset.images(camera, range(info.start, info.end)) for info in dataset.episodes]
        )
        result.alike(key, mine, items[key], tolerance)
        single = np.concatenate([dataset.images(camera, range(int(f), int(f) + 1)) for f in frames])
        result.alike(f"{key}, one at a time", single, items[key][frames], tolerance)
        result.alike(f"{key}, windows", mine[clamped], read[f"window/{key}"], tolerance)
        result.same(f"{key}, padding", inside, read[f"window_valid/{key}"])
        result.pictures += len(mine) + len(single) + clamped.size
    vectors = {key: read[f"window/{key}"].reshape(*clamped.shape, -1) for key in (STATE, ACTION)}
    result.same("states, windows", dataset.states[clamped], vectors[STATE])
    result.same("states, padding", inside, read[f"window_valid/{STATE}"])
    actions, valid = action_windows(dataset, frames, HORIZON)
    ahead = OFFSETS.index(0)
    result.same("action windows", actions, vectors[ACTION][:, ahead:])
    result.same("action windows, padding", valid, read[f"window_valid/{ACTION}"][:, ahead:])
    result.windows = len(frames) * (2 + len(cameras))
    return result


def compare_with_truth(result: Comparison, truth: Truth, read: Arrays, features: Mapping[str, str]) -> None:
    """Note where LeRobot reads something else than what was put in; a video may lose detail, but no frame."""
    for key, values in truth.columns.items():
        expected = read[f"item/{key}"]
        kind = expected.dtype if expected.dtype.kind != "U" else values.dtype
        result.same(f"{key} as written", values.reshape(expected.shape).astype(kind), expected)
    result.same("task as written", np.array(truth.tasks), read["item/task"])
    for key, values in truth.columns.items():
        if values.dtype.kind in "fiu" and values.ndim == 2:
            compare_statistics(result, key, values.astype(np.float64), read)
    for key, pictures in truth.pictures.items():
        expected = read[f"item/{key}"]
        if features[key] == "image":
            result.same(f"{key} as written", pictures, expected)
            continue
        camera = list(features).index(key)
        result.same(f"{key}, numbers of the frames", np.arange(len(pictures)), numbers_on(expected, camera))
        error = float(np.abs(pictures.astype(np.int16) - expected.astype(np.int16)).mean())
        if error > 12:
            result.different.append(f"{key}: mean error {error:.1f} of 255 against what was written")


def compare_statistics(
    result: Comparison, key: str, values: Float64[np.ndarray, "frame dimension"], read: Arrays
) -> None:
    """Note where the statistics that LeRobot loads are not those of what was put in."""
    expected = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }
    largest = np.abs(values).max()
    for name, exact in expected.items():
        found = read[f"stats/{key}/{name}"]
        if found.shape != exact.shape or np.abs(found - exact).max() > 1e-6 * max(largest, 1.0):
            result.different.append(f"{key}: {name} in the statistics is {found}, expected {exact}")
        result.statistics += 1


def planted(dataset: LeRobotDataset, read: Arrays, version: str, tolerance: int) -> list[str]:
    """Return the planted faults that the comparison does not see; there must be none."""
    facts = json.loads(str(read["facts"]))
    changes: dict[str, tuple[str, np.ndarray]] = {}
    for key in (f"item/{STATE}", "item/timestamp", f"window/{ACTION}"):
        values = read[key].copy()
        values.reshape(-1)[-1] = np.nextafter(values.reshape(-1)[-1], np.float32(np.inf))
        changes[f"the last number of {key}"] = (key, values)
    valid = read[f"window_valid/{ACTION}"].copy()
    valid.reshape(-1)[-1] ^= True
    changes["one mark of padding"] = (f"window_valid/{ACTION}", valid)
    tasks = read["item/task"].copy()
    tasks[-1] = tasks[-1][:-1]
    changes["a letter of a task"] = ("item/task", tasks)
    for key in facts["cameras"]:
        if dataset.num_frames > 1:
            changes[f"pictures of {key} backwards"] = (f"item/{key}", read[f"item/{key}"][::-1])
        window = read[f"window/{key}"].copy()
        window[-1, 0, 0, 0, 0] ^= 1 + 2 * tolerance
        changes[f"one value of a picture of {key}"] = (f"window/{key}", window)
    return [
        what
        for what, (key, values) in changes.items()
        if not compare("planted", dataset, dict(read) | {key: values}, version, tolerance).different
    ]


def compare_all(options: argparse.Namespace, scratch: Path) -> list[Comparison]:
    """Compare every dataset; one that cannot be written or read is a difference."""
    chosen = [case for case in cases() if options.match in case.name and not options.only_given]
    jobs: list[tuple[str, str, Case | Path]] = [(case.name, case.lerobot, case) for case in chosen]
    for folder in options.dataset:
        version = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))["codebase_version"]
        jobs.append((folder.name, READER_OF[version], folder))
    results: list[Comparison] = []
    for number, (name, version, source) in enumerate(jobs):
        print(f"{name} …", file=sys.stderr)
        folder = scratch / f"dataset_{number}"
        try:
            results.append(compare_one(name, version, source, folder, options))
        except ValueError as error:
            results.append(Comparison(name=name, lerobot=version, different=[str(error)]))
    return results


def compare_one(
    name: str, version: str, source: Case | Path, folder: Path, options: argparse.Namespace
) -> Comparison:
    """Make or copy one dataset to `folder`, read it twice, and compare."""
    truth = None
    if isinstance(source, Case):
        truth = make(source, folder)
    else:
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
    read = read_with_lerobot(options.folder, version, folder)
    dataset = LeRobotDataset.open(folder)
    result = compare(name, dataset, read, version, options.tolerance)
    if truth is not None:
        dtypes = {key: entry["dtype"] for key, entry in dataset.info["features"].items()}
        compare_with_truth(result, truth, read, dtypes)
    if options.plant:
        unseen = planted(dataset, read, version, options.tolerance)
        result.different += [f"planted and not seen: {what}" for what in unseen]
    return result


def main() -> None:
    """Compare, print a table, and end with status 1 if anything differs."""
    parser = argparse.ArgumentParser(description="Compare pizero and LeRobot on datasets.")
    parser.add_argument("folder", type=Path, help="where LeRobot's environments lie")
    parser.add_argument(
        "--dataset", type=Path, action="append", default=[], help="another dataset to compare"
    )
    parser.add_argument("--only-given", action="store_true", help="only the datasets named by --dataset")
    parser.add_argument("--match", default="", help="only made datasets whose name has this in it")
    parser.add_argument("--tolerance", type=int, default=0, help="allowed difference of a pixel's value")
    parser.add_argument("--plant", action="store_true", help="also plant faults that must be seen")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare_lerobot_") as scratch:
        results = compare_all(options, Path(scratch))
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False))
    else:
        for result in results:
            verdict = "equal" if not result.different else "DIFFERENT"
            print(
                f"{result.name:20s} LeRobot {result.lerobot}  frames {result.frames:4d}  "
                f"columns {result.columns:2d}  pictures {result.pictures:5d}  windows {result.windows:4d}  "
                f"statistics {result.statistics:2d}  "
                f"largest pixel difference {result.largest_picture_difference:3d}  {verdict}"
            )
            for line in result.different:
                print(f"    {line}")
    if not results or any(result.different for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
