"""Datasets that LeRobot's own code wrote, of every version: what was put in comes out, every picture too."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from pizero.data.dataset import action_windows
from pizero.data.lerobot import LeRobotDataset

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRUTHS = {name: FIXTURES / name / "truth.npz" for name in ("lerobot", "lerobot_more")}
FOLDERS = [
    "lerobot/v2_1",
    "lerobot/v3_0",
    "lerobot/v3_0_multi",
    "lerobot_more/v2_0",
    "lerobot_more/v3_0_from_v2_1",
    "lerobot_more/v3_0_h264",
    "lerobot_more/v3_0_lr062",
]
OLD_NAMES = {
    "observation.state": "state",
    "action": "action",
    "observation.images.wrist": "wrist",
    "is_human": "human",
    "phase": "phase",
}


def truth_of(name: str) -> dict[str, np.ndarray]:
    """Return what was put in, under the names of the features."""
    stored = dict(np.load(TRUTHS[name.split("/")[0]]))
    if name.startswith("lerobot/"):
        stored = {ours: stored[theirs] for ours, theirs in OLD_NAMES.items()} | {
            "task": stored["task"],
            "episode_index": stored["episode"],
        }
    return stored


def numbers_in(front: np.ndarray, name: str) -> np.ndarray:
    """Return the frame number that each picture carries in binary along its bottom."""
    rows = slice(84, 96) if name.startswith("lerobot/") else slice(80, 96)
    block = front[:, rows]
    bits = block.reshape(len(block), block.shape[1], 8, 16, 3).mean(axis=(1, 3, 4)) > 127
    return bits @ (1 << np.arange(8))


def episodes_in(front: np.ndarray) -> np.ndarray:
    bits = front[:, :16, :48].reshape(len(front), 16, 3, 16, 3).mean(axis=(1, 3, 4)) > 127
    return bits @ (1 << np.arange(3))


@pytest.fixture(params=FOLDERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_value_of_every_feature_is_the_one_put_in(name: str) -> None:
    dataset, truth = LeRobotDataset.open(FIXTURES / name), truth_of(name)
    np.testing.assert_array_equal(dataset.states, truth["observation.state"])
    np.testing.assert_array_equal(dataset.actions, truth["action"])
    for key in ("is_human", "phase"):
        found = dataset.column(key)
        assert found.dtype == truth[key].dtype
        np.testing.assert_array_equal(found, truth[key].reshape(-1))
    np.testing.assert_array_equal(dataset.episode_index, truth["episode_index"])
    said = [dataset.task_of_frame(frame) for frame in range(dataset.num_frames)]
    assert said == truth["task"].tolist()
    assert dataset.fps == 10.0
    assert dataset.camera_names == ("front", "wrist")
    assert len(dataset.state_names) == 6
    for key in ("frame_index", "index", "timestamp"):
        if key in truth:
            np.testing.assert_array_equal(dataset.column(key), truth[key])


def test_every_picture_is_the_one_put_in(name: str) -> None:
    """PNG pictures are equal; each video frame carries its number within the episode (and its episode)."""
    dataset, truth = LeRobotDataset.open(FIXTURES / name), truth_of(name)
    within = np.concatenate([np.arange(episode.length) for episode in dataset.episodes])
    for episode in dataset.episodes:
        frames = range(episode.start, episode.end)
        np.testing.assert_array_equal(
            dataset.images("wrist", frames), truth["observation.images.wrist"][frames.start : frames.stop]
        )
        front = dataset.images("front", frames)
        np.testing.assert_array_equal(numbers_in(front, name), within[frames.start : frames.stop])
        if name.startswith("lerobot_more/"):
            np.testing.assert_array_equal(episodes_in(front), episode.index)


def test_single_pictures_in_any_order_are_the_right_ones(name: str) -> None:
    dataset = LeRobotDataset.open(FIXTURES / name)
    borders = [frame for episode in dataset.episodes for frame in (episode.start, episode.end - 1)]
    rng = np.random.default_rng(0)
    for frame in [*borders, *rng.integers(0, dataset.num_frames, 60).tolist()]:
        front = dataset.images("front", range(frame, frame + 1))
        assert numbers_in(front, name).tolist() == [frame - dataset.episode_of_frame(frame).start]


@pytest.mark.parametrize("horizon", [1, 5, 50])
def test_windows_at_every_frame_repeat_the_last_action_of_the_episode(name: str, horizon: int) -> None:
    dataset, truth = LeRobotDataset.open(FIXTURES / name), truth_of(name)
    actions, valid = action_windows(dataset, np.arange(dataset.num_frames), horizon)
    last = [np.flatnonzero(truth["episode_index"] == index)[-1] for index in truth["episode_index"]]
    for frame in range(dataset.num_frames):
        wanted = np.arange(frame, frame + horizon)
        np.testing.assert_array_equal(valid[frame], wanted <= last[frame])
        np.testing.assert_array_equal(actions[frame], truth["action"][np.minimum(wanted, last[frame])])


def test_blocks_are_whole_episodes_and_all_of_them(name: str) -> None:
    dataset, truth = LeRobotDataset.open(FIXTURES / name), truth_of(name)
    seen, found = [], []
    for episodes, columns in dataset.blocks(["action", "phase"]):
        assert len(columns["action"]) == sum(episode.length for episode in episodes)
        seen += [episode.index for episode in episodes]
        found.append(columns["action"])
    assert seen == list(range(len(dataset.episodes)))
    np.testing.assert_array_equal(np.concatenate(found), truth["action"])


def _numbers(dataset: LeRobotDataset, name: str, frames: list[int]) -> list[int]:
    return [int(numbers_in(dataset.images("front", range(frame, frame + 1)), name)[0]) for frame in frames]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same_pictures(method: str) -> None:
    """An open video must not be shared with a process that was forked from this one."""
    name = "lerobot/v3_0_multi"
    dataset = LeRobotDataset.open(FIXTURES / name)
    frames = list(range(0, dataset.num_frames, 7))
    within = [frame - dataset.episode_of_frame(frame).start for frame in frames]
    assert _numbers(dataset, name, frames) == within
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(_numbers, [(dataset, name, frames[part::3]) for part in range(3)])
    assert found == [within[part::3] for part in range(3)]


def test_every_dtype_and_shape_comes_back() -> None:
    dataset = LeRobotDataset.open(FIXTURES / "lerobot_more" / "v3_0_types")
    truth = dict(np.load(FIXTURES / "lerobot_more" / "v3_0_types_truth.npz"))
    for key in dataset.features:
        found = dataset.column(key)
        if key == "note":
            assert found.tolist() == truth[key].tolist()
        elif key in truth:
            assert found.dtype == truth[key].dtype, key
            np.testing.assert_array_equal(found.reshape(truth[key].shape), truth[key], err_msg=key)
    assert dataset.fps == 30.0
    assert {"observation.force", "observation.grid", "flags", "note", "next.done"} <= set(dataset.features)
