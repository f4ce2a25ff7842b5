"""A known lag and offset come back, courses of grippers are compared, and texts by their words."""

import numpy as np
import pytest

from pizero.diagnose.doctor.motion import find_lag, mirrored
from pizero.diagnose.doctor.tasks import similar


def walk(seed: int, length: int = 200, dimensions: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(length + 80, dimensions))
    kernel = np.hanning(15)
    return np.stack([np.convolve(steps[:, i], kernel, "same").cumsum() for i in range(dimensions)], axis=1)


@pytest.mark.parametrize("lag", [-7, -1, 0, 1, 2, 15])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_known_lag_and_offset_come_back(lag: int, seed: int) -> None:
    path, offset = walk(seed), np.array([0.0, 5.0, -3.0])
    noise = np.random.default_rng(seed).normal(0, 0.01, (200, 3))
    actions, states = path[40:240] + offset, path[40 - lag : 240 - lag] + noise
    found = find_lag([(states, actions)], np.ones(3), reach=20)
    assert found is not None
    assert found.frames == lag
    assert np.abs(found.offset - offset).max() < 0.02
    assert found.correlation.min() > 0.999


def test_episodes_that_are_too_short_are_left_out() -> None:
    path = walk(0)
    assert find_lag([(path[:2], path[:2])], np.ones(3), reach=20) is None
    assert find_lag([], np.ones(3), reach=20) is None
    found = find_lag([(path[:30], path[1:31]), (path[:2], path[:2])], np.ones(3), reach=20)
    assert found is not None
    assert (found.frames, found.residual < 1e-6) == (1, True)


def test_a_copy_has_no_residual_and_noise_has() -> None:
    path = walk(3)
    same = find_lag([(path, path)], np.ones(3), reach=20)
    assert same is not None
    assert same.residual < 1e-6
    unrelated = find_lag([(path, walk(4))], np.ptp(path, axis=0), reach=20)
    assert unrelated is not None
    assert np.median(unrelated.correlation) < 0.9


OPEN_CLOSE_OPEN = np.array([0.0] * 6 + [1.0] * 8 + [0.0] * 6)


def test_the_mirror_image_of_the_usual_course_is_found() -> None:
    courses = [(number, np.roll(OPEN_CLOSE_OPEN, number % 3 - 1)) for number in range(8)]
    assert mirrored(courses) == []
    courses[5] = (5, 1 - courses[5][1])
    assert mirrored(courses) == [5]


def test_without_a_usual_course_nothing_is_told() -> None:
    rng = np.random.default_rng(0)
    assert mirrored([(number, rng.normal(size=20)) for number in range(20)]) == []
    halves = [(number, OPEN_CLOSE_OPEN if number % 2 else 1 - OPEN_CLOSE_OPEN) for number in range(8)]
    assert mirrored(halves) == []
    assert mirrored([(0, OPEN_CLOSE_OPEN), (1, 1 - OPEN_CLOSE_OPEN)]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pick up the cup", "pick up the cup."),
        ("pick up the cup", "pick  up the  cup"),
        ("open the drawer", "open the drawr"),
        ("stack the blocks", "stack the bxlocks"),
        ("u\u0308ber den Tisch", "\u00fcber den Tisch"),
    ],
)
def test_slips_of_the_pen_are_similar(one: str, other: str) -> None:
    assert len(similar(sorted({one, other, "wipe the table"}))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("put the cup left of the plate", "put the cup right of the plate"),
        ("take the red cube", "take the green cube"),
        ("unlock the door", "lock the door"),
        ("press button 12", "press button 13"),
        ("open the window", "close the window"),
        ("turn clockwise", "turn counterclockwise"),
        ("go to the red disc", "go to the red disc slowly"),
        ("window-open", "window-close"),
    ],
)
def test_different_tasks_are_not_similar(one: str, other: str) -> None:
    assert similar(sorted({one, other})) == []


def test_a_word_that_is_used_elsewhere_is_no_slip() -> None:
    texts = ["place the plate", "place the plane", "lift the plane", "lift the plate"]
    assert similar(sorted(texts)) == []
