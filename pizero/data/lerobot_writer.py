"""Writing LeRobot datasets episode by episode, from many processes, resumable, and the same bytes each time.

Each episode is first a shard of its own under `<dataset>.partial/shards`, whole or absent. When all are
there, `lerobot_merge.py` makes the dataset of them.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from PIL import Image

from pizero.data.lerobot_features import (
    ACTION,
    STATE,
    DatasetLayout,
    Feature,
    Pictures,
    arrow_schema,
    arrow_type,
    image_key,
)
from pizero.data.lerobot_statistics import picture_statistics, values_statistics
from pizero.data.video import encode_video

ShardColumns = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One demonstration: columns `[step, *shape]` and pictures by feature, and what was asked.

    `tasks` is one text for all steps, or one for each. A text column is an array of strings; a feature of
    shape (1,) may leave out its last axis.
    """

    columns: Mapping[str, np.ndarray]
    images: Mapping[str, Pictures]
    tasks: str | tuple[str, ...]


def robot_episode(
    *,
    states: Float32[np.ndarray, "step state_dim"],
    actions: Float32[np.ndarray, "step action_dim"],
    images: Mapping[str, Pictures],
    task: str,
) -> Episode:
    """Return an episode with the features of `robot_layout`; `images` are by camera."""
    return Episode(
        columns={STATE: states, ACTION: actions},
        images={image_key(camera): frames for camera, frames in images.items()},
        tasks=task,
    )


def partial_folder(folder: Path) -> Path:
    """Return where a dataset is built before it gets its name."""
    return folder.with_name(folder.name + ".partial")


def shard_folder(partial: Path, index: int) -> Path:
    """Return where one episode lies until the dataset is merged."""
    return partial / "shards" / f"episode_{index:06d}"


def finished_shards(partial: Path) -> set[int]:
    """Return the episodes that are whole."""
    names = (path.name.removeprefix("episode_") for path in (partial / "shards").glob("episode_*"))
    return {int(name) for name in names if name.isdigit()}


def write_shard(partial: Path, index: int, episode: Episode, layout: DatasetLayout) -> None:
    """Write one episode, whole or not at all; ValueError lists all that does not fit the layout."""
    length = _check(index, episode, layout)
    target = shard_folder(partial, index)
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    statistics: dict[str, Any] = {}
    columns: list[pa.Array] = []
    for key, feature in layout.features.items():
        if feature.is_picture:
            frames = episode.images[key]
            statistics[key] = picture_statistics(frames, layout.version)
            if feature.dtype == "video":
                path = building / f"{key}.mp4"
                pictures = (_picture(frames[step], key, feature) for step in range(length))
                encode_video(path, pictures, fps=layout.fps, quality=layout.quality, codec=layout.codec)
            else:
                columns.append(_embedded(frames, key, feature))
            continue
        values = np.asarray(episode.columns[key]).reshape(length, *feature.shape)
        if feature.is_numeric:
            statistics[key] = values_statistics(values, layout.version)
        columns.append(_column(values, feature))
    table = pa.Table.from_arrays(columns, schema=arrow_schema(layout.columns, layout.version))
    pq.write_table(table, building / "frames.parquet")
    tasks = [episode.tasks] if isinstance(episode.tasks, str) else list(dict.fromkeys(episode.tasks))
    steps = None if isinstance(episode.tasks, str) else [tasks.index(task) for task in episode.tasks]
    record = {"length": length, "tasks": tasks, "task_of_step": steps, "statistics": statistics}
    (building / "episode.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)


def _check(index: int, episode: Episode, layout: DatasetLayout) -> int:
    """Return the number of steps; ValueError lists everything that does not fit."""
    expected = {key for key, feature in layout.features.items() if not feature.is_picture}
    pictures = set(layout.features) - expected
    wrong: list[str] = []
    for what, wanted, found in (
        ("columns", expected, set(episode.columns)),
        ("images", pictures, set(episode.images)),
    ):
        wrong += [f"missing {what} {key!r}" for key in sorted(wanted - found)]
        wrong += [f"{what} {key!r} not in the layout" for key in sorted(found - wanted)]
    lengths = {key: len(values) for key, values in (*episode.columns.items(), *episode.images.items())}
    if not isinstance(episode.tasks, str):
        lengths["tasks"] = len(episode.tasks)
    length = next(iter(lengths.values()), 0)
    if length == 0 or len(set(lengths.values())) > 1:
        wrong.append(f"numbers of steps {lengths}")
    for key in sorted(expected & set(episode.columns)):
        feature, values = layout.features[key], np.asarray(episode.columns[key])
        shapes = {(length, *feature.shape)} | ({(length,)} if feature.shape == (1,) else set())
        if values.shape not in shapes and len(values) == length:
            wrong.append(f"{key!r} of shape {values.shape}, expected {(length, *feature.shape)}")
        dtype = "string" if values.dtype.kind in "UO" else values.dtype.name
        if dtype != feature.dtype:
            wrong.append(f"{key!r} of {dtype}, expected {feature.dtype}")
        elif values.dtype.kind == "f" and not np.isfinite(values).all():
            step = int(np.argwhere(~np.isfinite(values))[0][0])
            wrong.append(f"{key!r} with numbers that are not finite, first at step {step}")
    for key in sorted(pictures & set(episode.images)):
        if len(episode.images[key]):
            found = (episode.images[key][0].shape, episode.images[key][0].dtype.name)
            if found != (layout.features[key].shape, "uint8"):
                wrong.append(f"{key!r} of {found[1]} {found[0]}, expected uint8 {layout.features[key].shape}")
    if wrong:
        raise ValueError(f"episode {index} does not fit: {'; '.join(wrong)}")
    return length


def _picture(frame: np.ndarray, key: str, feature: Feature) -> np.ndarray:
    if frame.shape != feature.shape or frame.dtype != np.uint8:
        raise ValueError(f"expected {key!r} of uint8 {feature.shape}, found {frame.dtype} {frame.shape}")
    return frame


def _embedded(frames: Pictures, key: str, feature: Feature) -> pa.Array:
    cells = []
    for step in range(len(frames)):
        file = io.BytesIO()
        Image.fromarray(_picture(frames[step], key, feature)).save(file, format="PNG", compress_level=6)
        cells.append({"bytes": file.getvalue(), "path": f"frame-{step:06d}.png"})
    return pa.array(cells, type=arrow_type(feature))


def _column(values: np.ndarray, feature: Feature) -> pa.Array:
    """Return `[step, *shape]` as a column."""
    if feature.dtype == "string" or feature.shape == (1,):
        flat = values.reshape(-1)
        return pa.array(flat.tolist() if feature.dtype == "string" else flat, type=arrow_type(feature))
    array = pa.array(values.reshape(-1))
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, feature.shape[0])
    for axis in range(values.ndim - 1, 0, -1):
        size, count = values.shape[axis], int(np.prod(values.shape[:axis]))
        array = pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * size, pa.int32()), array)
    return array
