"""LeRobot v3.0 datasets, read natively: columns from parquet, pictures from video, nothing of `lerobot`
needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64, UInt8

from pizero.data.images import decode_picture
from pizero.data.lerobot_features import ACTION, IMAGE_PREFIX, STATE, image_key
from pizero.data.lerobot_writer import partial_folder
from pizero.data.video import read_frames

VERSION = "v3.0"


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """One episode: its frames are `start … start + length - 1`; its pictures begin at a time of a file, per
    camera.
    """

    index: int
    start: int
    length: int
    tasks: tuple[str, ...]
    videos: dict[str, tuple[Path, float]]

    @property
    def end(self) -> int:
        """Return the frame after the last."""
        return self.start + self.length


class LeRobotDataset:
    """A dataset's columns in memory, and its pictures on demand.

    `states` and `actions` have one row a frame, in robot units and recorded order.
    """

    def __init__(
        self, folder: Path, info: dict[str, Any], table: pa.Table, episodes: list[EpisodeInfo]
    ) -> None:
        self.folder, self.info, self.table = folder, info, table
        self.episodes = tuple(episodes)
        self.fps = float(info["fps"])
        self.num_frames = len(table)
        self.states: Float32[np.ndarray, "frame state_dim"] = self._vectors(STATE)
        self.actions: Float32[np.ndarray, "frame action_dim"] = self._vectors(ACTION)
        self.tasks = _read_tasks(folder)
        self.task_index: Int64[np.ndarray, "frame"] = table.column("task_index").to_numpy()
        self.episode_index: Int64[np.ndarray, "frame"] = table.column("episode_index").to_numpy()

    @classmethod
    def open(cls, folder: Path) -> LeRobotDataset:
        """Open a dataset without reading its pictures; ValueError says what is missing or does not fit."""
        info = _read_info(folder)
        episodes = _read_episodes(folder, info)
        files = sorted(folder.glob("data/*/*.parquet"))
        if not files:
            raise ValueError(
                f"{folder} has no data: expected data/chunk-…/file-….parquet; copy the whole dataset again"
            )
        table = pa.concat_tables([_read_parquet(path) for path in files], promote_options="permissive")
        if len(table) != info["total_frames"] or len(episodes) != info["total_episodes"]:
            raise ValueError(
                f"{folder} is not whole: meta/info.json says {info['total_frames']} frames in "
                f"{info['total_episodes']} episodes, found {len(table)} in {len(episodes)}; copy it again"
            )
        return cls(folder, info, table, episodes)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Return the cameras, in the order of the features."""
        return tuple(
            key.removeprefix(IMAGE_PREFIX) for key in self.info["features"] if key.startswith(IMAGE_PREFIX)
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of the state's dimensions."""
        return _names(self.info["features"][STATE])

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the actions' dimensions."""
        return _names(self.info["features"][ACTION])

    def image_shape(self, camera: str) -> tuple[int, int]:
        """Return a camera's height and width."""
        feature = self.info["features"][image_key(camera)]
        shape, names = feature["shape"], feature["names"]
        height, width = (
            (shape[1], shape[2]) if names and names[0].startswith("channel") else (shape[0], shape[1])
        )
        return height, width

    def task_of_frame(self, frame: int) -> str:
        """Return what was asked at a frame."""
        return self.tasks[int(self.task_index[frame])]

    def decode_all(
        self,
        camera: str,
        out: UInt8[np.ndarray, "frame height width 3"],
        visit: Callable[[int], None] | None = None,
    ) -> None:
        """Write every picture of a camera into `out`, each decoded once; `visit` is told how many are new."""
        for episode in self.episodes:
            out[episode.start : episode.end] = self.images(camera, range(episode.start, episode.end))
            if visit is not None:
                visit(episode.length)

    def images(self, camera: str, frames: range) -> UInt8[np.ndarray, "frame height width 3"]:
        """Return the pictures of some successive frames of one episode."""
        key = image_key(camera)
        if self.info["features"][key]["dtype"] == "image":
            cells = self.table.column(key).slice(frames.start, len(frames)).to_pylist()
            return np.stack([decode_picture(cell["bytes"]) for cell in cells])
        episode = self.episodes[int(self.episode_index[frames.start])]
        path, start = episode.videos[camera]
        return read_frames(path, [start + (frame - episode.start) / self.fps for frame in frames])

    def column(self, key: str) -> np.ndarray:
        """Return any numeric column, one row a frame."""
        values = self.table.column(key).combine_chunks()
        if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
            return np.stack([np.asarray(row) for row in values.to_pylist()])
        return values.to_numpy(zero_copy_only=False)

    def _vectors(self, key: str) -> np.ndarray:
        if key not in self.table.column_names:
            raise ValueError(
                f"{self.folder} has no column {key!r}; it has {', '.join(self.table.column_names)}"
            )
        values = self.table.column(key).combine_chunks()
        if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
            flat = values.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(len(values), -1).astype(np.float32)
        return values.to_numpy(zero_copy_only=False).astype(np.float32)[:, None]


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "meta" / "info.json"
    if not path.is_file():
        if partial_folder(folder).exists():
            raise ValueError(
                f"the dataset {folder} is half-written; run the command that writes it again to go on"
            )
        raise ValueError(
            f"{folder} is not a LeRobot dataset: expected {path}, found none. "
            f"`pizero collect {folder}` makes one"
        )
    info = json.loads(path.read_text(encoding="utf-8"))
    if info.get("codebase_version") != VERSION:
        raise ValueError(
            f"{folder} is a LeRobot dataset of version {info.get('codebase_version')!r}, expected "
            f"{VERSION!r}; convert it with LeRobot's own converter"
        )
    return info


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a whole parquet file ({error}); copy the dataset again") from None


def _read_tasks(folder: Path) -> tuple[str, ...]:
    path = folder / "meta" / "tasks.parquet"
    if not path.is_file():
        raise ValueError(f"expected {path}, found none; copy the whole dataset again")
    table = _read_parquet(path)
    (text,) = (
        name
        for name in table.column_names
        if pa.types.is_string(table.schema.field(name).type)
        or pa.types.is_large_string(table.schema.field(name).type)
    )
    return tuple(table.column(text).to_pylist())


def _read_episodes(folder: Path, info: dict[str, Any]) -> list[EpisodeInfo]:
    files = sorted(folder.glob("meta/episodes/*/*.parquet"))
    if not files:
        raise ValueError(
            f"expected {folder}/meta/episodes/chunk-…/file-….parquet, found none; copy the dataset again"
        )
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    episodes: list[EpisodeInfo] = []
    for path in files:
        table = _read_parquet(path)
        wanted = [name for name in table.column_names if not name.startswith("stats/")]
        for row in table.select(wanted).to_pylist():
            videos = {}
            for key in cameras:
                place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
                file = folder / info["video_path"].format(video_key=key, **place)
                if not file.is_file():
                    raise ValueError(f"expected the video {file}, found none; copy the whole dataset again")
                videos[key.removeprefix(IMAGE_PREFIX)] = (file, row[f"videos/{key}/from_timestamp"])
            episodes.append(
                EpisodeInfo(
                    index=row["episode_index"],
                    start=row["dataset_from_index"],
                    length=row["length"],
                    tasks=tuple(row["tasks"]),
                    videos=videos,
                )
            )
    return episodes


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    names = feature["names"]
    if isinstance(names, dict):
        names = [name for group in names.values() for name in group]
    return tuple(names or (f"dimension_{index}" for index in range(feature["shape"][0])))
