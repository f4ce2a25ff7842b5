"""Windows around a frame: an episode's edge is repeated and marked, as in LeRobot's `delta_timestamps`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.dataset import offsets_of, picture_windows, window_frames
from pizero.data.lerobot import LeRobotDataset
from tests.data.test_lerobot_fixtures import numbers_in

FIXTURE = "lerobot_more/v3_0_h264"


@pytest.fixture(scope="module")
def dataset() -> LeRobotDataset:
    return LeRobotDataset.open(Path(__file__).parents[1] / "fixtures" / FIXTURE)


@given(frame=st.integers(0, 218), offsets=st.lists(st.integers(-40, 40), min_size=1, max_size=5))
def test_offsets_stay_in_their_episode(dataset: LeRobotDataset, frame: int, offsets: list[int]) -> None:
    (found,), (valid,) = window_frames(dataset, np.array([frame]), np.array(offsets))
    episode = dataset.episode_of_frame(frame)
    for offset, place, real in zip(offsets, found, valid, strict=True):
        assert real == (episode.start <= frame + offset < episode.end)
        assert place == min(max(frame + offset, episode.start), episode.end - 1)


def test_pictures_of_a_window_are_those_of_its_frames(dataset: LeRobotDataset) -> None:
    episode = dataset.episodes[2]
    frames = np.array([episode.start, episode.start + 3, episode.end - 1])
    pictures, valid = picture_windows(dataset, "front", frames, np.array([-2, 0, 1]))
    assert pictures.shape == (3, 3, 96, 128, 3)
    last = episode.length - 1
    expected = [[0, 0, 1], [1, 3, 4], [last - 2, last, last]]
    assert [numbers_in(row, FIXTURE).tolist() for row in pictures] == expected
    assert valid.tolist() == [[False, True, True], [True, True, True], [True, True, False]]


def test_times_are_multiples_of_the_period() -> None:
    assert offsets_of([-0.1, 0.0, 0.3], 10.0).tolist() == [-1, 0, 3]
    assert offsets_of([1 / 30, 2 / 30], 30.0).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"multiples of the period 0.1 s, found \[0.15\]"):
        offsets_of([0.1, 0.15], 10.0)
