"""A chunk says where it leads, and comes back exactly."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pizero.contract import ActionForm
from pizero.data.actions import ActionTransform
from pizero.data.dataset import action_windows
from pizero.data.lerobot_columns import column_blocks
from pizero.data.rotations import ROTATION_KINDS, RotationKind
from pizero.data.statistics import compute_statistics, field_statistics
from pizero.embodiment import ROTATION_LENGTHS, Camera, Dimension, DimensionKind, Embodiment
from pizero.robots import ALOHA, DROID, LIBERO, METAWORLD, NAVIGATION2D
from tests.data.test_rotations import draw, matrix_of
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
    assert np.array_equal(transform.subtracted, mask)
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
    assert replace(found.state, floor=()) == field_statistics(dataset.states)
    assert found.state.floor == (0.01, 0.01)
    assert (found.action_form, found.horizon) == ("relative", 3)


def test_relative_actions_need_a_state_as_wide() -> None:
    narrow = replace(METAWORLD, state=METAWORLD.state[:2])
    ActionTransform("relative", narrow, absolute=("hand_dz",))
    with pytest.raises(ValueError, match="metaworld has 4 and 2, none for hand_dz: name them as absolute"):
        ActionTransform("relative", narrow)


def hand_of(kind: RotationKind) -> Embodiment:
    """Return a hand with a position, a rotation, a wrist angle and a gripper."""

    def dimension(name: str, kind: DimensionKind) -> Dimension:
        return Dimension(name=name, unit="", kind=kind, low=-10.0, high=10.0)

    turned = [dimension(f"r{index}", kind) for index in range(ROTATION_LENGTHS[kind])]
    numbers = [
        dimension("x", "position"),
        *turned,
        dimension("wrist", "angle"),
        dimension("gripper", "gripper"),
    ]
    return Embodiment(
        name="hand",
        state=(dimension("clock", "position"), *numbers),
        actions=tuple(numbers),
        cameras=(Camera(name="top", height=8, width=8),),
        rate=10.0,
    )


@pytest.mark.parametrize("kind", ROTATION_KINDS)
@given(seed=st.integers(0, 2**32 - 1))
def test_relative_poses_turn_with_the_hand_and_come_back(kind: RotationKind, seed: int) -> None:
    """Absolute → relative → absolute from any state: positions by difference, grippers as they are."""
    rng = np.random.default_rng(seed)
    size = ROTATION_LENGTHS[kind]
    robot, chunk = hand_of(kind), []
    state = np.concatenate([[9.0], rng.normal(size=1), draw(kind, rng), rng.uniform(-9, 9, 1), [0.3]])
    for _ in range(5):
        pose = [rng.normal(size=1), draw(kind, rng), state[-2:-1] + rng.uniform(-3, 3, 1), rng.random(1)]
        chunk.append(np.concatenate(pose))
    actions = np.stack(chunk)
    transform = ActionTransform("relative", robot)
    written = transform.encode(actions, state)
    np.testing.assert_allclose(written[:, 0], actions[:, 0] - state[1])
    np.testing.assert_array_equal(written[:, -1], actions[:, -1])
    np.testing.assert_allclose(written[:, -2], actions[:, -2] - state[-2])
    hand = matrix_of(kind, state[2 : 2 + size])
    back = transform.decode(written, state)
    for step in range(5):
        target = matrix_of(kind, actions[step, 1 : 1 + size])
        np.testing.assert_allclose(matrix_of(kind, written[step, 1 : 1 + size]), hand.T @ target, atol=1e-9)
        np.testing.assert_allclose(matrix_of(kind, back[step, 1 : 1 + size]), target, atol=1e-9)
    others = [0, -2, -1]
    np.testing.assert_allclose(back[:, others], actions[:, others], atol=1e-12)


def test_an_angle_recorded_over_the_seam_is_a_small_step() -> None:
    transform = ActionTransform("relative", hand_of("axis_angle"))
    state = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 3.1, 0.0])
    action = np.array([[0.0, 0.1, 0.2, 0.3, -3.1, 0.0]])
    written = transform.encode(action, state)
    assert written[0, 4] == pytest.approx(2 * np.pi - 6.2)
    assert transform.decode(written, state)[0, 4] == pytest.approx(2 * np.pi - 3.1)


def test_named_dimensions_stay_absolute() -> None:
    rng = np.random.default_rng(0)
    actions, state = rng.normal(size=(4, 14)), rng.normal(size=14)
    names = ("left_waist", "right_elbow")
    plain = ActionTransform("relative", ALOHA).encode(actions, state)
    written = ActionTransform("relative", ALOHA, absolute=names).encode(actions, state)
    kept = [dimension.name in names for dimension in ALOHA.actions]
    np.testing.assert_array_equal(written[:, kept], actions[:, kept])
    np.testing.assert_array_equal(written[:, np.logical_not(kept)], plain[:, np.logical_not(kept)])
    with pytest.raises(ValueError, match=r"aloha has no action 'left_wast': did you mean 'left_waist'"):
        ActionTransform("relative", ALOHA, absolute=("left_wast",))


def test_half_a_rotation_is_not_absolute() -> None:
    with pytest.raises(ValueError, match=r"absolute as a whole or not at all: look at r0, r1, r2 of hand"):
        ActionTransform("relative", hand_of("axis_angle"), absolute=("r1",))


def test_blocks_give_the_statistics_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory is not another result: blocks of a few frames, and numpy on all windows at once."""
    dataset = demonstrate(tmp_path / "data", num_episodes=5)
    monkeypatch.setattr("pizero.data.statistics.VALUES_AT_A_TIME", 20)
    monkeypatch.setattr("pizero.data.lerobot.column_blocks", functools.partial(column_blocks, min_frames=7))
    found = compute_statistics(dataset, NAVIGATION2D, action_form="displacement", horizon=4)
    transform = ActionTransform("displacement", NAVIGATION2D)
    actions, valid = action_windows(dataset, np.arange(dataset.num_frames), 4)
    exact = transform.encode(actions, dataset.states)[valid].astype(np.float64)
    np.testing.assert_allclose(found.actions.q01, np.quantile(exact, 0.01, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.actions.q99, np.quantile(exact, 0.99, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.actions.mean, exact.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.actions.std, exact.std(axis=0), rtol=1e-9)
    assert found.actions.count == len(exact)
