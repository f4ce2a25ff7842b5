"""ALOHA's numbers in openpi's convention, forth and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array

from pizero.data import conventions
from pizero.data.actions import ActionTransform
from pizero.data.conventions import (
    ARM_LENGTH,
    CLOSED_ANGLE,
    CLOSED_WIDTH,
    HORN_RADIUS,
    OPEN_ANGLE,
    OPEN_WIDTH,
    Aloha,
    angle_to_gripper_command,
    find_convention,
    gripper_command_to_angle,
    gripper_to_angle,
)
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.data.statistics import compute_statistics
from pizero.robots import ALOHA
from tests.golden_weights import arrays

TRANSFORMS = "preprocessing/transforms.npz"


@pytest.mark.parametrize(
    ("function", "golden"),
    [
        (gripper_to_angle, "gripper/to_angular"),
        (angle_to_gripper_command, "gripper/from_angular"),
        (gripper_command_to_angle, "gripper/from_angular_inv"),
    ],
)
def test_gripper_curves_are_openpi_s(function, golden: str) -> None:
    openings = arrays(TRANSFORMS)["gripper/in"]
    np.testing.assert_allclose(function(openings), arrays(TRANSFORMS)[golden], atol=1e-12)


def test_curves_at_the_numbers_that_the_specification_states() -> None:
    np.testing.assert_allclose(
        gripper_to_angle(np.array([0.0, 0.25, 0.5, 0.75, 1.0])),
        [-1.0798655, -0.5130776, -0.1400559, 0.2233276, 0.9456528],
        atol=1e-7,
    )
    np.testing.assert_allclose(
        angle_to_gripper_command(np.array([0.0, 0.5, 1.0])), [0.5533778, 0.7900866, 1.0267954], atol=1e-7
    )


@pytest.mark.parametrize("cameras", ["1cam", "4cam"])
@pytest.mark.parametrize("adapt", [0, 1])
def test_states_and_actions_are_openpi_s(adapt: int, cameras: str) -> None:
    golden, case = arrays(TRANSFORMS), f"aloha_adapt{adapt}_{cameras}"
    convention = find_convention("aloha" if adapt else "native")
    state, actions = golden[f"{case}/in/state"], golden[f"{case}/in/actions"]
    np.testing.assert_allclose(convention.encode_state(state), golden[f"{case}/out/state"], atol=1e-12)
    np.testing.assert_allclose(convention.encode_actions(actions), golden[f"{case}/out/actions"], atol=1e-12)
    written = golden[f"{case}/outputs_in/actions"][:, :14]
    np.testing.assert_allclose(
        convention.decode_actions(written), golden[f"{case}/outputs_out/actions"], atol=1e-12
    )
    before = written.copy()
    convention.decode_actions(written)
    assert np.array_equal(written, before)


@pytest.mark.parametrize("case", ["droid_pi0", "droid_pi05", "droid_pi0_fast"])
def test_droid_s_numbers_are_its_own(case: str) -> None:
    _native_is_openpi_s(case, action_dim=8)


@pytest.mark.parametrize("case", ["libero_pi0", "libero_pi05", "libero_pi0_fast"])
def test_libero_s_numbers_are_its_own(case: str) -> None:
    _native_is_openpi_s(case, action_dim=7)


def _native_is_openpi_s(case: str, *, action_dim: int) -> None:
    golden, convention = arrays(TRANSFORMS), find_convention("native")
    written = convention.encode_actions(golden[f"{case}/in/actions"])
    assert np.array_equal(written, golden[f"{case}/out/actions"])
    executed = convention.decode_actions(golden[f"{case}/outputs_in/actions"][:, :action_dim])
    assert np.array_equal(executed, golden[f"{case}/outputs_out/actions"])


def without_arcsin(opening: np.ndarray) -> np.ndarray:
    width = CLOSED_WIDTH + opening * (OPEN_WIDTH - CLOSED_WIDTH)
    cosine = (HORN_RADIUS**2 + width**2 - ARM_LENGTH**2) / (2 * HORN_RADIUS * width)
    return (cosine - CLOSED_ANGLE) / (OPEN_ANGLE - CLOSED_ANGLE)


@pytest.mark.parametrize(
    ("name", "variant", "least"),
    [
        ("gripper_to_angle", without_arcsin, 1e-3),
        ("gripper_to_angle", lambda opening: opening, 1e-2),
        ("gripper_command_to_angle", lambda command: command, 1e-2),
        ("angle_to_gripper_command", lambda angle: angle, 1e-2),
        ("JOINT_SIGNS", np.ones(14), 1e-2),
        ("JOINT_SIGNS", np.roll(conventions.JOINT_SIGNS, 1), 1e-2),
        ("GRIPPERS", (5, 12), 1e-2),
    ],
)
def test_a_wrong_variant_is_caught(
    name: str, variant: object, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one moves a golden state, action or output by far more than the 1e-12 that the tests allow."""
    monkeypatch.setattr(conventions, name, variant)
    golden, wrong, case = arrays(TRANSFORMS), Aloha(), "aloha_adapt1_4cam"
    off = [
        wrong.encode_state(golden[f"{case}/in/state"]) - golden[f"{case}/out/state"],
        wrong.encode_actions(golden[f"{case}/in/actions"]) - golden[f"{case}/out/actions"],
        wrong.decode_actions(golden[f"{case}/outputs_in/actions"][:, :14])
        - golden[f"{case}/outputs_out/actions"],
    ]
    assert max(np.abs(each).max() for each in off) > least


def test_the_convention_is_of_fourteen_numbers() -> None:
    with pytest.raises(ValueError, match=r"of 14 numbers.*found 1; other robots' is 'native'"):
        Aloha().encode_state(np.zeros(1))


class Columns(LeRobotDataset):
    """One episode in memory: what statistics are taken of."""

    def __init__(self, states: np.ndarray, actions: np.ndarray) -> None:
        self.states, self.actions, self.num_frames = states, actions, len(states)
        self.episode_index = np.zeros(len(states), dtype=np.int64)
        self.columns = {"observation.state": states, "action": actions}
        self.episodes = (
            EpisodeInfo(index=0, start=0, length=len(states), tasks=(), data=Path("none.parquet"), videos={}),
        )

    def blocks(self, keys: Sequence[str]) -> Iterator[tuple[Sequence[EpisodeInfo], dict[str, np.ndarray]]]:
        yield self.episodes, {key: self.columns[key] for key in keys}


def test_statistics_are_written_in_the_convention() -> None:
    rng = np.random.default_rng(0)
    states, actions = (rng.uniform(0, 1, (9, 14)).astype(np.float32) for _ in range(2))
    dataset = Columns(states, actions)
    found = compute_statistics(dataset, ALOHA, action_form="relative", convention="aloha")
    written = Aloha().encode_state(states)
    expected = Aloha().encode_actions(actions) - np.where(
        np.isin(np.arange(14), conventions.GRIPPERS), 0.0, written
    )
    np.testing.assert_allclose(found.state.mean, written.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.actions.mean, expected.mean(axis=0), atol=1e-12)
    assert found != compute_statistics(dataset, ALOHA, action_form="relative")


@given(any_array(np.float64, (3, 14), elements=st.floats(-3, 3)))
def test_actions_come_back(actions: np.ndarray) -> None:
    convention = Aloha()
    np.testing.assert_allclose(
        convention.decode_actions(convention.encode_actions(actions)), actions, atol=1e-12
    )


def test_a_relative_chunk_goes_through_both_and_comes_back() -> None:
    """As in openpi: convention first, then relative to the state in that convention."""
    rng = np.random.default_rng(0)
    state, actions = rng.uniform(0, 1, 14), rng.uniform(0, 1, (5, 14))
    convention, transform = Aloha(), ActionTransform("relative", ALOHA)
    written = convention.encode_state(state)
    relative = transform.encode(convention.encode_actions(actions), written)
    again = convention.decode_actions(transform.decode(relative, written))
    np.testing.assert_allclose(again, actions, atol=1e-12)
    np.testing.assert_allclose(relative[:, 1], -actions[:, 1] + state[1], atol=1e-12)
