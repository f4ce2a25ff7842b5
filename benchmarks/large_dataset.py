"""Datasets of millions of frames or of many thousand episodes, in seconds: columns and metadata, no videos.

States and actions of a robot with 14 dimensions stand in parquet, one row group an episode, as LeRobot
records them. What stands where videos should be is none, so nobody can have read one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data.lerobot_features import (
    ACTION,
    COUNTERS,
    STATE,
    WrittenVersion,
    arrow_schema,
    features_json,
    robot_layout,
)
from pizero.robots import ALOHA

EPISODE_FRAMES = 400
EPISODES_PER_FILE = 1_000
HORIZON = 50
TASK = "fold the towel"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
LAYOUT = robot_layout(ALOHA)


def make(folder: Path, layout: WrittenVersion, num_frames: int) -> None:
    """Write a dataset of random walks, and beside it what is known of its statistics."""
    num_episodes = num_frames // EPISODE_FRAMES
    write_metadata(folder, layout, num_episodes, EPISODE_FRAMES)
    schema = arrow_schema(LAYOUT.columns | COUNTERS, layout)
    truth = Truth()
    for first in range(0, num_episodes, EPISODES_PER_FILE):
        count = min(EPISODES_PER_FILE, num_episodes - first)
        states, actions = movements(first, count)
        truth.add(states, actions)
        table = pa.Table.from_arrays(list(columns(schema, first, states, actions)), schema=schema)
        for number in range(count) if layout == "v2.1" else (0,):
            size = EPISODE_FRAMES if layout == "v2.1" else len(table)
            path = folder / data_path(layout, first + number)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.slice(number * size, size), path, row_group_size=EPISODE_FRAMES)
    (folder / "truth.json").write_text(json.dumps(truth.known()), encoding="utf-8")


def movements(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states and actions of some episodes `[episode, frame, dimension]`: swings, and noise."""
    rng = np.random.default_rng((3, first))
    shape = (count, 1, ALOHA.state_dim)
    seconds = np.arange(EPISODE_FRAMES, dtype=np.float32)[None, :, None] / np.float32(ALOHA.rate)
    pace = rng.uniform(0.2, 1.5, shape).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, shape).astype(np.float32)
    states = np.sin(seconds * pace + phase)
    states += rng.standard_normal(states.shape, dtype=np.float32) * np.float32(0.01)
    actions = np.sin((seconds + np.float32(0.1)) * pace + phase)
    actions += rng.standard_normal(states.shape, dtype=np.float32) * np.float32(0.01)
    return states, actions


def columns(schema: pa.Schema, first: int, states: np.ndarray, actions: np.ndarray) -> Iterator[pa.Array]:
    """Yield the columns of some episodes, in the order of the schema."""
    count = len(states)
    number = np.tile(np.arange(EPISODE_FRAMES), count)
    values = {
        STATE: states,
        ACTION: actions,
        "timestamp": number / ALOHA.rate,
        "frame_index": number,
        "episode_index": np.repeat(np.arange(first, first + count), EPISODE_FRAMES),
        "index": np.arange(first * EPISODE_FRAMES, (first + count) * EPISODE_FRAMES),
        "task_index": np.zeros(len(number)),
    }
    for entry in schema:
        found = values[entry.name]
        if pa.types.is_fixed_size_list(entry.type):
            yield pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[-1])
        else:
            yield pa.array(found.astype(entry.type.to_pandas_dtype()))


def data_path(layout: WrittenVersion, episode: int) -> str:
    """Return the file of an episode's columns."""
    if layout == "v2.1":
        return V2_DATA.format(episode_chunk=episode // 1000, episode_index=episode)
    return V3_DATA.format(chunk_index=0, file_index=episode // EPISODES_PER_FILE)


def video_paths(layout: WrittenVersion, num_episodes: int) -> Iterator[str]:
    """Yield every video file of a dataset; in v3.0 all episodes of a file of columns share one."""
    for key in LAYOUT.videos:
        if layout == "v2.1":
            for index in range(num_episodes):
                yield V2_VIDEO.format(video_key=key, episode_chunk=index // 1000, episode_index=index)
        else:
            for index in range(-(-num_episodes // EPISODES_PER_FILE)):
                yield V3_VIDEO.format(video_key=key, chunk_index=0, file_index=index)


class Truth:
    """What is known of statistics, summed up while a dataset is written, from the definitions alone."""

    def __init__(self) -> None:
        self.frames = self.pairs = 0
        self.sums = {"state": np.zeros(ALOHA.state_dim), "relative": np.zeros(ALOHA.action_dim)}
        self.low = np.full(ALOHA.state_dim, np.inf)
        self.high = -self.low
        self.first_dimension: list[np.ndarray] = []

    def add(self, states: np.ndarray, actions: np.ndarray) -> None:
        """Count some episodes in; `relative` are actions less the state of each chunk's first frame."""
        self.frames += states.shape[0] * states.shape[1]
        self.sums["state"] += states.sum(axis=(0, 1), dtype=np.float64)
        self.low = np.minimum(self.low, states.min(axis=(0, 1)))
        self.high = np.maximum(self.high, states.max(axis=(0, 1)))
        self.first_dimension.append(states[..., 0].ravel())
        length = states.shape[1]
        left = np.minimum(HORIZON, length - np.arange(length))
        used = np.minimum(HORIZON, np.arange(length) + 1)
        grippers = np.array([dimension.kind == "gripper" for dimension in ALOHA.actions])
        self.pairs += int(left.sum()) * len(states)
        sums = np.einsum("ltd,t->d", actions.astype(np.float64), used)
        self.sums["relative"] += sums - np.einsum("ltd,t->d", states.astype(np.float64), left) * ~grippers

    def known(self) -> dict[str, Any]:
        """Return what is known, as JSON."""
        return {
            "frames": self.frames,
            "pairs": self.pairs,
            "mean": (self.sums["state"] / self.frames).tolist(),
            "minimum": self.low.tolist(),
            "maximum": self.high.tolist(),
            "quantiles": np.quantile(np.concatenate(self.first_dimension), [0.01, 0.99]).tolist(),
            "relative_mean": (self.sums["relative"] / self.pairs).tolist(),
        }


def write_metadata(folder: Path, layout: WrittenVersion, num_episodes: int, length: int) -> None:
    """Write `meta/` of a dataset whose episodes are all alike, and files in the places of its videos."""
    (folder / "meta").mkdir(parents=True)
    info: dict[str, Any] = {
        "codebase_version": layout,
        "robot_type": ALOHA.name,
        "total_episodes": num_episodes,
        "total_frames": num_episodes * length,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": int(ALOHA.rate),
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": V2_DATA if layout == "v2.1" else V3_DATA,
        "video_path": V2_VIDEO if layout == "v2.1" else V3_VIDEO,
        "features": features_json(LAYOUT),
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    if layout == "v2.1":
        write_v2_tables(folder, num_episodes, length)
    else:
        write_v3_tables(folder, num_episodes, length)
    link_all(b"not a video", map(folder.joinpath, video_paths(layout, num_episodes)))


def link_all(content: bytes, paths: Iterable[Path]) -> None:
    """Give one small file many names: as many as a file may have on ext4, then the next."""
    source = None
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if source is None or number % 60_000 == 0:
            path.write_bytes(content)
            source = path
        else:
            os.link(source, path)


def episode_statistics(width: int) -> dict[str, list[float]]:
    """Return statistics of one episode, of which nobody reads the numbers."""
    names = ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")
    return {name: [0.123456789] * width for name in names} | {"count": [float(EPISODE_FRAMES)]}


def write_v2_tables(folder: Path, num_episodes: int, length: int) -> None:
    """Write the tables of v2.1: one line an episode, and one with its statistics."""
    features = {STATE: ALOHA.state_dim, ACTION: ALOHA.action_dim} | dict.fromkeys(COUNTERS, 1)
    five = ("min", "max", "mean", "std", "count")
    stats = {key: episode_statistics(width) for key, width in features.items()}
    stats = json.dumps({key: {name: entry[name] for name in five} for key, entry in stats.items()})
    meta = folder / "meta"
    (meta / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASK}) + "\n", encoding="utf-8")
    rows = ({"episode_index": index, "tasks": [TASK], "length": length} for index in range(num_episodes))
    with (meta / "episodes.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with (meta / "episodes_stats.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"episode_index": {index}, "stats": {stats}}}\n' for index in range(num_episodes))


def write_v3_tables(folder: Path, num_episodes: int, length: int) -> None:
    """Write the tables of v3.0: tasks, and episodes with their statistics, in row groups of many."""
    meta = folder / "meta"
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [], "pandas_version": "2.2.3"}
    tasks = pa.table({"task_index": pa.array([0]), "task": pa.array([TASK])})
    pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), meta / "tasks.parquet")
    number = np.arange(num_episodes)
    zeros, ones = np.zeros(num_episodes, dtype=np.int64), np.ones(num_episodes, dtype=np.int64)
    files, place = number // EPISODES_PER_FILE, number % EPISODES_PER_FILE
    table: dict[str, Any] = {
        "episode_index": number,
        "tasks": [[TASK]] * num_episodes,
        "length": ones * length,
        "data/chunk_index": zeros,
        "data/file_index": files,
        "dataset_from_index": number * length,
        "dataset_to_index": (number + 1) * length,
    }
    for key in LAYOUT.videos:
        table |= {
            f"videos/{key}/chunk_index": zeros,
            f"videos/{key}/file_index": files,
            f"videos/{key}/from_timestamp": place * length / ALOHA.rate,
            f"videos/{key}/to_timestamp": (place + 1) * length / ALOHA.rate,
        }
    widths = {STATE: ALOHA.state_dim, ACTION: ALOHA.action_dim} | dict.fromkeys(
        (*LAYOUT.videos, *COUNTERS), 3
    )
    for key, width in widths.items():
        for name, values in episode_statistics(width).items():
            table[f"stats/{key}/{name}"] = pa.FixedSizeListArray.from_arrays(
                pa.array(np.tile(values, num_episodes)), len(values)
            ).cast(pa.list_(pa.int64() if name == "count" else pa.float64()))
    table |= {"meta/episodes/chunk_index": zeros, "meta/episodes/file_index": zeros}
    path = meta / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(table), path, row_group_size=10_000)
