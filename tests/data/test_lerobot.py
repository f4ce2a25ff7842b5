"""Datasets of ours come back exactly, those that LeRobot's own code wrote are read exactly, bad ones are
named.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.dataset import action_windows, frames_of, split_episodes
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import ACTION, STATE, robot_layout
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import (
    Episode,
    finished_shards,
    partial_folder,
    robot_episode,
    write_shard,
)
from pizero.embodiment import Camera, Embodiment
from pizero.robots import NAVIGATION2D
from tests.data.test_video import numbered_frames, numbers_of

LENGTHS = (5, 1, 9, 3)
ROBOT = dataclasses.replace(NAVIGATION2D, cameras=(Camera(name="top", height=64, width=96),))
LAYOUT = robot_layout(ROBOT)


def make_episode(index: int, robot: Embodiment = ROBOT) -> Episode:
    rng = np.random.default_rng(index)
    length, first = LENGTHS[index], sum(LENGTHS[:index])
    return robot_episode(
        states=rng.normal(size=(length, robot.state_dim)).astype(np.float32),
        actions=rng.normal(size=(length, robot.action_dim)).astype(np.float32),
        images={name: numbered_frames(length, first=first) for name in robot.camera_names},
        task=("go left — 왼쪽", "go right")[index % 2],
    )


def write_dataset(folder: Path, order: tuple[int, ...] = (0, 1, 2, 3), robot: Embodiment = ROBOT) -> Path:
    partial, layout = partial_folder(folder), robot_layout(robot)
    partial.mkdir(parents=True)
    for index in order:
        write_shard(partial, index, make_episode(index, robot), layout)
    merge_shards(partial, folder, layout)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> LeRobotDataset:
    return LeRobotDataset.open(folder)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def all_pictures(dataset: LeRobotDataset, camera: str) -> np.ndarray:
    out = np.empty((dataset.num_frames, *dataset.image_shape(camera), 3), np.uint8)
    dataset.decode_all(camera, out)
    return out


def test_what_was_written_is_read(dataset: LeRobotDataset) -> None:
    episodes = [make_episode(index) for index in range(len(LENGTHS))]
    np.testing.assert_array_equal(
        dataset.states, np.concatenate([episode.columns[STATE] for episode in episodes])
    )
    np.testing.assert_array_equal(
        dataset.actions, np.concatenate([episode.columns[ACTION] for episode in episodes])
    )
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS)
    said = [dataset.task_of_frame(episode.start) for episode in dataset.episodes]
    assert said == [episode.tasks for episode in episodes]
    assert dataset.fps == ROBOT.rate
    assert dataset.camera_names == ("top",)
    assert dataset.action_names == ("dx", "dy")


def test_every_picture_is_the_one_of_its_frame(dataset: LeRobotDataset) -> None:
    assert numbers_of(all_pictures(dataset, "top")) == list(range(sum(LENGTHS)))
    for episode in dataset.episodes:
        last = dataset.images("top", range(episode.end - 1, episode.end))
        assert numbers_of(last) == [episode.end - 1]


def test_the_order_of_writing_does_not_change_a_byte(folder: Path, tmp_path: Path) -> None:
    assert hashes(write_dataset(tmp_path / "other", order=(2, 0, 3, 1))) == hashes(folder)


def test_only_whole_shards_count(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, make_episode(0), LAYOUT)
    (tmp_path / "shards" / "episode_000001.partial").mkdir()
    assert finished_shards(tmp_path) == {0}
    write_shard(tmp_path, 1, make_episode(1), LAYOUT)
    assert finished_shards(tmp_path) == {0, 1}


def test_a_gap_between_shards_is_not_merged(tmp_path: Path) -> None:
    for index in (0, 2):
        write_shard(tmp_path / "d.partial", index, make_episode(index), LAYOUT)
    with pytest.raises(ValueError, match="expected episodes 0 to 2"):
        merge_shards(tmp_path / "d.partial", tmp_path / "d", LAYOUT)
    assert not (tmp_path / "d").exists()


@pytest.mark.usefixtures("unchecked")
def test_parts_of_unequal_length_are_refused(tmp_path: Path) -> None:
    whole = make_episode(0)
    short = dataclasses.replace(whole, columns={**whole.columns, ACTION: whole.columns[ACTION][:-1]})
    with pytest.raises(ValueError, match=r"episode 0 does not fit: numbers of steps .*'action': 4"):
        write_shard(tmp_path, 0, short, LAYOUT)
    assert finished_shards(tmp_path) == set()


@pytest.mark.usefixtures("unchecked")
def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"does not fit: .*uint8 \(64, 96, 3\), expected uint8 \(32, 32, 3\)"
    ):
        write_shard(tmp_path, 0, make_episode(0), robot_layout(NAVIGATION2D))
    assert finished_shards(tmp_path) == set()


@given(horizon=st.integers(1, 12), frame=st.integers(0, sum(LENGTHS) - 1))
def test_windows_end_with_their_episode(dataset: LeRobotDataset, horizon: int, frame: int) -> None:
    (actions,), (valid,) = action_windows(dataset, np.array([frame]), horizon)
    episode = dataset.episodes[int(dataset.episode_index[frame])]
    for step in range(horizon):
        inside = frame + step < episode.end
        assert valid[step] == inside
        np.testing.assert_array_equal(
            actions[step], dataset.actions[frame + step if inside else episode.end - 1]
        )


def test_held_out_episodes_are_of_every_task_and_never_trained_on(dataset: LeRobotDataset) -> None:
    train, held_out = split_episodes(dataset, 0.3, seed=0)
    assert {episode.tasks for episode in held_out} == {("go left — 왼쪽",), ("go right",)}
    assert sorted([*frames_of(train), *frames_of(held_out)]) == list(range(dataset.num_frames))


def test_an_older_version_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v1.6"}))
    with pytest.raises(ValueError, match=r"version 'v1\.6', expected v2\.0, v2\.1, v3\.0; convert"):
        LeRobotDataset.open(tmp_path)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a LeRobot dataset: expected .*info\.json.*pizero collect"):
        LeRobotDataset.open(tmp_path)


def test_a_half_written_dataset_says_that_it_goes_on(tmp_path: Path) -> None:
    write_shard(partial_folder(tmp_path / "d"), 0, make_episode(0), LAYOUT)
    with pytest.raises(ValueError, match="half-written; run the command that writes it again"):
        LeRobotDataset.open(tmp_path / "d")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("data", "has no data"),
        ("videos", "expected the video"),
        ("meta/tasks.parquet", r"tasks\.parquet"),
        ("meta/episodes", "meta/episodes"),
    ],
)
def test_a_missing_part_is_named(folder: Path, tmp_path: Path, harm: str, message: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "d")
    part = copy / harm
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(ValueError, match=message):
        LeRobotDataset.open(copy)


def test_a_truncated_file_and_a_wrong_count_are_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "d")
    data = copy / "data" / "chunk-000" / "file-000.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="not a whole parquet file"):
        _ = LeRobotDataset.open(copy).states
    data.write_bytes(whole)
    info = json.loads((copy / "meta" / "info.json").read_text())
    (copy / "meta" / "info.json").write_text(json.dumps(info | {"total_frames": 99}))
    with pytest.raises(ValueError, match=r"says 99 frames in 4 episodes, found 18 in 4"):
        LeRobotDataset.open(copy)


def test_files_are_laid_out_as_the_format_says(folder: Path) -> None:
    """LeRobot looks a task up by row, needs the pandas index, and wants one row group an episode."""
    tasks = pq.read_table(folder / "meta" / "tasks.parquet")
    assert tasks.column("task_index").to_pylist() == [0, 1]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    data = pq.ParquetFile(folder / "data" / "chunk-000" / "file-000.parquet")
    assert [data.metadata.row_group(group).num_rows for group in range(data.num_row_groups)] == list(LENGTHS)
    assert data.schema_arrow.names[-5:] == [
        "timestamp",
        "frame_index",
        "episode_index",
        "index",
        "task_index",
    ]
    episodes = pq.read_table(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pydict()
    assert episodes["dataset_from_index"] == [0, 5, 6, 15]
    assert episodes["videos/observation.images.top/from_timestamp"] == [0.0, 0.5, 0.6, 1.5]
    stats = json.loads((folder / "meta" / "stats.json").read_text())
    episodes = [make_episode(index) for index in range(len(LENGTHS))]
    actions = np.concatenate([episode.columns[ACTION] for episode in episodes]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(axis=0))
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0))
    assert np.shape(stats["observation.images.top"]["mean"]) == (3, 1, 1)
