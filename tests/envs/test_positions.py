"""Targets of the hand mean the same motion as the velocities that they were made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.envs.metaworld import MetaWorld
from pizero.envs.positions import REACH, MetaWorldPositions, target_of, velocity_of


@given(st.integers(0, 2**32 - 1))
def test_a_target_s_velocity_is_the_one_it_came_from(seed: int) -> None:
    rng = np.random.default_rng(seed)
    velocity = rng.uniform(-1.5, 1.5, (5, 4)).astype(np.float32)
    hand = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
    target = target_of(velocity, hand)
    np.testing.assert_allclose(target[:, :3] - hand, REACH * np.clip(velocity, -1, 1)[:, :3], atol=1e-6)
    np.testing.assert_allclose(velocity_of(target, hand), np.clip(velocity, -1, 1), atol=1e-5)


@pytest.mark.sim
def test_the_expert_solves_the_task_by_targets_as_by_velocities() -> None:
    """The same scene, driven both ways, goes the same way."""
    by_velocity, by_target = (
        MetaWorld("drawer-open", max_steps=60),
        MetaWorldPositions("drawer-open", max_steps=60),
    )
    by_velocity.reset(3)
    by_target.reset(3)
    solved = [False, False]
    for _ in range(60):
        solved[0] |= by_velocity.step(by_velocity.expert_action(), render=False).success
        solved[1] |= by_target.step(by_target.expert_action(), render=False).success
        np.testing.assert_allclose(by_target.inner.state(), by_velocity.state(), atol=2e-3)
        if all(solved):
            break
    assert solved == [True, True]
    by_velocity.close()
    by_target.close()
