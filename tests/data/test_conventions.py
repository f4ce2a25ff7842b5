"""ALOHA's numbers in openpi's convention, forth and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array

from pizero.data.actions import ActionTransform
from pizero.data.conventions import (
    Aloha,
    angle_to_gripper_command,
    find_convention,
    gripper_command_to_angle,
    gripper_to_angle,
)
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
