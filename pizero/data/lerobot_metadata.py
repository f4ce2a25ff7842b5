"""What the files under `meta/` of a LeRobot dataset say, in versions 2.0, 2.1 and 3.0 alike."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data.faults import DatasetError, FaultCode
from pizero.data.lerobot_features import Feature, Version, camera_of
from pizero.data.lerobot_writer import partial_folder

TEMPLATE_FIELDS = {"chunk_index", "file_index", "episode_chunk", "episode_index", "video_key"}
COPY_AGAIN = "copy the whole dataset again"

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """One episode: its frames are `start … start + length - 1`, its columns in the file `data`.

    Per camera, its pictures begin at a time, in seconds, of a video file.
    """

    index: int
    start: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: Mapping[str, tuple[Path, float]]

    @property
    def end(self) -> int:
        """Return the frame after the last."""
        return self.start + self.length


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """A dataset but for its columns and pictures."""

    folder: Path
    info: Mapping[str, Any]
    version: Version
    features: Mapping[str, Feature]
    tasks: tuple[str, ...]
    episodes: tuple[EpisodeInfo, ...]


def read_metadata(folder: Path) -> Metadata:
    """Read all that stands under `meta/`, and see that every file it names is there.

    DatasetError says which file is missing or does not fit; no file of columns or video is opened.
    """
    info = read_info(folder)
    version: Version = info["codebase_version"]
    features = {key: read_feature(folder, key, entry) for key, entry in info["features"].items()}
    tasks = _read_tasks(folder, version)
    rows = _rows_v3(folder, info) if version == "v3.0" else _rows_v2(folder, info)
    episodes = tuple(_episodes(folder, info, features, rows))
    length = sum(episode.length for episode in episodes)
    if length != info["total_frames"] or len(episodes) != info["total_episodes"]:
        raise DatasetError(
            "count-mismatch",
            folder / "meta" / "info.json",
            f"{folder} is not whole: meta/info.json says {info['total_frames']} frames in "
            f"{info['total_episodes']} episodes, found {length} in {len(episodes)}; {COPY_AGAIN}",
        )
    _see_files(folder, episodes)
    return Metadata(
        folder=folder, info=info, version=version, features=features, tasks=tasks, episodes=episodes
    )


def read_info(folder: Path) -> dict[str, Any]:
    """Return info.json, whose version, counts, rate, features and templates are what a reader can use."""
    path = folder / "meta" / "info.json"
    if not path.is_file():
        if partial_folder(folder).exists():
            raise DatasetError(
                "not-a-dataset",
                folder,
                f"the dataset {folder} is half-written; run the command that writes it again to go on",
            )
        raise DatasetError(
            "not-a-dataset",
            folder,
            f"{folder} is not a LeRobot dataset: expected {path}, found none. "
            f"`pizero collect {folder}` makes one, `pizero import` converts recordings",
        )
    info = _json(path, path.read_bytes(), "info-damaged")
    if not isinstance(info, dict):
        raise DatasetError("info-damaged", path, f"{path}: expected an object, found {type(info).__name__}")
    if info.get("codebase_version") not in get_args(Version):
        raise DatasetError(
            "version-unknown",
            path,
            f"{folder} is a LeRobot dataset of version {info.get('codebase_version')!r}, expected "
            f"{', '.join(get_args(Version))}; convert it with LeRobot's own converter",
        )
    kinds: dict[str, Any] = {
        "fps": (int, float),
        "total_frames": int,
        "total_episodes": int,
        "features": dict,
        "data_path": str,
    }
    wrong = [key for key, kind in kinds.items() if not isinstance(info.get(key), kind)]
    if not wrong:
        wrong += [key for key in ("fps",) if not 0 < info[key] < 1e6]
        wrong += [key for key in ("total_frames", "total_episodes") if info[key] < 0]
        has_video = any(isinstance(e, dict) and e.get("dtype") == "video" for e in info["features"].values())
        wrong += ["video_path"] if has_video and not isinstance(info.get("video_path"), str) else []
    if wrong:
        found = {key: info.get(key) for key in wrong}
        raise DatasetError("info-damaged", path, f"{path}: missing or impossible {found}; {COPY_AGAIN}")
    for key in ("data_path", "video_path"):
        check_template(path, key, info.get(key) or "")
    return info


def check_template(place: Path, key: str, template: str) -> None:
    """Raise DatasetError if a template of info.json could name a file outside the dataset."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DatasetError("info-damaged", place, f"{place}: {key} {template!r}: {error}") from None
    names = {name for _, name, _, _ in parts if name is not None}
    specs = {spec or "" for _, name, spec, _ in parts if name is not None}
    if not names <= TEMPLATE_FIELDS or any(len(spec) > 4 or spec.strip("0123456789d") for spec in specs):
        raise DatasetError(
            "info-damaged",
            place,
            f"{place}: {key} {template!r}: expected the fields {', '.join(sorted(TEMPLATE_FIELDS))} alone",
        )
    steps = template.replace("\\", "/").split("/")
    if template and (not steps[0] or ".." in steps or ":" in template.split("{")[0]):
        raise DatasetError(
            "path-escapes",
            place,
            f"{place}: {key} {template!r} leads out of the dataset; expected a path inside of it",
        )


def confined(folder: Path, path: Path) -> Path:
    """Return a file of a dataset; DatasetError if a link leads out of it (into a hub's own store it may)."""
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parents[1] / "blobs")
    found = path.resolve()
    if not any(found.is_relative_to(root) for root in inside):
        raise DatasetError("path-escapes", path, f"{path} leads out of the dataset, to {found}")
    return path


def read_feature(folder: Path, key: str, entry: Any) -> Feature:
    """Return a feature from its entry in info.json."""
    place = folder / "meta" / "info.json"
    shape = entry.get("shape") if isinstance(entry, dict) else None
    shape = shape or [1] if isinstance(shape, list) else shape
    numbers = isinstance(shape, list) and all(isinstance(size, int) and size > 0 for size in shape)
    if not numbers or not isinstance(entry.get("dtype"), str) or "/" in key or ".." in key:
        raise DatasetError(
            "info-damaged", place, f"{place}: feature {key!r}: expected dtype and shape, found {entry!r}"
        )
    names = entry.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    sizes: tuple[int, ...] = (*(shape or ()),)
    if entry["dtype"] in ("image", "video"):
        first = names and str(names[0]).startswith("channel")
        if first or (not names and len(sizes) == 3 and sizes[0] in (1, 3) and sizes[2] > 4):
            sizes = (*sizes[1:], sizes[0])
        if len(sizes) != 3:
            raise DatasetError("info-damaged", place, f"{place}: camera {key!r} of shape {list(sizes)}")
        return Feature(dtype=entry["dtype"], shape=sizes)
    named = tuple(map(str, names)) if isinstance(names, list) and len(names) == sizes[-1] else None
    return Feature(dtype=entry["dtype"], shape=sizes, names=named)


def read_parquet(path: Path, columns: list[str] | None = None, code: FaultCode = "data-damaged") -> pa.Table:
    """Return a parquet file's columns; DatasetError if it is missing or not whole."""
    return _parquet(path, code, lambda file: file.read(columns=columns, use_threads=False))


def read_schema(path: Path, code: FaultCode = "data-damaged") -> pa.Schema:
    """Return a parquet file's schema; DatasetError if it is missing or not whole."""
    return _parquet(path, code, lambda file: file.schema_arrow)


def _parquet(path: Path, code: FaultCode, read: Callable[[pq.ParquetFile], Value]) -> Value:
    try:
        return read(pq.ParquetFile(path))
    except FileNotFoundError:
        missing: FaultCode = "data-missing" if code == "data-damaged" else code
        raise DatasetError(missing, path, f"expected {path}, found none; {COPY_AGAIN}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DatasetError(
            code, path, f"{path} is not a whole parquet file ({reason}); {COPY_AGAIN}"
        ) from None


def _json(path: Path, data: bytes | str, code: FaultCode) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(code, path, f"{path} is damaged ({str(error)[:200]}); {COPY_AGAIN}") from None


def _lines(path: Path, missing: FaultCode, damaged: FaultCode) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DatasetError(missing, path, f"expected {path}, found none; {COPY_AGAIN}")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        row = _json(path, line, damaged)
        if not isinstance(row, dict):
            raise DatasetError(damaged, path, f"{path}: expected an object in line {number}; {COPY_AGAIN}")
        yield row


def _read_tasks(folder: Path, version: Version) -> tuple[str, ...]:
    """Return the task texts, the one with `task_index` i at place i."""
    texts: dict[int, Any] = {}
    if version == "v3.0":
        path = folder / "meta" / "tasks.parquet"
        if not path.is_file():
            raise DatasetError("tasks-missing", path, f"expected {path}, found none; {COPY_AGAIN}")
        table = read_parquet(path, code="tasks-damaged")
        text = [
            field.name
            for field in table.schema
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        if len(text) == 1 and "task_index" in table.column_names:
            numbers = table.column("task_index").to_pylist()
            texts = dict(zip(numbers, table.column(text[0]).to_pylist(), strict=True))
    else:
        path = folder / "meta" / "tasks.jsonl"
        for row in _lines(path, "tasks-missing", "tasks-damaged"):
            number = row.get("task_index")
            texts[number if isinstance(number, int) else -1] = row.get("task")
    if (
        not texts
        or set(texts) != set(range(len(texts)))
        or not all(isinstance(t, str) for t in texts.values())
    ):
        raise DatasetError(
            "tasks-damaged",
            path,
            f"{path}: expected a text for each task 0, 1, 2 …, found {str(texts)[:200]}",
        )
    return tuple(texts[index] for index in range(len(texts)))


def _rows_v2(folder: Path, info: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row an episode, as v3.0's table has them."""
    path = folder / "meta" / "episodes.jsonl"
    start = 0
    chunk_size = max(int(info.get("chunks_size") or 1000), 1)
    rows = list(_lines(path, "episodes-missing", "episodes-damaged"))
    wrong = [row for row in rows if not isinstance(row.get("length"), int) or row["length"] < 1]
    wrong += [row for row in rows if not isinstance(row.get("episode_index"), int)]
    wrong += [row for row in rows if not isinstance(row.get("tasks", []), list)]
    if wrong:
        raise DatasetError(
            "episodes-damaged",
            path,
            f"{path}: expected episode_index and length, found {str(wrong[0])[:200]}",
        )
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        place = {"episode_chunk": row["episode_index"] // chunk_size, "episode_index": row["episode_index"]}
        yield {**row, "start": start, "data": place, "video": lambda key, place=place: (place, 0.0)}
        start += row["length"]


def _rows_v3(folder: Path, info: dict[str, Any]) -> Iterator[dict[str, Any]]:
    files = sorted(folder.glob("meta/episodes/*/*.parquet"))
    if not files:
        path = folder / "meta" / "episodes"
        raise DatasetError(
            "episodes-missing", path, f"expected {path}/chunk-…/file-….parquet, found none; {COPY_AGAIN}"
        )
    cameras = [key for key, entry in info["features"].items() if entry.get("dtype") == "video"]
    places = ("chunk_index", "file_index")
    wanted = ["episode_index", "tasks", "length", "dataset_from_index", *(f"data/{name}" for name in places)]
    for key in cameras:
        wanted += [f"videos/{key}/{name}" for name in (*places, "from_timestamp")]
    for path in files:
        found = read_schema(path, "episodes-damaged").names
        missing = [name for name in wanted if name not in found]
        if missing:
            raise DatasetError(
                "episodes-damaged", path, f"{path}: missing columns {', '.join(missing)}; {COPY_AGAIN}"
            )
        table = read_parquet(path, wanted, code="episodes-damaged")
        columns = {name: table.column(name).to_pylist() for name in wanted}
        holes = [name for name, values in columns.items() if None in values]
        if holes:
            raise DatasetError("episodes-damaged", path, f"{path}: empty cells in {', '.join(holes)}")
        for row in range(len(table)):

            def video(key: str, row: int = row, columns: dict[str, list[Any]] = columns) -> Any:
                place = {name: columns[f"videos/{key}/{name}"][row] for name in places}
                return place, float(columns[f"videos/{key}/from_timestamp"][row])

            yield {
                "episode_index": columns["episode_index"][row],
                "tasks": columns["tasks"][row],
                "length": columns["length"][row],
                "start": columns["dataset_from_index"][row],
                "data": {name: columns[f"data/{name}"][row] for name in places},
                "video": video,
            }


def _episodes(
    folder: Path, info: dict[str, Any], features: Mapping[str, Feature], rows: Iterator[dict[str, Any]]
) -> Iterator[EpisodeInfo]:
    keys = [key for key, feature in features.items() if feature.dtype == "video"]
    paths: dict[str, Path] = {}
    start = 0

    def path_of(template: str, place: dict[str, Any]) -> Path:
        try:
            name = template.format(**place)
        except (KeyError, ValueError) as error:
            where = folder / "meta" / "info.json"
            raise DatasetError(
                "info-damaged", where, f"{where}: the template {template!r} needs {error}"
            ) from None
        if name not in paths:
            paths[name] = folder / name
        return paths[name]

    for number, row in enumerate(rows):
        if row["episode_index"] != number or row["start"] != start or row["length"] < 1:
            where = folder / "meta"
            raise DatasetError(
                "episodes-damaged",
                where,
                f"{where}: expected episode {number} from frame {start} on, found episode "
                f"{row['episode_index']} from {row['start']} on with {row['length']} frames; {COPY_AGAIN}",
            )
        start += row["length"]
        videos = {}
        for key in keys:
            place, begins = row["video"](key)
            videos[camera_of(key)] = (path_of(info["video_path"], {**place, "video_key": key}), begins)
        yield EpisodeInfo(
            index=number,
            start=row["start"],
            length=row["length"],
            tasks=tuple(row.get("tasks") or ()),
            data=path_of(info["data_path"], row["data"]),
            videos=videos,
        )


def _see_files(folder: Path, episodes: tuple[EpisodeInfo, ...]) -> None:
    """Raise DatasetError if a file is not there; each folder is listed once, and no file is opened."""
    listed: dict[str, dict[str, bool]] = {}

    def is_there(path: Path) -> bool:
        parent, name = os.path.split(path)
        if parent not in listed:
            entries = os.scandir(parent) if os.path.isdir(parent) else []
            listed[parent] = {entry.name: entry.is_symlink() for entry in entries}
            confined(folder, Path(parent))
        if listed[parent].get(name):
            confined(folder, path)
        return name in listed[parent]

    data = {str(episode.data): episode for episode in episodes}
    for path, episode in data.items():
        if not is_there(Path(path)):
            raise DatasetError(
                "data-missing",
                episode.data,
                f"{folder} has no data of episode {episode.index}: expected {path}; {COPY_AGAIN}",
            )
    videos = {str(path): (path, episode) for episode in episodes for path, _ in episode.videos.values()}
    for path, episode in videos.values():
        if not is_there(path):
            raise DatasetError(
                "video-missing",
                path,
                f"expected the video {path} of episode {episode.index}, found none; {COPY_AGAIN}",
            )
