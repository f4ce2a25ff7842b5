"""Thumbnails are those of the pictures asked for; frozen and swapped cameras are judged rightly."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import Feature
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.diagnose.doctor.pictures import _parts, _Run, frozen_runs, swapped_episodes
from pizero.diagnose.doctor.thumbnails import COLUMNS, ROWS, EmbeddedThumbnails, VideoThumbnails
from tests.diagnose.clean_dataset import write_video

KEY = "observation.images.top"


def plain(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("group_size", [7, 100, 1000])
def test_embedded_pictures_are_found_by_their_rows(tmp_path: Path, group_size: int) -> None:
    path = tmp_path / "file.parquet"
    cells = [{"bytes": png(plain(row)), "path": None} for row in range(150)]
    pq.write_table(pa.table({KEY: cells, "other": list(range(150))}), path, row_group_size=group_size)
    feature = Feature(dtype="image", shape=(48, 64, 3))
    reader = EmbeddedThumbnails(path, KEY, feature, first_frame=1000)
    first = EpisodeInfo(index=0, start=1000, length=90, tasks=(), data=path, videos={})
    second = EpisodeInfo(index=1, start=1090, length=60, tasks=(), data=path, videos={})
    for episode, steps in (
        (first, range(32)),
        (first, range(31, 40)),
        (first, range(80, 81)),
        (second, range(3, 60)),
    ):
        found = reader.read(episode, steps)
        assert found.shape == (len(steps), ROWS, COLUMNS, 3)
        expected = [episode.start - 1000 + step for step in steps]
        assert found.mean(axis=(1, 2, 3)).tolist() == expected
    wrong = EmbeddedThumbnails(path, KEY, Feature(dtype="image", shape=(48, 48, 3)), first_frame=1000)
    with pytest.raises(DatasetError, match=r"is of 64×48, info\.json says 48×48"):
        wrong.read(first, [5])


def test_pictures_of_a_video_are_found_by_their_times(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, [plain(20 + 6 * frame) for frame in range(39)], fps=10)
    video = VideoThumbnails(path)
    for frames in ([0, 1, 2], [7, 8], [38], [30, 31, 32, 33]):
        found = video.read([frame / 10 for frame in frames])
        assert np.abs(found.mean(axis=(1, 2, 3)) - [20 + 6 * frame for frame in frames]).max() < 3
    with pytest.raises(DatasetError, match=r"no picture at 3\.850 s"):
        video.read([3.85])
    video.close()


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 64, 100])
def test_parts_of_a_run_hold_every_step(length: int) -> None:
    parts = list(_parts(range(10, 10 + length)))
    steps = {(frame, frame + 1) for part in parts for frame in part[:-1]}
    assert steps == {(frame, frame + 1) for frame in range(10, 9 + length)}
    assert {frame for part in parts for frame in part} == set(range(10, 10 + length))


def run_of(changes: np.ndarray, speed: np.ndarray, episode: int = 0) -> _Run:
    states = np.concatenate([[0.0], np.cumsum(speed)])[:, None]
    return _Run(episode=episode, first=0, changes=changes, states=states)


def test_a_picture_that_stops_while_the_robot_moves_is_frozen() -> None:
    rng = np.random.default_rng(0)
    changes = rng.uniform(4, 8, 60)
    changes[20:30] = rng.uniform(0, 0.3, 10)
    assert frozen_runs([run_of(changes, np.full(60, 0.01))]) == [(0, 20, 11)]


def test_a_picture_that_stops_with_the_robot_is_not() -> None:
    rng = np.random.default_rng(0)
    changes, speed = rng.uniform(4, 8, 60), np.full(60, 0.01)
    changes[20:30], speed[20:30] = 0.0, rng.normal(0, 1e-5, 10)
    assert frozen_runs([run_of(changes, speed)]) == []


def test_a_camera_that_does_not_see_the_robot_is_not_judged() -> None:
    changes = np.random.default_rng(0).uniform(0, 0.2, 60)
    changes[20:30] = 0
    assert frozen_runs([run_of(changes, np.full(60, 0.01))]) == []


def scenes(rng: np.random.Generator, base: np.ndarray, count: int, spread: float) -> dict[int, np.ndarray]:
    return {index: base + rng.normal(0, spread, base.shape) for index in range(count)}


@pytest.mark.parametrize("swapped", [[4], [0], [9], [3, 4, 5], [7, 8, 9], [2, 6], []])
def test_swapped_cameras_are_told_apart(swapped: list[int]) -> None:
    rng = np.random.default_rng(1)
    one = scenes(rng, rng.uniform(0, 255, (6, 8, 3)), 10, 15)
    other = scenes(rng, rng.uniform(0, 255, (6, 8, 3)), 10, 40)
    for index in swapped:
        one[index], other[index] = other[index], one[index]
    assert swapped_episodes(range(10), one, other) == swapped


def test_cameras_that_look_alike_and_a_change_of_light_are_no_swap() -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(0, 255, (6, 8, 3))
    alike = [scenes(rng, base, 30, 20) for _ in range(2)]
    assert swapped_episodes(range(30), *alike) == []
    one, other = (scenes(rng, rng.uniform(50, 200, (6, 8, 3)), 30, 10) for _ in range(2))
    for index in range(15, 30):
        one[index], other[index] = one[index] * 0.5, other[index] * 0.5
    assert swapped_episodes(range(30), one, other) == []
