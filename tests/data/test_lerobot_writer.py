"""What the writer writes comes back: every version, type, shape, codec and split into files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import DatasetLayout, Feature
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import Episode, partial_folder, write_shard
from tests.data.test_video import numbered_frames, numbers_of

LENGTHS = (7, 1, 12, 4, 9)
FEATURES = {
    "observation.state": Feature(dtype="float64", shape=(3,), names=("a", "b", "gripper")),
    "observation.images.front": Feature(dtype="video", shape=(64, 96, 3)),
    "observation.images.wrist": Feature(dtype="image", shape=(10, 14, 3)),
    "observation.images.side": Feature(dtype="video", shape=(64, 96, 3)),
    "action": Feature(dtype="float32", shape=(2,)),
    "observation.force": Feature(dtype="float32", shape=(2, 3)),
    "observation.grid": Feature(dtype="uint8", shape=(2, 3, 4)),
    "flags": Feature(dtype="bool", shape=(3,)),
    "count": Feature(dtype="int32", shape=(1,)),
    "next.done": Feature(dtype="bool", shape=(1,)),
    "note": Feature(dtype="string", shape=(1,)),
}
LAYOUT = DatasetLayout(features=FEATURES, fps=30.0, robot_type="made_up")


def make_episode(index: int) -> Episode:
    rng = np.random.default_rng(index)
    length, first = LENGTHS[index], sum(LENGTHS[:index])
    columns: dict[str, np.ndarray] = {}
    for key, feature in FEATURES.items():
        shape = (length, *feature.shape)
        if feature.dtype == "string":
            columns[key] = np.array([f"step {step} – ноль" for step in range(length)])
        elif feature.dtype == "bool":
            columns[key] = rng.random(shape) < 0.5
        elif feature.is_numeric:
            columns[key] = (100 * rng.random(shape)).astype(feature.dtype)
    images = {
        "observation.images.front": numbered_frames(length, first=first),
        "observation.images.side": numbered_frames(length, first=first + 100),
        "observation.images.wrist": rng.integers(0, 256, (length, 10, 14, 3)).astype(np.uint8),
    }
    tasks = ("rotate 回転", "press") if length > 1 else ("press",)
    return Episode(
        columns=columns, images=images, tasks=tuple(tasks[step % len(tasks)] for step in range(length))
    )


def write(folder: Path, layout: DatasetLayout) -> LeRobotDataset:
    for index in range(len(LENGTHS)):
        write_shard(partial_folder(folder), index, make_episode(index), layout)
    merge_shards(partial_folder(folder), folder, layout)
    return LeRobotDataset.open(folder)


LAYOUTS = {
    "v3.0 h264": LAYOUT,
    "v3.0 av1": replace(LAYOUT, codec="av1", quality=20),
    "v3.0 many files": replace(LAYOUT, data_megabytes=0.02, video_megabytes=0.004, chunk_size=2),
    "v2.1 h264": replace(LAYOUT, version="v2.1", chunk_size=2),
    "v2.1 av1": replace(LAYOUT, version="v2.1", codec="av1", quality=20),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_everything_comes_back(layout: DatasetLayout, tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", layout)
    assert dataset.version == layout.version
    assert dataset.camera_names == ("front", "wrist", "side")
    assert dataset.state_names == ("a", "b", "gripper")
    episodes = [make_episode(index) for index in range(len(LENGTHS))]
    for key, feature in FEATURES.items():
        if feature.is_picture:
            continue
        put_in = np.concatenate([episode.columns[key] for episode in episodes])
        found = dataset.column(key)
        if feature.is_numeric:
            assert found.dtype == feature.dtype
        np.testing.assert_array_equal(found.reshape(put_in.shape), put_in, err_msg=key)
    for info, episode in zip(dataset.episodes, episodes, strict=True):
        frames = range(info.start, info.end)
        assert numbers_of(dataset.images("front", frames)) == list(frames)
        assert numbers_of(dataset.images("side", frames)) == [frame + 100 for frame in frames]
        np.testing.assert_array_equal(
            dataset.images("wrist", frames), episode.images["observation.images.wrist"]
        )
        assert [dataset.task_of_frame(frame) for frame in frames] == list(episode.tasks)
        assert set(info.tasks) == set(episode.tasks)
    np.testing.assert_array_equal(dataset.column("index"), np.arange(sum(LENGTHS)))
    within = np.concatenate([np.arange(length) for length in LENGTHS])
    np.testing.assert_array_equal(dataset.column("frame_index"), within)
    np.testing.assert_array_equal(dataset.column("timestamp"), (within / 30.0).astype(np.float32))


def test_small_limits_make_many_files_in_many_chunks(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", LAYOUTS["v3.0 many files"])
    assert len({episode.data for episode in dataset.episodes}) > 1
    places = [episode.videos["front"] for episode in dataset.episodes]
    assert len({path for path, _ in places}) > 1
    assert (dataset.folder / "videos" / "observation.images.front" / "chunk-001").is_dir()


def test_statistics_are_those_of_the_episode(tmp_path: Path) -> None:
    """Of pictures and vectors, against numpy on the values themselves."""
    write(tmp_path / "new", LAYOUT)
    write(tmp_path / "old", replace(LAYOUT, version="v2.1"))
    rows = (tmp_path / "old" / "meta" / "episodes_stats.jsonl").read_text().splitlines()
    table = pq.read_table(tmp_path / "new" / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    for index in range(len(LENGTHS)):
        episode, old = make_episode(index), json.loads(rows[index])["stats"]
        wrist = episode.images["observation.images.wrist"] / 255.0
        for name in ("min", "max", "mean", "std"):
            exact = getattr(wrist.reshape(-1, 3), name)(axis=0)
            np.testing.assert_allclose(
                np.ravel(old["observation.images.wrist"][name]), exact, rtol=1e-9, atol=1e-12
            )
            new = table.column(f"stats/observation.images.wrist/{name}")[index].as_py()
            np.testing.assert_allclose(np.ravel(new), exact, rtol=1e-9, atol=1e-12)
            force = getattr(episode.columns["observation.force"].astype(np.float64), name)(axis=0)
            np.testing.assert_allclose(old["observation.force"][name], force, rtol=1e-12)
        for name, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
            found = table.column(f"stats/observation.images.wrist/{name}")[index].as_py()
            np.testing.assert_allclose(
                np.ravel(found), np.quantile(wrist.reshape(-1, 3), share, axis=0), atol=1e-12
            )
        assert old["observation.images.wrist"]["count"] == [LENGTHS[index]]
        assert "q01" not in old["action"]


WRONG = {
    "missing columns 'count'": lambda e: replace(
        e, columns={k: v for k, v in e.columns.items() if k != "count"}
    ),
    "columns 'more' not in the layout": lambda e: replace(
        e, columns={**e.columns, "more": e.columns["count"]}
    ),
    "'action' of float64, expected float32": lambda e: replace(
        e, columns={**e.columns, "action": e.columns["action"].astype(np.float64)}
    ),
    "not finite, first at step 2": lambda e: replace(
        e, columns={**e.columns, "action": np.where(np.arange(7)[:, None] == 2, np.nan, 1).astype(np.float32)}
    ),
    r"shape \(7, 3\), expected \(7, 2\)": lambda e: replace(
        e, columns={**e.columns, "action": np.zeros((7, 3), np.float32)}
    ),
    "numbers of steps": lambda e: replace(e, tasks=e.tasks[1:]),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_episode_that_does_not_fit_is_refused_whole(message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path, 0, WRONG[message](make_episode(0)), LAYOUT)
    assert not list(tmp_path.rglob("*.parquet"))


def test_layouts_that_cannot_be_written_are_refused() -> None:
    with pytest.raises(ValueError, match="a counter, which the writer adds"):
        DatasetLayout(features={"timestamp": Feature(dtype="float32", shape=(1,))}, fps=10.0)
    with pytest.raises(ValueError, match="a key has no '/'"):
        DatasetLayout(features={"a/b": Feature(dtype="float32", shape=(1,))}, fps=10.0)
    with pytest.raises(ValueError, match="above 0"):
        replace(LAYOUT, fps=0.0)


def test_an_existing_dataset_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "d", LAYOUT)
    write_shard(partial_folder(tmp_path / "d"), 0, make_episode(0), LAYOUT)
    with pytest.raises(ValueError, match="exists; nothing was changed"):
        merge_shards(partial_folder(tmp_path / "d"), tmp_path / "d", LAYOUT)
