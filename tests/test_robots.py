"""The catalog: every robot is complete, and survives as a record."""

from __future__ import annotations

import pytest

from pizero.records import from_data, to_data
from pizero.robots import CATALOG, Embodiment, find_embodiment


@pytest.mark.parametrize("name", CATALOG)
def test_an_embodiment_is_complete(name: str) -> None:
    embodiment = find_embodiment(name)
    assert embodiment.name == name
    for dimensions in (embodiment.state, embodiment.actions):
        names = [dimension.name for dimension in dimensions]
        assert len(set(names)) == len(names)
        assert all(dimension.low < dimension.high for dimension in dimensions)
        assert all(dimension.unit for dimension in dimensions)
    assert len(set(embodiment.camera_names)) == len(embodiment.cameras)
    assert any(camera.required for camera in embodiment.cameras)
    assert embodiment.rate > 0
    assert from_data(Embodiment, to_data(embodiment)) == embodiment


@pytest.mark.parametrize(
    ("name", "state_dim", "action_dim"), [("aloha", 14, 14), ("droid", 8, 8), ("libero", 8, 7)]
)
def test_widths_are_those_of_the_published_checkpoints(name: str, state_dim: int, action_dim: int) -> None:
    embodiment = find_embodiment(name)
    assert (embodiment.state_dim, embodiment.action_dim) == (state_dim, action_dim)


def test_numbers_that_a_relative_action_is_taken_of_mean_the_same() -> None:
    """Dimension i of ALOHA's actions is where dimension i of its state is; increments are velocities."""
    aloha, libero = find_embodiment("aloha"), find_embodiment("libero")
    assert aloha.state == aloha.actions
    assert [dimension.kind for dimension in aloha.actions] == ([*["joint"] * 6, "gripper"] * 2)
    assert [dimension.kind for dimension in libero.actions] == [*["velocity"] * 6, "gripper"]


def test_optional_cameras_are_aloha_s_wrists() -> None:
    optional = {
        (name, camera.name)
        for name, embodiment in CATALOG.items()
        for camera in embodiment.cameras
        if not camera.required
    }
    assert optional == {("aloha", "cam_left_wrist"), ("aloha", "cam_right_wrist")}


def test_an_unknown_robot_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown embodiment 'drod': did you mean 'droid'"):
        find_embodiment("drod")
