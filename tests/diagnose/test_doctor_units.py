"""Numbers in another unit are told with a guess that fits; those in the right one pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.data.lerobot_features import ACTION, COUNTERS, STATE, Feature
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.diagnose.doctor.columns import EpisodeNumbers, Numbers
from pizero.diagnose.doctor.findings import Findings
from pizero.diagnose.doctor.source import Source
from pizero.diagnose.doctor.units import check_units, meanings
from pizero.robots import ALOHA, CATALOG, METAWORLD

NAMED = Path("dataset")


def examined(
    robot: str, names: tuple[str, ...], rows: list[np.ndarray], key: str = STATE
) -> list[tuple[str, str]]:
    """Return codes and texts for episodes of that robot with these states."""
    episodes = tuple(
        EpisodeInfo(index=index, start=0, length=len(own), tasks=(), data=NAMED, videos={})
        for index, own in enumerate(rows)
    )
    info: dict[str, Any] = {"robot_type": robot}
    features = {key: Feature(dtype="float32", shape=(len(names),), names=names)} | COUNTERS
    source = Source(
        folder=NAMED, version="v3.0", info=info, fps=10.0, features=features, tasks={}, episodes=episodes
    )
    numbers = Numbers(sample={key: [own.astype(np.float64) for own in rows]}, count=sum(map(len, rows)))
    for episode, own in zip(episodes, rows, strict=True):
        low, high = own.min(axis=0).astype(np.float64), own.max(axis=0).astype(np.float64)
        numbers.episodes.append(EpisodeNumbers(episode=episode, low={key: low}, high={key: high}, digest=""))
    findings = Findings()
    check_units(source, numbers, findings)
    return [(one.code, one.what) for one in findings.found]


def within(robot: str, seed: int, count: int = 6) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return states anywhere within a robot's limits."""
    rng = np.random.default_rng(seed)
    dimensions = CATALOG[robot].state
    low, high = np.array([d.low for d in dimensions]), np.array([d.high for d in dimensions])
    return tuple(d.name for d in dimensions), [rng.uniform(low, high, (50, len(low))) for _ in range(count)]


@pytest.mark.parametrize("robot", CATALOG)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_robot_of_the_catalog_may_use_its_limits(robot: str, seed: int) -> None:
    assert examined(robot, *within(robot, seed)) == []


@pytest.mark.parametrize(("scale", "unit"), [(1000, "millimetres"), (100, "millimetres or centimetres")])
def test_positions_far_beyond_metres_are_told(scale: float, unit: str) -> None:
    names, rows = within("metaworld", 0)
    factors = np.where([d.unit == "m" for d in METAWORLD.state], scale, 1)
    ((code, what),) = examined("metaworld", names, [own * factors for own in rows])
    assert code == "unit-suspect"
    assert what.endswith(f"{unit}?")


def test_joints_in_degrees_are_told_and_grippers_are_left_alone() -> None:
    names, rows = within("aloha", 0)
    factors = np.where([d.kind == "joint" for d in ALOHA.state], 180 / np.pi, 1)
    ((code, what),) = examined("aloha", names, [own * factors for own in rows])
    assert (code, what.endswith("degrees?")) == ("unit-suspect", True)


def test_one_episode_in_another_unit_is_told_as_that_alone() -> None:
    names, rows = within("aloha", 0)
    factors = np.where([d.kind == "joint" for d in ALOHA.state], 180 / np.pi, 1)
    ((code, what),) = examined("aloha", names, [*rows[:-1], rows[-1] * factors])
    assert (code, "(5)" in what) == ("unit-mixed", True)


def test_a_little_beyond_the_limits_is_a_note() -> None:
    names, rows = within("aloha", 0)
    ((code, _),) = examined("aloha", names, [own * 1.3 for own in rows])
    assert code == "limits-exceeded"


def test_an_unknown_robot_in_degrees_is_a_note_and_in_radians_nothing() -> None:
    names, rows = (
        ("shoulder_pan", "elbow_flex", "gripper"),
        [np.random.default_rng(0).uniform(-2, 2, (50, 3))],
    )
    assert examined("mine", names, rows) == []
    ((code, _),) = examined("mine", names, [own * 40 for own in rows])
    assert code == "unit-unsure"
    assert examined("mine", ("a", "b", "c"), [own * 40 for own in rows]) == []


def test_a_robot_with_another_number_of_dimensions_is_not_that_of_the_catalog() -> None:
    names, rows = within("aloha", 0)
    assert examined("aloha", names[:7], [own[:, :7] for own in rows]) == []
    features = {ACTION: Feature(dtype="float32", shape=(3,))}
    source = Source(
        folder=NAMED,
        version="v3.0",
        info={"robot_type": None},
        fps=1.0,
        features=features,
        tasks=None,
        episodes=(),
    )
    assert [one.name for one in meanings(source, ACTION)] == ["dimension 0", "dimension 1", "dimension 2"]
