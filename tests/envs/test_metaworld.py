"""Meta-World as an environment: it repeats exactly, hides the goal, and its experts succeed."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pizero.envs.metaworld import FILM_CAMERA, TASKS, VIEWS, MetaWorld
from pizero.robots import METAWORLD, Camera
from pizero.types import Observation

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(find_spec("metaworld") is None, reason="needs pip install pizero[metaworld]"),
]

ROOT = Path(__file__).parents[2]
STUDIED_TASKS = ("button-press-topdown", "door-open", "drawer-open", "reach", "window-open")

ANOTHER_PROCESS = """
from pizero.envs.metaworld import MetaWorld
from tests.envs.test_metaworld import episode_fingerprint
environment = MetaWorld("door-open")
print(episode_fingerprint(environment, 7))
"""


@pytest.fixture(scope="module")
def reach() -> Iterator[MetaWorld]:
    environment = MetaWorld("reach")
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def door() -> Iterator[MetaWorld]:
    environment = MetaWorld("door-open")
    yield environment
    environment.close()


def fingerprint(observation: Observation) -> str:
    digest = hashlib.sha256(observation.state.tobytes())
    for name, image in observation.images.items():
        digest.update(name.encode() + image.tobytes())
    return digest.hexdigest()


def episode_fingerprint(environment: MetaWorld, seed: int, num_steps: int = 20) -> str:
    """Hash the first and last observation, and all states and expert's actions in between."""
    digest = hashlib.sha256(fingerprint(environment.reset(seed)).encode())
    for _ in range(num_steps):
        action = environment.expert_action()
        environment.step(action, render=False)
        digest.update(action.tobytes())
    digest.update(fingerprint(environment.observe()).encode())
    return digest.hexdigest()


def finger_pixel(image: np.ndarray) -> np.ndarray:
    """Return the mean (row, column) of the cyan finger."""
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    rows, columns = np.nonzero((green > 100) & (blue > 100) & (red < 60))
    assert len(rows) >= 5
    return np.array([rows.mean(), columns.mean()])


def test_an_episode_repeats_to_the_bit_after_others_and_in_another_process(door: MetaWorld) -> None:
    first = episode_fingerprint(door, 7)
    other = episode_fingerprint(door, 8, num_steps=60)
    assert other != first
    assert episode_fingerprint(door, 7) == first
    answer = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == first
    assert answer.stderr == ""  # the environment there was never closed: leaving it open must not print


def test_observation_has_the_shapes_of_the_embodiment(reach: MetaWorld) -> None:
    observation = reach.reset(0)
    assert tuple(observation.images) == METAWORLD.camera_names == tuple(VIEWS)
    for camera in METAWORLD.cameras:
        image = observation.images[camera.name]
        assert image.shape == (camera.height, camera.width, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
    assert observation.state.shape == (4,)
    assert observation.state.dtype == np.float32
    assert observation.instruction == "reach the red ball"


def test_state_is_the_hand_and_the_gripper_within_the_limits(door: MetaWorld) -> None:
    door.reset(3)
    limits = np.array([(dimension.low, dimension.high) for dimension in METAWORLD.state])
    openings = []
    for gripper_effort in [-1.0] * 5 + [1.0] * 10:
        step = door.step(np.array([0.3, 0.5, -0.2, gripper_effort], np.float32), render=False)
        assert step.observation is None
        state = door.observe().state
        np.testing.assert_allclose(state[:3], door._simulation.data.body("hand").xpos, atol=1e-6)
        assert (state >= limits[:, 0]).all()
        assert (state <= limits[:, 1]).all()
        openings.append(state[3])
    assert openings[4] > 0.9
    assert openings[-1] < 0.5


def test_the_goal_shows_in_both_pictures_and_nowhere_else(reach: MetaWorld) -> None:
    before = reach.reset(0)
    reach._simulation._target_pos = np.array([0.05, 0.85, 0.1])
    reach._model.site("goal").pos = reach._simulation._target_pos
    reach._mujoco.mj_forward(reach._model, reach._simulation.data)
    after = reach.observe()
    np.testing.assert_array_equal(before.state, after.state)
    assert before.instruction == after.instruction
    for name in VIEWS:
        assert (before.images[name] != after.images[name]).any(axis=2).sum() > 10


def test_different_seeds_look_different(reach: MetaWorld) -> None:
    assert len({fingerprint(reach.reset(seed)) for seed in range(5)}) == 5


def test_pictures_are_upright_and_unmirrored(reach: MetaWorld) -> None:
    def finger_moves(action: list[float]) -> dict[str, np.ndarray]:
        before = reach.reset(0).images
        for _ in range(3):
            reach.step(np.array(action, np.float32), render=False)
        after = reach.observe().images
        return {name: finger_pixel(after[name]) - finger_pixel(before[name]) for name in VIEWS}

    raised, forward = finger_moves([0, 0, 1, 0]), finger_moves([0, 1, 0, 0])
    assert raised["right"][0] < -5
    assert raised["left"][0] < -5
    assert forward["right"][1] > 5
    assert forward["left"][1] < -5


def test_filming_changes_nothing_else(reach: MetaWorld) -> None:
    before = fingerprint(reach.reset(0))
    picture = reach.picture()
    assert picture.shape == (FILM_CAMERA.height, FILM_CAMERA.width, 3)
    assert picture.std() > 10
    assert fingerprint(reach.observe()) == before


@pytest.mark.parametrize("task", STUDIED_TASKS)
def test_the_expert_succeeds(task: str) -> None:
    environment = MetaWorld(task)
    for seed in range(3):
        environment.reset(seed)
        first = environment.step(np.zeros(4, np.float32), render=False)
        assert not first.success
        steps = (environment.step(environment.expert_action(), render=False) for _ in range(100))
        assert any(step.success for step in steps), f"seed {seed}"
    environment.close()


def test_the_episode_ends_at_the_step_limit_only() -> None:
    environment = MetaWorld("reach", max_steps=40)
    environment.reset(0)
    steps = [environment.step(environment.expert_action(), render=False) for _ in range(40)]
    assert any(step.success for step in steps[:-1])
    assert [step.done for step in steps] == [False] * 39 + [True]
    with pytest.raises(ValueError, match=r"call reset\(seed\)"):
        environment.step(np.zeros(4, np.float32))
    environment.close()
    environment.close()
    with pytest.raises(ValueError, match="closed"):
        environment.reset(0)


def test_control_rate_sets_repeats_and_limit() -> None:
    environment = MetaWorld("reach", embodiment=replace(METAWORLD, rate=40.0))
    assert (environment.action_repeat, environment.max_steps) == (2, 250)
    environment.close()
    with pytest.raises(ValueError, match="30 Hz"):
        MetaWorld("reach", embodiment=replace(METAWORLD, rate=30.0))


def test_cameras_of_the_simulator_and_sizes_per_camera() -> None:
    cameras = (Camera(name="corner2", height=48, width=64), Camera(name="left", height=32, width=32))
    environment = MetaWorld("reach", embodiment=replace(METAWORLD, cameras=cameras))
    images = environment.reset(0).images
    assert {name: image.shape for name, image in images.items()} == {
        "corner2": (48, 64, 3),
        "left": (32, 32, 3),
    }
    assert all(image.std() > 10 for image in images.values())
    environment.close()


def test_mistakes_are_named(reach: MetaWorld) -> None:
    reach.reset(0)
    with pytest.raises(ValueError, match="did you mean 'drawer-open'"):
        MetaWorld("drawr-open")
    with pytest.raises(ValueError, match="no camera 'corner7': did you mean 'corner'"):
        MetaWorld(
            "reach", embodiment=replace(METAWORLD, cameras=(Camera(name="corner7", height=8, width=8),))
        )
    with pytest.raises(ValueError, match="4 state and 4 action dimensions"):
        MetaWorld("reach", embodiment=replace(METAWORLD, state=METAWORLD.state[:3]))
    with pytest.raises(ValueError, match="4 finite numbers"):
        reach.step(np.array([0.0, np.nan, 0.0, 0.0], np.float32))
    with pytest.raises(ValueError, match="0 or more"):
        reach.reset(-1)


def test_every_task_has_its_own_instruction() -> None:
    assert len(TASKS) == 50
    assert len({task.instruction for task in TASKS.values()}) == 50
