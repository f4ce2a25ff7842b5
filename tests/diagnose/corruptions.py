"""Planted faults: each function breaks one thing in a copy of a clean dataset, and says what must be found.

The datasets are those of `clean_dataset.py`: 12 episodes of about 60 frames, two cameras, seven dimensions.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.diagnose.clean_dataset import CAMERAS, NAMES, write_video

Break = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """A fault, the version of the dataset that it is planted in, and the codes of all errors and warnings."""

    name: str
    version: str
    plant: Break
    codes: frozenset[str]


ALL: list[Corruption] = []


def _add(version: str, plant: Break, *codes: str, name: str = "") -> None:
    label = f"{name or plant.__name__}-{version}"
    ALL.append(Corruption(name=label, version=version, plant=plant, codes=frozenset(codes)))


def data_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/*/*.parquet"))


def videos(folder: Path, camera: str = CAMERAS[0]) -> list[Path]:
    return sorted(path for path in folder.glob("videos/**/*.mp4") if f"images.{camera}" in str(path))


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(info | changes, indent=4), encoding="utf-8")


def edit_lines(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def edit_column(path: Path, key: str, change: Callable[[np.ndarray, np.ndarray], object]) -> None:
    """Change a column's values in place; `change` gets them and the episode of each row."""
    table = pq.read_table(path)
    column = table.column(key).combine_chunks()
    is_vector = pa.types.is_fixed_size_list(column.type)
    flat = column.flatten() if is_vector else column
    values = np.array(flat.to_numpy(zero_copy_only=False)).reshape(len(table), -1)
    change(values, table.column("episode_index").to_numpy())
    new = pa.array(values.reshape(-1), flat.type)
    if is_vector:
        new = pa.FixedSizeListArray.from_arrays(new, column.type.list_size)
    pq.write_table(table.set_column(table.column_names.index(key), key, new), path)


def edit_everywhere(folder: Path, change: Callable[[np.ndarray, np.ndarray], None], *keys: str) -> None:
    for path in data_files(folder):
        for key in keys or ("observation.state", "action"):
            edit_column(path, key, change)


def of(dimension: str) -> int:
    return NAMES.index(dimension)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def overwrite(path: Path, at: float, count: int) -> None:
    """Replace bytes at a share of the file's length."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + count] = np.random.default_rng(0).bytes(count)
    path.write_bytes(bytes(data))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def plant(name: str, change: Break, versions: Sequence[str], *codes: str) -> None:
    for version in versions:
        _add(version, change, *codes, name=name)


OLD, EVERY = ("v2.1",), ("v2.0", "v2.1", "v3.0")
NEW = ("v3.0",)


# Files.
plant("no-info", lambda f: (f / "meta/info.json").unlink(), EVERY, "not-a-dataset")
plant("info-cut", lambda f: cut(f / "meta/info.json", 0.5), OLD, "info-damaged")
plant("info-zero-bytes", lambda f: (f / "meta/info.json").write_bytes(b""), NEW, "info-damaged")
plant("info-not-utf8", lambda f: (f / "meta/info.json").write_bytes(b'{"fps": "\xff"}'), OLD, "info-damaged")
plant("info-without-fps", lambda f: edit_info(f, fps=None), EVERY, "info-damaged")
plant("version-unknown", lambda f: edit_info(f, codebase_version="v1.6"), EVERY, "version-unknown")
plant("data-missing", lambda f: data_files(f)[1].unlink(), EVERY, "data-missing")
plant("data-zero-bytes", lambda f: data_files(f)[1].write_bytes(b""), EVERY, "data-damaged")
plant("data-cut", lambda f: cut(data_files(f)[0], 0.6), EVERY, "data-damaged")
plant("data-footer-overwritten", lambda f: overwrite(data_files(f)[0], 0.99, 8), NEW, "data-damaged")
plant("video-missing", lambda f: videos(f)[1].unlink(), EVERY, "video-missing")
plant("video-zero-bytes", lambda f: videos(f)[0].write_bytes(b""), EVERY, "video-damaged")
plant("video-cut", lambda f: cut(videos(f)[-1], 0.7), EVERY, "video-damaged")
plant("video-bytes-overwritten", lambda f: overwrite(videos(f)[0], 0.3, 400), EVERY, "video-damaged")
plant("tasks-missing", lambda f: (f / "meta/tasks.jsonl").unlink(), OLD, "tasks-missing")
plant("tasks-missing", lambda f: (f / "meta/tasks.parquet").unlink(), NEW, "tasks-missing")
plant("tasks-cut", lambda f: cut(f / "meta/tasks.parquet", 0.5), NEW, "tasks-damaged")
plant("episodes-missing", lambda f: (f / "meta/episodes.jsonl").unlink(), OLD, "episodes-missing")
plant("episodes-missing", lambda f: shutil.rmtree(f / "meta/episodes"), NEW, "episodes-missing")
plant(
    "episodes-cut",
    lambda f: cut(f / "meta/episodes/chunk-000/file-000.parquet", 0.9),
    NEW,
    "episodes-damaged",
)


def data_page_overwritten(folder: Path) -> None:
    path = data_files(folder)[0]
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset + 30
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))


def data_link_leads_out(folder: Path) -> None:
    path = data_files(folder)[0]
    outside = folder.parent / f"{folder.name}-outside.parquet"
    shutil.move(path, outside)
    path.symlink_to(outside)


def video_link_leads_out(folder: Path) -> None:
    path = videos(folder)[0]
    outside = folder.parent / f"{folder.name}-outside.mp4"
    shutil.move(path, outside)
    path.symlink_to(outside)


def text_is_latin(folder: Path) -> None:
    path = folder / "meta/tasks.jsonl"
    path.write_bytes(path.read_bytes().replace(b"the cup", b"th\xe9 cup"))
    lines = folder / "meta/episodes.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b"the cup", "th\N{REPLACEMENT CHARACTER} cup".encode()))


def episodes_line_broken(folder: Path) -> None:
    path = folder / "meta/episodes.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:4], lines[4][:20] + "\n", *lines[5:]]), encoding="utf-8")


def path_with_dots(folder: Path) -> None:
    template = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))["data_path"]
    edit_info(folder, data_path="../" + folder.name + "/" + template)


def path_absolute(folder: Path) -> None:
    template = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))["video_path"]
    edit_info(folder, video_path=str(folder / template))


def path_with_unknown_field(folder: Path) -> None:
    edit_info(folder, data_path="data/{robot}/{episode_index:06d}.parquet")


plant("data-page-overwritten", data_page_overwritten, EVERY, "data-damaged")
plant("data-link-leads-out", data_link_leads_out, EVERY, "path-escapes")
plant("video-link-leads-out", video_link_leads_out, OLD, "path-escapes")
plant("text-is-latin", text_is_latin, OLD, "tasks-damaged")
plant("episodes-line-broken", episodes_line_broken, OLD, "episodes-damaged")
plant("path-with-dots", path_with_dots, EVERY, "path-escapes")
plant("path-absolute", path_absolute, EVERY, "path-escapes")
plant("path-with-unknown-field", path_with_unknown_field, EVERY, "info-damaged")


# Counts and schemas.
def schema_of_one_file_differs(folder: Path) -> None:
    path = data_files(folder)[-1]
    table = pq.read_table(path)
    column = table.column("action").combine_chunks().cast(pa.list_(pa.float64(), len(NAMES)))
    pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)


def column_dropped_everywhere(folder: Path) -> None:
    for path in data_files(folder):
        pq.write_table(pq.read_table(path).drop_columns(["action"]), path)


def row_dropped(folder: Path) -> None:
    path = data_files(folder)[0]
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 20), table.slice(21)]), path)


def rows_exchanged(folder: Path) -> None:
    path = data_files(folder)[0]
    table = pq.read_table(path)
    order = np.arange(len(table))
    order[[10, 11]] = order[[11, 10]]
    pq.write_table(table.take(order), path)


def set_scalar(key: str, change: Callable[[np.ndarray, np.ndarray], None], file: int = 0) -> Break:
    return lambda folder: edit_column(data_files(folder)[file], key, change)


def assign(where: slice | int, value: float) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(values: np.ndarray, _: np.ndarray) -> None:
        values[where] = value

    return change


def add(where: slice, value: float) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(values: np.ndarray, _: np.ndarray) -> None:
        values[where] += value

    return change


def second_file_starts_late(folder: Path) -> None:
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    shifted = pa.array([start + 3 for start in table.column("dataset_from_index").to_pylist()])
    pq.write_table(
        table.set_column(table.column_names.index("dataset_from_index"), "dataset_from_index", shifted), path
    )


def episode_numbers_repeat(folder: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[3]["episode_index"] = 2

    edit_lines(folder / "meta/episodes.jsonl", change)


plant("total-frames-wrong", lambda f: edit_info(f, total_frames=1), EVERY, "count-mismatch")
plant("total-episodes-wrong", lambda f: edit_info(f, total_episodes=13), EVERY, "count-mismatch")
plant("schema-of-one-file-differs", schema_of_one_file_differs, EVERY, "schema-drift")
plant("column-dropped", column_dropped_everywhere, EVERY, "column-missing")
plant("row-dropped", row_dropped, EVERY, "count-mismatch")
plant("rows-exchanged", rows_exchanged, EVERY, "count-mismatch", "frame-index-broken", "timestamps-damaged")
plant("index-jumps", set_scalar("index", add(slice(5, None), 7)), EVERY, "count-mismatch")
plant("frame-index-jumps", set_scalar("frame_index", add(slice(5, 30), 1)), EVERY, "frame-index-broken")
plant("episode-index-wrong", set_scalar("episode_index", assign(slice(0, 5), 3)), EVERY, "count-mismatch")
plant("episodes-start-late", second_file_starts_late, NEW, "episodes-damaged")
plant("episode-numbers-repeat", episode_numbers_repeat, OLD, "episodes-damaged")
plant("task-index-too-large", set_scalar("task_index", assign(slice(0, 60), 9)), EVERY, "tasks-damaged")
plant("time-gap", set_scalar("timestamp", add(slice(30, 45), 0.6)), OLD, "timestamps-damaged")
plant("time-runs-back", set_scalar("timestamp", add(slice(20, 21), -0.3)), EVERY, "timestamps-damaged")
plant("time-begins-late", set_scalar("timestamp", add(slice(0, None), 2.0)), OLD, "timestamps-damaged")
plant("time-jitters", set_scalar("timestamp", add(slice(7, 40, 2), 0.01)), EVERY, "timestamps-uneven")
plant("rate-wrong", lambda f: edit_info(f, fps=30), EVERY, "rate-mismatch")


def times_at_another_rate(folder: Path) -> None:
    for path in data_files(folder):
        edit_column(path, "timestamp", lambda values, _: np.multiply(values, 2, out=values))


plant("times-at-another-rate", times_at_another_rate, EVERY, "rate-mismatch")
plant(
    "video-at-another-rate",
    lambda f: write_video(videos(f)[0], decoded(videos(f)[0]), fps=30),
    EVERY,
    "rate-mismatch",
)
plant(
    "video-too-short",
    lambda f: write_video(videos(f)[0], decoded(videos(f)[0])[:-9]),
    EVERY,
    "video-too-short",
)
plant(
    "video-too-long",
    lambda f: write_video(videos(f)[0], decoded(videos(f)[0]) + decoded(videos(f)[0])[-4:]),
    EVERY,
    "video-too-long",
)
plant(
    "resolution-changes",
    lambda f: write_video(videos(f)[1], [frame[::2, ::2] for frame in decoded(videos(f)[1])]),
    EVERY,
    "resolution-mismatch",
)
