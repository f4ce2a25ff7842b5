"""Damaged datasets: the reader names the file under a code, and reads nothing outside of the folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pizero.data.faults import DatasetError, FaultCode
from pizero.data.lerobot import LeRobotDataset
from pizero.data.video import decode_video, read_frames

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lerobot"
VIDEO = {
    "v2_1": "videos/chunk-000/observation.images.front/episode_000002.mp4",
    "v3_0": "videos/observation.images.front/chunk-000/file-000.mp4",
}
DATA = {"v2_1": "data/chunk-000/episode_000002.parquet", "v3_0": "data/chunk-000/file-000.parquet"}


def read_all(folder: Path) -> None:
    """Read everything that training reads."""
    dataset = LeRobotDataset.open(folder)
    dataset.check_times()
    _ = dataset.states, dataset.actions, dataset.task_index
    for episode in dataset.episodes:
        for camera in dataset.camera_names:
            dataset.images(camera, range(episode.start, episode.end))


def edit_info(folder: Path, **changes: object) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_lines(path: Path, **changes: object) -> None:
    rows = [json.loads(line) | changes for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_table(path: Path, key: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    table = pq.read_table(path)
    values = change(table.column(key).to_numpy().copy())
    place = table.column_names.index(key)
    pq.write_table(table.set_column(place, key, pa.array(values, type=table.schema.field(key).type)), path)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def without_rows(path: Path, count: int) -> None:
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - count), path)


def backwards(values: np.ndarray) -> np.ndarray:
    values[3], values[4] = values[4], values[3]
    return values


def symlink_out(path: Path) -> None:
    target = path.parents[4] / "secret"
    shutil.copy(path, target)
    path.unlink()
    os.symlink(target, path)


HARMS: dict[str, tuple[FaultCode, Callable[[Path, str], object]]] = {
    "no info": ("not-a-dataset", lambda folder, _: (folder / "meta/info.json").unlink()),
    "cut info": ("info-damaged", lambda folder, _: cut(folder / "meta/info.json", 0.5)),
    "info is a list": ("info-damaged", lambda folder, _: (folder / "meta/info.json").write_text("[]")),
    "unknown version": ("version-unknown", lambda folder, _: edit_info(folder, codebase_version="v9")),
    "no rate": ("info-damaged", lambda folder, _: edit_info(folder, fps=None)),
    "template upwards": (
        "path-escapes",
        lambda folder, _: edit_info(folder, data_path="../../{episode_index}{chunk_index}.parquet"),
    ),
    "template absolute": ("path-escapes", lambda folder, _: edit_info(folder, video_path="/etc/{video_key}")),
    "template with attributes": (
        "info-damaged",
        lambda folder, _: edit_info(folder, data_path="data/{episode_index.__class__}"),
    ),
    "template that fills the memory": (
        "info-damaged",
        lambda folder, _: edit_info(folder, data_path="data/{episode_index:999999999d}"),
    ),
    "video links outside": ("path-escapes", lambda folder, name: symlink_out(folder / VIDEO[name])),
    "data missing": ("data-missing", lambda folder, name: (folder / DATA[name]).unlink()),
    "data empty": ("data-damaged", lambda folder, name: (folder / DATA[name]).write_bytes(b"")),
    "data cut": ("data-damaged", lambda folder, name: cut(folder / DATA[name], 0.9)),
    "rows missing": ("count-mismatch", lambda folder, name: without_rows(folder / DATA[name], 2)),
    "rows out of order": (
        "count-mismatch",
        lambda folder, name: edit_table(folder / DATA[name], "index", backwards),
    ),
    "frames not as told": ("count-mismatch", lambda folder, _: edit_info(folder, total_frames=220)),
    "unknown task": (
        "tasks-damaged",
        lambda folder, name: edit_table(folder / DATA[name], "task_index", lambda v: v + 7),
    ),
    "times go back": (
        "timestamps-damaged",
        lambda folder, name: edit_table(folder / DATA[name], "timestamp", backwards),
    ),
    "times of another rate": ("rate-mismatch", lambda folder, _: edit_info(folder, fps=20)),
    "video missing": ("video-missing", lambda folder, name: (folder / VIDEO[name]).unlink()),
    "video empty": ("video-damaged", lambda folder, name: (folder / VIDEO[name]).write_bytes(b"")),
    "video cut": ("video-damaged", lambda folder, name: cut(folder / VIDEO[name], 0.5)),
    "video is a text": ("video-damaged", lambda folder, name: (folder / VIDEO[name]).write_text("no video")),
}


@pytest.mark.parametrize("version", ["v2_1", "v3_0"])
@pytest.mark.parametrize("harm", HARMS)
def test_each_fault_has_its_code_and_names_the_place(version: str, harm: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / version, tmp_path / "dataset")
    code, act = HARMS[harm]
    act(folder, version)
    with pytest.raises(DatasetError, match=rf"\[{code}\]$") as caught:
        read_all(folder)
    assert caught.value.place.is_relative_to(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [("episodes", {"tasks": "press"}, "episodes-damaged"), ("tasks", {"task_index": None}, "tasks-damaged")],
)
def test_lines_of_another_form_have_a_code(
    name: str, changes: dict[str, object], code: FaultCode, tmp_path: Path
) -> None:
    folder = shutil.copytree(FIXTURES / "v2_1", tmp_path / "dataset")
    edit_lines(folder / "meta" / f"{name}.jsonl", **changes)
    with pytest.raises(DatasetError, match=rf"\[{code}\]$"):
        LeRobotDataset.open(folder)


@pytest.mark.parametrize("version", ["v2_1", "v3_0", "v3_0_multi"])
def test_whole_datasets_have_no_fault(version: str) -> None:
    read_all(FIXTURES / version)


@pytest.mark.parametrize("name", ["v3_0_h264", "v3_0_lr062"], ids=["h264", "av1"])
def test_changed_bytes_in_a_video_are_named_nearly_always(name: str, tmp_path: Path) -> None:
    """Neither codec has checksums: a change may hit nothing, or make other pixels that no decoder doubts."""
    (clean,) = (FIXTURES.parent / "lerobot_more" / name / "videos").rglob("*.mp4")
    whole, data = np.stack(list(decode_video(clean))), clean.read_bytes()
    times = [frame / 10 for frame in range(len(whole))]
    rng = np.random.default_rng(0)
    path = tmp_path / "changed.mp4"
    named = unseen = 0
    for place in rng.integers(len(data) // 10, len(data) - 3000, 40).tolist():
        stretch = bytes(byte ^ 0xFF for byte in data[place : place + 8])
        path.write_bytes(data[:place] + stretch + data[place + 8 :])
        try:
            unseen += not np.array_equal(read_frames(path, times), whole)
        except DatasetError as error:
            named += str(path) in str(error) and error.code in ("video-damaged", "video-too-short")
    assert named >= 25
    assert unseen <= named / 10


def test_a_video_shorter_than_its_table_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "v2_1", tmp_path / "dataset")
    shutil.copy(folder / VIDEO["v2_1"].replace("2.mp4", "0.mp4"), folder / VIDEO["v2_1"])
    lengths = [episode.length for episode in LeRobotDataset.open(folder).episodes]
    assert lengths[0] < lengths[2]
    with pytest.raises(DatasetError, match=r"has no frame at .*\[video-too-short\]"):
        read_all(folder)


def test_files_of_another_type_are_named(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "v3_0_multi", tmp_path / "dataset")
    path = folder / "data" / "chunk-001" / "file-000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("action")
    wide = pa.FixedSizeListArray.from_arrays(
        table.column("action").combine_chunks().flatten().cast("float64"), 6
    )
    pq.write_table(table.set_column(place, "action", wide), path)
    with pytest.raises(
        DatasetError, match=r"'action' is float64, in the files before it is float32.*\[schema-drift\]"
    ):
        _ = LeRobotDataset.open(folder).actions


def test_links_into_a_hub_s_own_store_are_followed(tmp_path: Path) -> None:
    """`snapshots/REVISION` holds links into `blobs`, as the hub's cache lays them out."""
    store = tmp_path / "datasets--a--b"
    folder = shutil.copytree(FIXTURES / "v3_0", store / "snapshots" / "abc")
    (store / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        if path.is_file():
            path.rename(store / "blobs" / str(number))
            os.symlink(store / "blobs" / str(number), path)
    read_all(folder)
