"""From finished shards to a LeRobot dataset, v3.0 or v2.1: columns gathered, videos joined as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data.lerobot_features import (
    COUNTERS,
    DatasetLayout,
    arrow_schema,
    compact,
    features_json,
    plain_number,
)
from pizero.data.lerobot_statistics import merge_statistics
from pizero.data.lerobot_writer import finished_shards, shard_folder
from pizero.data.video import join_videos

MEBIBYTE = 2**20
PATHS = {
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
}
"""Templates of the files of columns and of the videos."""


@dataclass(frozen=True, kw_only=True)
class _Shard:
    index: int
    start: int
    folder: Path
    record: dict[str, Any]

    @property
    def length(self) -> int:
        return self.record["length"]


def merge_shards(
    partial: Path, folder: Path, layout: DatasetLayout, records: Mapping[str, Any] | None = None
) -> None:
    """Make the dataset `folder` of all shards, in the order of their numbers, and remove the shards.

    `records` are further JSON files for its `meta`. Interrupted at any point, it begins anew: shards stay
    until the dataset is whole and has its name.
    """
    indices = sorted(finished_shards(partial))
    if indices != list(range(len(indices))) or not indices:
        raise ValueError(
            f"expected episodes 0 to {max(indices, default=0)} in {partial}, found {len(indices)} of them"
        )
    if folder.exists():
        raise ValueError(f"{folder} exists; nothing was changed. Name another folder, or remove this one")
    shards = list(_shards(partial, indices))
    tasks = list(dict.fromkeys(task for shard in shards for task in shard.record["tasks"]))
    for part in ("data", "videos", "meta"):
        shutil.rmtree(partial / part, ignore_errors=True)
    (partial / "meta").mkdir()
    if layout.version == "v3.0":
        _write_v3(partial, shards, tasks, layout)
    else:
        _write_v2(partial, shards, tasks, layout)
    for name, data in (records or {}).items():
        _write_json(partial / "meta" / name, data)
    _write_json(partial / "meta" / "info.json", _info(shards, tasks, layout))
    partial.rename(folder)
    shutil.rmtree(folder / "shards")


def _shards(partial: Path, indices: Sequence[int]) -> Iterator[_Shard]:
    start = 0
    for index in indices:
        folder = shard_folder(partial, index)
        record = json.loads((folder / "episode.json").read_text(encoding="utf-8"))
        yield _Shard(index=index, start=start, folder=folder, record=record)
        start += record["length"]


def _info(shards: Sequence[_Shard], tasks: Sequence[str], layout: DatasetLayout) -> dict[str, Any]:
    data_path, video_path = PATHS[layout.version]
    count = len(shards)
    info: dict[str, Any] = {
        "codebase_version": layout.version,
        "robot_type": layout.robot_type,
        "total_episodes": count,
        "total_frames": shards[-1].start + shards[-1].length,
        "total_tasks": len(tasks),
    }
    if layout.version == "v3.0":
        info["chunks_size"] = layout.chunk_size
        info["data_files_size_in_mb"] = plain_number(layout.data_megabytes)
        info["video_files_size_in_mb"] = plain_number(layout.video_megabytes)
    else:
        info["total_videos"] = count * len(layout.videos)
        info["total_chunks"] = -(-count // layout.chunk_size)
        info["chunks_size"] = layout.chunk_size
    return info | {
        "fps": plain_number(layout.fps),
        "splits": {"train": f"0:{count}"},
        "data_path": data_path,
        "video_path": video_path if layout.videos else None,
        "features": features_json(layout),
    }


def _write_v3(partial: Path, shards: Sequence[_Shard], tasks: Sequence[str], layout: DatasetLayout) -> None:
    data_path, video_path = PATHS["v3.0"]
    rows: list[dict[str, Any]] = [
        {"episode_index": shard.index, "tasks": shard.record["tasks"], "length": shard.length}
        for shard in shards
    ]
    sizes = [(shard.folder / "frames.parquet").stat().st_size for shard in shards]
    for place, group in _files(sizes, layout.data_megabytes * MEBIBYTE, layout.chunk_size):
        path = partial / data_path.format(**place)
        _write_data(path, [shards[index] for index in group], tasks, layout)
        for index in group:
            rows[index] |= {f"data/{name}": value for name, value in place.items()}
    for row, shard in zip(rows, shards, strict=True):
        row |= {"dataset_from_index": shard.start, "dataset_to_index": shard.start + shard.length}
    for key in layout.videos:
        sizes = [(shard.folder / f"{key}.mp4").stat().st_size for shard in shards]
        for place, group in _files(sizes, layout.video_megabytes * MEBIBYTE, layout.chunk_size):
            path = partial / video_path.format(video_key=key, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            join_videos(path, [shards[index].folder / f"{key}.mp4" for index in group])
            frame = 0
            for index in group:
                rows[index] |= {f"videos/{key}/{name}": value for name, value in place.items()}
                rows[index][f"videos/{key}/from_timestamp"] = frame / layout.fps
                frame += shards[index].length
                rows[index][f"videos/{key}/to_timestamp"] = frame / layout.fps
    for row, shard in zip(rows, shards, strict=True):
        for feature, statistics in shard.record["statistics"].items():
            row |= {f"stats/{feature}/{name}": value for name, value in statistics.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    path = partial / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)
    _write_tasks(partial / "meta" / "tasks.parquet", tasks)
    merged = merge_statistics([shard.record["statistics"] for shard in shards])
    _write_json(partial / "meta" / "stats.json", merged)


def _files(sizes: Sequence[int], limit: float, chunk_size: int) -> Iterator[tuple[dict[str, int], list[int]]]:
    """Yield the place of each file and its episodes: a new one begins where the limit would be reached."""
    group: list[int] = []
    number = size = 0
    for index, more in enumerate(sizes):
        if group and size + more >= limit:
            yield {"chunk_index": number // chunk_size, "file_index": number % chunk_size}, group
            group, size, number = [], 0, number + 1
        group.append(index)
        size += more
    yield {"chunk_index": number // chunk_size, "file_index": number % chunk_size}, group


def _write_v2(partial: Path, shards: Sequence[_Shard], tasks: Sequence[str], layout: DatasetLayout) -> None:
    data_path, video_path = PATHS["v2.1"]
    for shard in shards:
        place = {"episode_chunk": shard.index // layout.chunk_size, "episode_index": shard.index}
        _write_data(partial / data_path.format(**place), [shard], tasks, layout)
        for key in layout.videos:
            path = partial / video_path.format(video_key=key, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(shard.folder / f"{key}.mp4", path)
    texts = [{"task_index": index, "task": task} for index, task in enumerate(tasks)]
    _write_lines(partial / "meta" / "tasks.jsonl", texts)
    _write_lines(
        partial / "meta" / "episodes.jsonl",
        [
            {"episode_index": shard.index, "tasks": shard.record["tasks"], "length": shard.length}
            for shard in shards
        ],
    )
    _write_lines(
        partial / "meta" / "episodes_stats.jsonl",
        [{"episode_index": shard.index, "stats": shard.record["statistics"]} for shard in shards],
    )


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_data(path: Path, shards: Sequence[_Shard], tasks: Sequence[str], layout: DatasetLayout) -> None:
    """Write the columns of some episodes as one file with one row group an episode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = arrow_schema(layout.columns | COUNTERS, layout.version)
    number_of = {task: index for index, task in enumerate(tasks)}
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for shard in shards:
            table = pq.read_table(shard.folder / "frames.parquet")
            number = np.arange(shard.length)
            numbers = np.array([number_of[task] for task in shard.record["tasks"]])
            steps = shard.record["task_of_step"] or np.zeros(shard.length, dtype=int)
            counters = {
                "timestamp": (number / layout.fps).astype(np.float32),
                "frame_index": number,
                "episode_index": np.full(shard.length, shard.index),
                "index": number + shard.start,
                "task_index": numbers[steps],
            }
            columns = [*table.columns, *(pa.array(counters[name]) for name in COUNTERS)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=shard.length)


def _write_tasks(path: Path, tasks: Sequence[str]) -> None:
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
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False), encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(compact(row) + "\n" for row in rows), encoding="utf-8")
