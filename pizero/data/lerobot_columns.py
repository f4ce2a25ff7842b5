"""The columns of a LeRobot dataset as numpy arrays: one column at a time, or block after block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import COUNTERS, Feature
from pizero.data.lerobot_metadata import COPY_AGAIN, EpisodeInfo, Metadata, read_parquet

BATCH_ROWS = 65_536
"""Rows of a file that are unpacked at a time."""


def read_columns(metadata: Metadata, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return whole columns, `[frame, *shape]`; a feature of shape (1,) is `[frame]`.

    DatasetError if a file is damaged, has other types than the first, or rows that are not in order.
    """
    parts: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for path, episodes in files_of(metadata):
        found = _file_columns(path, episodes, read_parquet(path, _wanted(keys)), metadata, keys)
        for key, values in found.items():
            parts[key].append(_like_first(path, key, values, parts[key]))
    shapes = {key: _feature(metadata, key).shape for key in keys}
    return {
        key: np.concatenate(values) if values else np.empty((0, *shapes[key]))
        for key, values in parts.items()
    }


def column_blocks(
    metadata: Metadata, keys: Sequence[str], *, min_frames: int = 100_000
) -> Iterator[tuple[Sequence[EpisodeInfo], dict[str, np.ndarray]]]:
    """Yield successive whole episodes and their rows of some columns, at least `min_frames` at a time.

    Memory is bounded by such a block, one longer episode and a batch of rows, however large the dataset is.
    DatasetError as for `read_columns`.
    """
    waiting: list[EpisodeInfo] = []
    parts: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    frames = 0
    for path, episodes in files_of(metadata):
        for block_episodes, values in _file_blocks(path, episodes, metadata, keys, min_frames):
            waiting += block_episodes
            frames += sum(episode.length for episode in block_episodes)
            for key in keys:
                parts[key].append(_like_first(path, key, values[key], parts[key]))
            if frames >= min_frames:
                yield waiting, {key: np.concatenate(parts[key]) for key in keys}
                waiting, parts, frames = [], {key: [] for key in keys}, 0
    if waiting:
        yield waiting, {key: np.concatenate(parts[key]) for key in keys}


def files_of(metadata: Metadata) -> Iterator[tuple[Path, list[EpisodeInfo]]]:
    """Yield each file of columns with its episodes, in order."""
    for path, episodes in groupby(metadata.episodes, key=lambda episode: episode.data):
        yield path, list(episodes)


def _file_blocks(
    path: Path, episodes: list[EpisodeInfo], metadata: Metadata, keys: Sequence[str], min_frames: int
) -> Iterator[tuple[list[EpisodeInfo], dict[str, np.ndarray]]]:
    if sum(episode.length for episode in episodes) <= min_frames:
        table = read_parquet(path, _wanted(keys))
        yield episodes, _file_columns(path, episodes, table, metadata, keys)
        return
    batches: list[pa.RecordBatch] = []
    rest, rows = list(episodes), 0
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(BATCH_ROWS, columns=_wanted(keys)):
            batches.append(batch)
            rows += len(batch)
            if rows < min_frames:
                continue
            count = whole = 0
            while count < len(rest) and whole + rest[count].length <= rows:
                whole += rest[count].length
                count += 1
            if count == 0 or count == len(rest):
                continue
            table = pa.Table.from_batches(batches)
            yield rest[:count], _file_columns(path, rest[:count], table.slice(0, whole), metadata, keys)
            batches, rest, rows = table.slice(whole).to_batches(), rest[count:], rows - whole
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DatasetError(
            "data-damaged", path, f"{path} is not a whole parquet file ({reason}); {COPY_AGAIN}"
        ) from None
    table = pa.Table.from_batches(batches, schema=file.schema_arrow if not batches else None)
    yield rest, _file_columns(path, rest, table, metadata, keys)


def _wanted(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*keys, "index"]))


def _feature(metadata: Metadata, key: str) -> Feature:
    feature = metadata.features.get(key) or COUNTERS.get(key)
    if feature is None:
        raise DatasetError(
            "column-missing",
            metadata.folder,
            f"{metadata.folder} has no column {key!r}; it has {', '.join(metadata.features)}",
        )
    return feature


def _file_columns(
    path: Path, episodes: Sequence[EpisodeInfo], table: pa.Table, metadata: Metadata, keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return a file's columns, whose rows are those of `episodes` in order."""
    for key in keys:
        _feature(metadata, key)
    missing = [key for key in _wanted(keys) if key not in table.column_names]
    if missing:
        raise DatasetError(
            "column-missing", path, f"{path}: no column {', '.join(missing)}, which meta/info.json lists"
        )
    start, end = episodes[0].start, episodes[-1].end
    if len(table) != end - start:
        raise DatasetError(
            "count-mismatch",
            path,
            f"{path} is not whole: expected {end - start} rows of episodes {episodes[0].index} to "
            f"{episodes[-1].index}, found {len(table)}; {COPY_AGAIN}",
        )
    index = to_numpy(path, "index", table.column("index"), COUNTERS["index"])
    wrong = np.flatnonzero(index != np.arange(start, end))
    if len(wrong):
        row = int(wrong[0])
        raise DatasetError(
            "count-mismatch",
            path,
            f"{path}: rows are out of order: expected index {start + row} in row {row}, found {index[row]}",
        )
    return {key: to_numpy(path, key, table.column(key), _feature(metadata, key)) for key in keys}


def to_numpy(path: Path, key: str, column: pa.ChunkedArray | pa.Array, feature: Feature) -> np.ndarray:
    """Return a column as `[row, *shape]`, of its own dtype; texts as objects."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    rows = len(array)
    shape = () if feature.shape == (1,) else feature.shape
    while True:
        if array.null_count:
            raise DatasetError("data-damaged", path, f"{path}: {key!r} has {array.null_count} empty cells")
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif (
            pa.types.is_list(array.type)
            or pa.types.is_large_list(array.type)
            or (pa.types.is_fixed_size_list(array.type))
        ):
            array = array.flatten()
        else:
            break
    if feature.dtype == "string":
        return np.array(array.to_pylist(), dtype=object)
    if not _is_number(array.type):
        raise DatasetError(
            "schema-drift", path, f"{path}: {key!r}: expected {feature.dtype} numbers, found {array.type}"
        )
    if len(array) != rows * int(np.prod(shape, dtype=int)):
        raise DatasetError(
            "schema-drift",
            path,
            f"{path}: {key!r}: expected {list(feature.shape)} numbers in each of {rows} rows, found "
            f"{len(array)} in all",
        )
    return array.to_numpy(zero_copy_only=False).reshape(rows, *shape)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _like_first(path: Path, key: str, values: np.ndarray, before: Sequence[np.ndarray]) -> np.ndarray:
    if before and before[0].dtype != values.dtype:
        raise DatasetError(
            "schema-drift",
            path,
            f"{path}: {key!r} is {values.dtype}, in the files before it is {before[0].dtype}; "
            f"write the dataset anew with one type",
        )
    return values
