"""A chunk says where it leads, and comes back exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pizero.contract import ActionForm
from pizero.data.actions import ActionTransform
from pizero.data.statistics import compute_statistics, field_statistics
from pizero.robots import ALOHA, DROID, LIBERO, METAWORLD, NAVIGATION2D, Embodiment
from tests.golden_weights import arrays as golden
from tests.small import demonstrate

TRANSFORMS = "preprocessing/transforms.npz"
CHUNKS = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.floats(-1, 1, width=32))


@given(chunk=CHUNKS, form=st.sampled_from(["recorded", "displacement", "relative"]))
def test_decode_undoes_encode(chunk: np.ndarray, form: ActionForm) -> None:
    transform = ActionTransform(form, METAWORLD)
    state = np.array([0.3, -0.2, 0.9, 0.5])
    decoded = transform.decode(transform.encode(chunk, state), state)
    np.testing.assert_allclose(decoded, chunk, atol=1e-12)


def test_displacement_is_where_the_steps_lead_and_leaves_the_gripper() -> None:
    chunk = np.array([[1.0, 0.5, -1.0, 1.0], [1.0, -0.5, 0.0, -1.0], [0.5, 0.0, 1.0, 1.0]])
    expected = [[1.0, 0.5, -1.0, 1.0], [2.0, 0.0, -1.0, -1.0], [2.5, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(ActionTransform("displacement", METAWORLD).encode(chunk, np.ones(4)), expected)


def test_displacements_of_a_point_are_its_positions() -> None:
    """Outside truth: a point that adds a tenth of each action to its position is where the encoding says."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(6, 2))
    position = start = np.array([0.4, 0.6])
    encoded = ActionTransform("displacement", NAVIGATION2D).encode(actions, start)
    for action, displacement in zip(actions, encoded, strict=True):
        position = position + 0.1 * action
        np.testing.assert_allclose(position - start, 0.1 * displacement)


def test_recorded_changes_nothing() -> None:
    chunk = np.random.default_rng(0).normal(size=(2, 5, 4))
    assert ActionTransform("recorded", METAWORLD).encode(chunk, np.ones((2, 4))) == pytest.approx(
        chunk, abs=0
    )


@pytest.mark.parametrize(("case", "embodiment"), [("delta0", ALOHA), ("delta1", LIBERO), ("delta2", DROID)])
def test_relative_actions_are_openpi_s_delta_actions(case: str, embodiment: Embodiment) -> None:
    """openpi names the dimensions by a mask; ours are all but the grippers."""
    values = {
        name.removeprefix(f"{case}/"): array for name, array in golden(TRANSFORMS).items() if case in name
    }
    transform = ActionTransform("relative", embodiment)
    dim = embodiment.action_dim
    mask = np.zeros(dim, dtype=bool)
    mask[: len(values["mask"])] = values["mask"]
    assert np.array_equal(transform.relative, mask)
    actions, state = values["actions"][:, :dim], values["state"]
    np.testing.assert_allclose(transform.encode(actions, state), values["delta_actions"][:, :dim], atol=1e-12)
    again = transform.decode(values["delta_actions"][:, :dim], state)
    np.testing.assert_allclose(again, values["absolute_actions"][:, :dim], atol=1e-12)


def test_relative_actions_are_of_each_chunk_s_own_state() -> None:
    transform = ActionTransform("relative", ALOHA)
    rng = np.random.default_rng(0)
    actions, states = rng.normal(size=(3, 5, 14)), rng.normal(size=(3, 14))
    together = transform.encode(actions, states)
    for row in range(3):
        np.testing.assert_allclose(together[row], transform.encode(actions[row], states[row]))


def test_a_relative_gripper_would_be_caught() -> None:
    """A wrong variant: delta on every number. The golden values tell it apart at the grippers only."""
    values = golden(TRANSFORMS)
    wrong = values["delta0/actions"] - values["delta0/state"]
    off = np.abs(wrong - values["delta0/delta_actions"]).max(axis=0)
    assert np.flatnonzero(off > 1e-12).tolist() == [6, 13]
    assert (off[[6, 13]] > 1e-3).all()


def test_statistics_of_relative_actions_take_each_window_s_first_state(tmp_path: Path) -> None:
    dataset = demonstrate(tmp_path / "data", num_episodes=2)
    found = compute_statistics(dataset, NAVIGATION2D, action_form="relative", horizon=3)
    rows = [
        dataset.actions[frame + step].astype(np.float64) - dataset.states[frame]
        for episode in dataset.episodes
        for frame in range(episode.start, episode.end)
        for step in range(min(3, episode.end - frame))
    ]
    expected = field_statistics(np.stack(rows))
    assert found.actions.count == len(rows)
    np.testing.assert_allclose(found.actions.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(found.actions.q99, expected.q99, atol=1e-6)
    assert found.state == field_statistics(dataset.states)
    assert (found.action_form, found.horizon) == ("relative", 3)


def test_relative_actions_need_a_state_as_wide() -> None:
    narrow = replace(METAWORLD, state=METAWORLD.state[:3])
    with pytest.raises(ValueError, match="metaworld has 4 and 3"):
        ActionTransform("relative", narrow)
