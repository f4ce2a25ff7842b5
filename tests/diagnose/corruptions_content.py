"""Planted faults of what was recorded: numbers, texts and pictures. Files and counts stay right."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.diagnose.clean_dataset import CAMERAS, NAMES, Recorded, record, write_clean, write_video
from tests.diagnose.corruptions import (
    EVERY,
    NEW,
    OLD,
    Break,
    data_files,
    decoded,
    edit_column,
    edit_everywhere,
    edit_lines,
    of,
    plant,
    videos,
)

STATE, ACTION = "observation.state", "action"
JOINTS = [index for index, name in enumerate(NAMES) if name != "gripper"]
DEGREES = 180 / np.pi


def everywhere(change: Callable[[np.ndarray, np.ndarray], None], *keys: str) -> Break:
    return lambda folder: edit_everywhere(folder, change, *keys)


def by_episode(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], None]:
    """Change the rows of each episode by themselves."""

    def apply(values: np.ndarray, owner: np.ndarray) -> None:
        for episode in np.unique(owner):
            values[owner == episode] = change(values[owner == episode])

    return apply


def in_episode(
    number: int, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray, np.ndarray], None]:
    def apply(values: np.ndarray, owner: np.ndarray) -> None:
        values[owner == number] = change(values[owner == number])

    return apply


def first_value(dimension: str, key: str, value: float) -> Break:
    def change(values: np.ndarray, _: np.ndarray) -> None:
        values[17, of(dimension)] = value

    return lambda folder: edit_column(data_files(folder)[0], key, change)


def whole_dimension(dimension: str, value: float) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(values: np.ndarray, _: np.ndarray) -> None:
        values[:, of(dimension)] = value

    return change


def few_changes(values: np.ndarray, owner: np.ndarray) -> None:
    values[:, of("wrist_3")] = 0.25
    values[np.flatnonzero(owner == 0)[:3], of("wrist_3")] = 0.5


def in_degrees(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, JOINTS] *= DEGREES
    return values


def mirrored_gripper(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, of("gripper")] = 1 - values[:, of("gripper")]
    return values


def later(steps: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a change that gives each frame the value of `steps` frames later, clamped."""

    def change(values: np.ndarray) -> np.ndarray:
        return values[np.clip(np.arange(len(values)) + steps, 0, len(values) - 1)]

    return change


def with_elbow(scale: float, offset: float) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(values: np.ndarray, _: np.ndarray) -> None:
        values[:, of("elbow")] = scale * values[:, of("elbow")] + offset

    return change


def actions_from_states(steps: int) -> Break:
    """Return a fault: the actions are the states of `steps` frames later."""

    def apply(folder: Path) -> None:
        for path in data_files(folder):
            table = pq.read_table(path)
            owner = table.column("episode_index").to_numpy()
            states = np.stack(table.column(STATE).to_pylist()).astype(np.float32)
            by_episode(later(steps))(states, owner)
            column = pa.array(list(states), table.schema.field(ACTION).type)
            pq.write_table(table.set_column(table.column_names.index(ACTION), ACTION, column), path)

    return apply


def written_anew(version: str, change: Callable[[list[Recorded]], None]) -> Break:
    def apply(folder: Path) -> None:
        shutil.rmtree(folder)
        episodes = record(0)
        change(episodes)
        write_clean(folder, version, episodes)

    return apply


def third_twice(episodes: list[Recorded]) -> None:
    episodes[5] = episodes[2]


def one_frame(episodes: list[Recorded]) -> None:
    old = episodes[7]
    pictures = {camera: frames[:1] for camera, frames in old.pictures.items()}
    episodes[7] = replace(old, states=old.states[:1], actions=old.actions[:1], pictures=pictures)


def task_text(number: int, text: str) -> Break:
    """Return a fault: a task has that text, in every table."""

    def apply(folder: Path) -> None:
        old: list[str] = []

        def tasks(rows: list[dict[str, Any]]) -> None:
            old.append(rows[number]["task"])
            rows[number]["task"] = text

        def episodes(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                row["tasks"] = [text if task == old[0] else task for task in row["tasks"]]

        edit_lines(folder / "meta/tasks.jsonl", tasks)
        edit_lines(folder / "meta/episodes.jsonl", episodes)

    return apply


def painted(number: int, frames: slice, value: int) -> Break:
    """Return a fault: some frames of the n-th video are of one colour."""

    def apply(folder: Path) -> None:
        pictures = decoded(videos(folder)[number])
        for index in range(*frames.indices(len(pictures))):
            pictures[index] = np.full_like(pictures[index], value)
        write_video(videos(folder)[number], pictures)

    return apply


def frozen(number: int, first: int, count: int) -> Break:
    """Return a fault: from a frame on, one picture is repeated."""

    def apply(folder: Path) -> None:
        pictures = decoded(videos(folder)[number])
        end = min(first + count, len(pictures))
        pictures[first:end] = [pictures[first]] * (end - first)
        write_video(videos(folder)[number], pictures)

    return apply


def exchanged(*numbers: int) -> Break:
    """Return a fault: in the n-th videos, the two cameras have changed places."""

    def apply(folder: Path) -> None:
        for number in numbers:
            one, other = (videos(folder, camera)[number] for camera in CAMERAS)
            aside = one.with_suffix(".aside")
            one.rename(aside)
            other.rename(one)
            aside.rename(other)

    return apply


def one_camera_twice(folder: Path) -> None:
    for one, other in zip(videos(folder, CAMERAS[0]), videos(folder, CAMERAS[1]), strict=True):
        shutil.copy(one, other)


plant("state-nan", first_value("elbow", STATE, np.nan), EVERY, "not-finite")
plant("action-infinite", first_value("gripper", ACTION, np.inf), OLD, "not-finite")
plant("state-outlier", first_value("elbow", STATE, 1e6), EVERY, "outlier")
plant("action-outlier", first_value("wrist_1", ACTION, -1e6), NEW, "outlier")
plant("joint-constant", everywhere(whole_dimension("wrist_3", 0.25)), EVERY, "constant-dimension")
plant("joint-hardly-changes", everywhere(few_changes), EVERY, "narrow-quantiles")
plant("gripper-still", everywhere(whole_dimension("gripper", 0.0)), EVERY, "gripper-still")
plant("gripper-reversed", everywhere(in_episode(4, mirrored_gripper)), EVERY, "gripper-reversed")
plant("all-in-degrees", everywhere(by_episode(in_degrees)), EVERY, "unit-suspect")
plant("episode-in-degrees", everywhere(in_episode(4, in_degrees)), EVERY, "unit-mixed")
plant("actions-in-degrees", everywhere(by_episode(in_degrees), ACTION), EVERY, "unit-mixed")
plant("actions-lead-far", everywhere(by_episode(later(11)), ACTION), EVERY, "action-lag")
plant("actions-late", everywhere(by_episode(later(-6)), ACTION), EVERY, "action-late")
plant("action-offset", everywhere(with_elbow(1, 1.0), ACTION), EVERY, "action-offset")
plant("action-reversed", everywhere(with_elbow(-1, 0), ACTION), EVERY, "action-reversed")
plant("action-is-state", actions_from_states(0), EVERY, "action-is-state")
plant("action-is-earlier-state", actions_from_states(-3), OLD, "action-is-state")
for version in ("v2.1", "v3.0"):
    plant("episode-twice", written_anew(version, third_twice), (version,), "episode-duplicate")
    plant("episode-of-one-frame", written_anew(version, one_frame), (version,), "episode-short")
plant("task-empty", task_text(1, " "), OLD, "task-empty")
plant("task-twice", task_text(1, "put the cup on the plate"), OLD, "task-duplicate")
plant("task-in-capitals", task_text(1, "Put the cup on the plate."), OLD, "task-similar")
plant("task-misspelt", task_text(1, "put the cup on the plaet"), OLD, "task-similar")
plant(
    "task-not-in-table",
    lambda f: edit_lines(f / "meta/tasks.jsonl", lambda rows: rows[0].update(task="x y z")),
    OLD,
    "tasks-damaged",
)
plant("black-frames", painted(3, slice(20, 30), 0), OLD, "blank-frames")
plant("white-frames", painted(0, slice(100, 112), 255), NEW, "blank-frames")
plant("black-first-frame", painted(5, slice(0, 1), 2), OLD, "blank-frames")
plant("frozen-frames", frozen(6, 12, 14), OLD, "frozen-frames")
plant("frozen-frames", frozen(0, 130, 16), NEW, "frozen-frames")
plant("frozen-episode", frozen(8, 0, 100), OLD, "frozen-frames")
plant("cameras-swapped-once", exchanged(4), OLD, "cameras-swapped")
plant("cameras-swapped-from-then-on", exchanged(7, 8, 9, 10, 11), OLD, "cameras-swapped")
plant("cameras-swapped-in-a-file", exchanged(1), NEW, "cameras-swapped")
plant("one-camera-twice", one_camera_twice, EVERY, "cameras-equal")
