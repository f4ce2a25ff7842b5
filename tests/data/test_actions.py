"""A chunk says where it leads, and comes back exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pizero.contract import ActionForm
from pizero.data.actions import ActionTransform
from pizero.robots import METAWORLD, NAVIGATION2D

CHUNKS = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.floats(-1, 1, width=32))


@given(chunk=CHUNKS, form=st.sampled_from(["recorded", "displacement"]))
def test_decode_undoes_encode(chunk: np.ndarray, form: ActionForm) -> None:
    transform = ActionTransform(form, METAWORLD)
    np.testing.assert_allclose(transform.decode(transform.encode(chunk)), chunk, atol=1e-12)


def test_displacement_is_where_the_steps_lead_and_leaves_the_gripper() -> None:
    chunk = np.array([[1.0, 0.5, -1.0, 1.0], [1.0, -0.5, 0.0, -1.0], [0.5, 0.0, 1.0, 1.0]])
    expected = [[1.0, 0.5, -1.0, 1.0], [2.0, 0.0, -1.0, -1.0], [2.5, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(ActionTransform("displacement", METAWORLD).encode(chunk), expected)


def test_displacements_of_a_point_are_its_positions() -> None:
    """Outside truth: a point that adds a tenth of each action to its position is where the encoding says."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(6, 2))
    position = start = np.array([0.4, 0.6])
    encoded = ActionTransform("displacement", NAVIGATION2D).encode(actions)
    for action, displacement in zip(actions, encoded, strict=True):
        position = position + 0.1 * action
        np.testing.assert_allclose(position - start, 0.1 * displacement)


def test_recorded_changes_nothing() -> None:
    chunk = np.random.default_rng(0).normal(size=(2, 5, 4))
    assert ActionTransform("recorded", METAWORLD).encode(chunk) == pytest.approx(chunk, abs=0)
