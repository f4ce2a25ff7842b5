"""A dataset's metadata, read leniently: what the reader refuses is kept as a finding, and reading goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import COUNTERS, Feature, Version
from pizero.data.lerobot_metadata import EpisodeInfo, check_template, read_feature, read_info
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.tables import episode_rows, read_task_texts

TEMPLATES: dict[Version, tuple[str, str]] = dict.fromkeys(
    ("v2.0", "v2.1"),
    (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
)
TEMPLATES["v3.0"] = (
    "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What could be read of a dataset's metadata.

    `fps` is 0 where it is not known, `tasks` is None where the table could not be read. Each video of an
    episode is under its feature's key, with the second at which the episode begins.
    """

    folder: Path
    version: Version
    info: Mapping[str, Any]
    fps: float
    features: Mapping[str, Feature]
    tasks: Mapping[int, str] | None
    episodes: tuple[EpisodeInfo, ...]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Return the keys of the cameras, embedded or video."""
        return tuple(key for key, feature in self.features.items() if feature.is_picture)


def read_source(folder: Path, findings: Findings) -> Source | None:
    """Return a dataset's metadata as far as it can be read; None if info.json is no JSON object at all.

    Of episodes with one number, the first is taken.
    """
    info = _info(folder, findings)
    if info is None:
        return None
    version = _version(folder, info)
    features: dict[str, Feature] = {}
    entries = info.get("features")
    for key, entry in (entries if isinstance(entries, dict) else {}).items():
        try:
            features[key] = read_feature(folder, key, entry)
        except DatasetError as error:
            findings.refused(error, "write the feature's dtype and shape as a LeRobot recorder does")
    rows = episode_rows(
        folder, version, tuple(k for k, v in features.items() if v.dtype == "video"), findings
    )
    episodes = tuple(_episodes(folder, info, version, features, rows))
    tasks = read_task_texts(folder, version, findings)
    fps = info.get("fps")
    usable = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < 1e6
    source = Source(
        folder=folder,
        version=version,
        info=info,
        fps=float(fps) if usable and fps is not None else 0.0,
        features=features or dict(COUNTERS),
        tasks=tasks,
        episodes=episodes,
    )
    _check_order(source, findings)
    _check_counts(source, findings)
    first = {episode.index: episode for episode in reversed(episodes)}
    return replace(source, episodes=tuple(episode for episode in episodes if first[episode.index] is episode))


def _info(folder: Path, findings: Findings) -> dict[str, Any] | None:
    """Return info.json with defaults in the place of unusable templates."""
    path = folder / "meta" / "info.json"
    try:
        return read_info(folder)
    except DatasetError as error:
        findings.refused(
            error, "copy meta/info.json again, or write what is missing as a LeRobot recorder does"
        )
        if error.code == "not-a-dataset":
            return None
    try:
        info = json.loads(path.read_bytes().decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(info, dict):
        return None
    version = _version(folder, info)
    for key, default in zip(("data_path", "video_path"), TEMPLATES[version], strict=True):
        try:
            check_template(path, key, info.get(key) or "")
            usable = isinstance(info.get(key), str)
        except (DatasetError, TypeError, AttributeError):
            usable = False
        if not usable:
            info[key] = default
    return info


def _version(folder: Path, info: Mapping[str, Any]) -> Version:
    """Return the version that info.json gives, or else the one whose files are there."""
    for version in get_args(Version):
        if info.get("codebase_version") == version:
            return version
    if (folder / "meta" / "episodes").is_dir() or (folder / "meta" / "tasks.parquet").is_file():
        return "v3.0"
    return "v2.1" if (folder / "meta" / "episodes_stats.jsonl").is_file() else "v2.0"


def _episodes(
    folder: Path,
    info: Mapping[str, Any],
    version: Version,
    features: Mapping[str, Feature],
    rows: list[dict[str, Any]],
) -> list[EpisodeInfo]:
    keys = [key for key, feature in features.items() if feature.dtype == "video"]
    default_data, default_video = TEMPLATES[version]
    data_path, video_path = info.get("data_path") or default_data, info.get("video_path") or default_video
    chunk_size = info.get("chunks_size")
    chunk_size = chunk_size if isinstance(chunk_size, int) and chunk_size > 0 else 1000
    paths: dict[tuple[str, str, Any], Path] = {}

    def path_of(template: str, key: str, place: Mapping[str, Any]) -> Path:
        known = (template, key, tuple(place.values()))
        if known not in paths:
            paths[known] = folder / template.format(**place, video_key=key)
        return paths[known]

    def place_of(row: Mapping[str, Any], group: str) -> dict[str, Any]:
        if version == "v3.0":
            return {name: row[f"{group}/{name}"] for name in ("chunk_index", "file_index")}
        return {
            "episode_chunk": row["episode_index"] // chunk_size,
            "episode_index": row["episode_index"],
        }

    found: list[EpisodeInfo] = []
    for row in rows:
        videos = {
            key: (
                path_of(video_path, key, place_of(row, f"videos/{key}")),
                float(row.get(f"videos/{key}/from_timestamp", 0.0)),
            )
            for key in keys
            if version != "v3.0" or row.get(f"videos/{key}/file_index") is not None
        }
        found.append(
            EpisodeInfo(
                index=row["episode_index"],
                start=row["dataset_from_index"],
                length=row["length"],
                tasks=tuple(row["tasks"]),
                data=path_of(data_path, "", place_of(row, "data")),
                videos=videos,
            )
        )
    return found


def _check_order(source: Source, findings: Findings) -> None:
    """See that episodes are numbered from 0 on and follow one another without a gap."""
    expected = 0
    broken: list[str] = []
    for number, episode in enumerate(source.episodes):
        if episode.index != number or episode.start != expected or episode.length < 1:
            broken.append(
                f"row {number} is episode {episode.index} with {episode.length} frames from {episode.start} "
                f"on instead of {expected}"
            )
        expected = episode.start + max(episode.length, 0)
    ends: dict[Path, list[tuple[float, float, int]]] = {}
    if source.fps:
        for episode in source.episodes:
            for path, begins in episode.videos.values():
                ends.setdefault(path, []).append(
                    (begins, begins + episode.length / source.fps, episode.index)
                )
        for path, spans in ends.items():
            spans.sort()
            broken += [
                f"episode {after[2]} begins in {path.name} before episode {before[2]} ends"
                for before, after in pairwise(spans)
                if after[0] < before[1] - 0.5 / source.fps
            ]
    if broken:
        findings.add(
            "episodes-damaged",
            source.folder / "meta",
            f"episodes do not follow one another: {several(broken, shown=3)}",
            "write the table of episodes anew, in order",
        )


def _check_counts(source: Source, findings: Findings) -> None:
    """Compare the totals of info.json with the tables."""
    if findings.has("episodes-missing", "episodes-damaged", "info-damaged"):
        return
    frames, episodes = sum(episode.length for episode in source.episodes), len(source.episodes)
    pairs: list[tuple[str, int | None]] = [("total_frames", frames), ("total_episodes", episodes)]
    if source.tasks is not None and not findings.has("tasks-damaged"):
        pairs.append(("total_tasks", len(source.tasks)))
    wrong = [
        f"{key} is {source.info[key]}, found {found}"
        for key, found in pairs
        if key in source.info and source.info[key] != found
    ]
    if wrong:
        findings.add(
            "count-mismatch",
            source.folder / "meta" / "info.json",
            "; ".join(wrong),
            "copy the whole dataset again; if nothing is missing, correct info.json",
        )
