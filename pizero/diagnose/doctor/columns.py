"""The columns, block after block: counters, times and tasks are checked, numbers summed up by episode."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Float64

from pizero.data.faults import DatasetError
from pizero.data.lerobot_columns import to_numpy
from pizero.data.lerobot_features import ACTION, COUNTERS, STATE
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.diagnose.doctor.counters import check_counters
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source
from pizero.progress import Counter

BATCH_ROWS = 65_536
MAX_SAMPLE = 200_000
"""Rows of the whole dataset that quantiles are taken from: one in n, so that memory is bounded."""


@dataclass(frozen=True, kw_only=True)
class EpisodeNumbers:
    """What is kept of an episode's states and actions: enough for every check that compares episodes."""

    episode: EpisodeInfo
    low: dict[str, Float64[np.ndarray, "dimension"]]
    high: dict[str, Float64[np.ndarray, "dimension"]]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """All states and actions of one episode."""

    episode: EpisodeInfo
    vectors: dict[str, Float32[np.ndarray, "frame dimension"]]


@dataclass
class Numbers:
    """The dataset's numbers: a summary of each episode, a thinned sample of all rows of each vector, and all
    rows of evenly chosen episodes.

    `count` is the number of rows behind the summaries, `task_counts` that of the frames of each task.
    """

    episodes: list[EpisodeNumbers] = field(default_factory=list)
    sample: dict[str, list[np.ndarray]] = field(default_factory=dict)
    excerpts: list[Excerpt] = field(default_factory=list)
    count: int = 0
    task_counts: dict[int, int] = field(default_factory=dict)


MAX_EXCERPTS = 200
"""Episodes of which all states and actions are kept, to compare what leads and what follows."""


def read_numbers(
    source: Source,
    files: Mapping[Path, list[EpisodeInfo]],
    findings: Findings,
    counter: Counter,
    *,
    keep: Collection[int] = (),
) -> Numbers:
    """Read all numeric columns once, check the counters, and return what the other checks need.

    All rows are kept of up to 200 evenly chosen episodes, and of those that `keep` names.
    """
    numbers = Numbers()
    total = sum(episode.length for episodes in files.values() for episode in episodes)
    step = max(1, -(-total // MAX_SAMPLE))
    stride = max(1, -(-len(source.episodes) // MAX_EXCERPTS))
    kept = {one.index for one in source.episodes[::stride]} | set(keep)
    keys = [key for key, feature in (dict(source.features) | COUNTERS).items() if feature.is_numeric]
    bad: dict[str, list[str]] = {}
    for path, episodes in files.items():
        try:
            for block, columns in _blocks(source, path, episodes, keys):
                usable = check_counters(source, path, block, columns, findings)
                if usable:
                    _sum_up(source, usable, columns, numbers, bad, step=step, kept=kept)
                counter.advance(sum(episode.length for episode in block))
        except DatasetError as error:
            findings.refused(error)
    for key, places in bad.items():
        findings.add(
            "not-finite",
            source.folder,
            f"{key} has NaN or infinite numbers: {several(places, shown=3)}",
            "remove these episodes, or repair what wrote them",
        )
    return numbers


def _blocks(
    source: Source, path: Path, episodes: list[EpisodeInfo], keys: list[str]
) -> Iterator[tuple[list[EpisodeInfo], dict[str, np.ndarray]]]:
    """Yield successive whole episodes of a file with their rows; the last block has the rest of the rows."""
    try:
        file = pq.ParquetFile(path)
        names = [key for key in keys if key in file.schema_arrow.names]
        batches: list[pa.RecordBatch] = []
        rest, rows = list(episodes), 0
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            batches.append(batch)
            rows += len(batch)
            ends = np.cumsum([one.length for one in rest])
            ready = min(int(np.searchsorted(ends, rows, side="right")), len(rest) - 1)
            if rows >= BATCH_ROWS and ready:
                table = pa.Table.from_batches(batches)
                size = int(ends[ready - 1])
                yield rest[:ready], _columns(source, path, table.slice(0, size))
                batches, rest, rows = table.slice(size).to_batches(), rest[ready:], rows - size
        table = pa.Table.from_batches(batches, schema=None if batches else file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DatasetError("data-damaged", path, f"{path} is not a whole parquet file ({reason})") from None
    yield rest, _columns(source, path, table)


def _columns(source: Source, path: Path, table: pa.Table) -> dict[str, np.ndarray]:
    features = dict(COUNTERS) | dict(source.features)
    return {
        key: to_numpy(path, key, table.column(key), features[key])
        for key in table.column_names
        if key in features and features[key].is_numeric
    }


def _sum_up(
    source: Source,
    episodes: list[EpisodeInfo],
    columns: Mapping[str, np.ndarray],
    numbers: Numbers,
    bad: dict[str, list[str]],
    *,
    step: int,
    kept: Collection[int],
) -> None:
    first = episodes[0].start
    floats = {
        key: values.reshape(len(values), -1)
        for key, values in columns.items()
        if key not in COUNTERS and np.issubdtype(values.dtype, np.floating)
    }
    vectors = {
        key: columns[key].reshape(len(columns[key]), -1).astype(np.float64)
        for key in (STATE, ACTION)
        if key in columns
    }
    if "task_index" in columns:
        for task, count in zip(*np.unique(columns["task_index"], return_counts=True), strict=True):
            numbers.task_counts[int(task)] = numbers.task_counts.get(int(task), 0) + int(count)
    for episode in episodes:
        rows = slice(episode.start - first, episode.end - first)
        broken = False
        for key, values in floats.items():
            finite = np.isfinite(values[rows])
            if not finite.all():
                frame, dimension = np.argwhere(~finite)[0]
                broken = broken or key in vectors
                names = source.features[key].names
                name = names[dimension] if names and len(names) > dimension else f"dimension {dimension}"
                bad.setdefault(key, []).append(
                    f"{int((~finite).sum())} in episode {episode.index}, first {name} in frame {frame}"
                )
        if broken or not vectors:
            continue
        own = {key: values[rows] for key, values in vectors.items()}
        for key, values in own.items():
            numbers.sample.setdefault(key, []).append(values[:: min(step, len(values))])
        numbers.count += episode.length
        if episode.index in kept:
            numbers.excerpts.append(
                Excerpt(
                    episode=episode, vectors={key: values.astype(np.float32) for key, values in own.items()}
                )
            )
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in own.values()))
        numbers.episodes.append(
            EpisodeNumbers(
                episode=episode,
                low={key: values.min(axis=0) for key, values in own.items()},
                high={key: values.max(axis=0) for key, values in own.items()},
                digest=digest.hexdigest(),
            )
        )


def sampled(numbers: Numbers, key: str) -> Float64[np.ndarray, "row dimension"]:
    """Return the thinned rows of a vector, of all episodes in order."""
    return np.concatenate(numbers.sample[key])
