"""Writing LeRobot v3.0 datasets, episode by episode, from many processes, resumable, and the same bytes each
time.

Each episode is first a shard of its own under `<dataset>.partial/shards`, whole or absent. When all are there
they are merged in order, videos by stream copy, and the folder gets its name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, UInt8

from pizero.data.lerobot_features import ACTION, STATE, features_of, huggingface_schema, image_key
from pizero.data.lerobot_statistics import episode_statistics, merge_statistics
from pizero.data.video import encode_video, join_videos
from pizero.robots import Embodiment

CHUNK = "chunk-000/file-000"


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One demonstration in robot units: `step` rows of each, pictures per camera, and what was asked."""

    states: Float32[np.ndarray, "step state_dim"]
    actions: Float32[np.ndarray, "step action_dim"]
    images: Mapping[str, UInt8[np.ndarray, "step height width 3"]]
    task: str


def partial_folder(folder: Path) -> Path:
    """Return where a dataset is built before it gets its name."""
    return folder.with_name(folder.name + ".partial")


def shard_folder(partial: Path, index: int) -> Path:
    """Return where one episode lies until the dataset is merged."""
    return partial / "shards" / f"episode_{index:06d}"


def finished_shards(partial: Path) -> set[int]:
    """Return the episodes that are whole."""
    return {int(path.name.removeprefix("episode_")) for path in (partial / "shards").glob("episode_??????")}


def write_shard(partial: Path, index: int, episode: Episode, *, embodiment: Embodiment) -> None:
    """Write one episode, whole or not at all; ValueError if its parts do not fit together or to the robot."""
    length = len(episode.states)
    lengths = {"actions": len(episode.actions)} | {
        name: len(images) for name, images in episode.images.items()
    }
    wrong = {name: number for name, number in lengths.items() if number != length}
    if length == 0 or wrong:
        raise ValueError(
            f"expected {length} steps in every part of episode {index}, found {wrong or 'none at all'}"
        )
    shapes = {camera.name: (length, camera.height, camera.width, 3) for camera in embodiment.cameras}
    expected = {"states": (length, embodiment.state_dim), "actions": (length, embodiment.action_dim)} | shapes
    found = {"states": episode.states.shape, "actions": episode.actions.shape}
    found |= {name: images.shape for name, images in episode.images.items()}
    if found != expected:
        raise ValueError(
            f"episode {index} does not fit {embodiment.name}: expected {expected}, found {found}"
        )
    target = shard_folder(partial, index)
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    statistics = episode_statistics(episode.states, episode.actions, episode.images)
    for camera, images in episode.images.items():
        encode_video(building / f"{camera}.mp4", images, fps=embodiment.rate)
    columns = {STATE: _vectors(episode.states), ACTION: _vectors(episode.actions)}
    pq.write_table(pa.table(columns), building / "frames.parquet")
    (building / "episode.json").write_text(json.dumps({"task": episode.task, "statistics": statistics}))
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)


def merge_shards(partial: Path, folder: Path, *, embodiment: Embodiment) -> None:
    """Make the dataset `folder` of all shards, in the order of their numbers, and remove the shards."""
    indices = sorted(finished_shards(partial))
    if indices != list(range(len(indices))) or not indices:
        raise ValueError(
            f"expected episodes 0 to {max(indices, default=0)} in {partial}, found {len(indices)} of them"
        )
    shards = [shard_folder(partial, index) for index in indices]
    records = [json.loads((shard / "episode.json").read_text()) for shard in shards]
    tables = [pq.read_table(shard / "frames.parquet") for shard in shards]
    lengths = [len(table) for table in tables]
    tasks = list(dict.fromkeys(record["task"] for record in records))
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    features = features_of(embodiment)

    for part in ("data", "videos", "meta"):
        shutil.rmtree(partial / part, ignore_errors=True)
    _write_data(
        partial, tables, [tasks.index(record["task"]) for record in records], starts, embodiment, features
    )
    for camera in embodiment.camera_names:
        path = partial / "videos" / image_key(camera) / f"{CHUNK}.mp4"
        path.parent.mkdir(parents=True)
        join_videos(path, [shard / f"{camera}.mp4" for shard in shards])
    _write_tasks(partial, tasks)
    _write_episodes(partial, records, lengths, starts, embodiment)
    _write_json(
        partial / "meta" / "stats.json", merge_statistics([record["statistics"] for record in records])
    )
    info = {
        "codebase_version": "v3.0",
        "robot_type": embodiment.name,
        "total_episodes": len(shards),
        "total_frames": starts[-1],
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(embodiment.rate) if embodiment.rate.is_integer() else embodiment.rate,
        "splits": {"train": f"0:{len(shards)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    _write_json(partial / "meta" / "info.json", info)
    shutil.rmtree(partial / "shards")
    partial.rename(folder)


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False), encoding="utf-8")


def _write_data(
    partial: Path,
    tables: Sequence[pa.Table],
    task_indices: Sequence[int],
    starts: Sequence[int],
    embodiment: Embodiment,
    features: dict[str, Any],
) -> None:
    """Write all columns as one file with one row group an episode."""
    path = partial / "data" / f"{CHUNK}.parquet"
    path.parent.mkdir(parents=True)
    schema = tables[0].schema
    for name, kind in (
        ("timestamp", pa.float32()),
        ("frame_index", pa.int64()),
        ("episode_index", pa.int64()),
        ("index", pa.int64()),
        ("task_index", pa.int64()),
    ):
        schema = schema.append(pa.field(name, kind))
    schema = schema.with_metadata({"huggingface": json.dumps(huggingface_schema(features))})
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for index, (table, task) in enumerate(zip(tables, task_indices, strict=True)):
            number = np.arange(len(table))
            columns = [
                *table.columns,
                pa.array((number / embodiment.rate).astype(np.float32)),
                pa.array(number),
                pa.array(np.full(len(table), index)),
                pa.array(number + starts[index]),
                pa.array(np.full(len(table), task)),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_tasks(partial: Path, tasks: Sequence[str]) -> None:
    """Write the task texts as pandas would, with the text as the frame's index."""
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    text = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column | {"metadata": None}, text | {"metadata": None}],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    table = pa.table(
        {"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())}
    )
    (partial / "meta").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata({"pandas": json.dumps(pandas)}), partial / "meta" / "tasks.parquet"
    )


def _write_episodes(
    partial: Path,
    records: Sequence[dict[str, Any]],
    lengths: Sequence[int],
    starts: Sequence[int],
    embodiment: Embodiment,
) -> None:
    """Write one row an episode: where its frames are, and its statistics."""
    count, zeros = len(records), [0] * len(records)
    columns: dict[str, Any] = {
        "episode_index": list(range(count)),
        "tasks": [[record["task"]] for record in records],
        "length": list(lengths),
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
    }
    for camera in embodiment.camera_names:
        key = f"videos/{image_key(camera)}"
        columns |= {
            f"{key}/chunk_index": zeros,
            f"{key}/file_index": zeros,
            f"{key}/from_timestamp": [start / embodiment.rate for start in starts[:-1]],
            f"{key}/to_timestamp": [end / embodiment.rate for end in starts[1:]],
        }
    for feature, statistics in records[0]["statistics"].items():
        for name in statistics:
            values = [record["statistics"][feature][name] for record in records]
            columns[f"stats/{feature}/{name}"] = values
    columns |= {"meta/episodes/chunk_index": zeros, "meta/episodes/file_index": zeros}
    path = partial / "meta" / "episodes" / f"{CHUNK}.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
