"""One thing is broken at a time, and `explain` must name it; the oracle is the one who broke it.

The policy was trained on the robot of `tests/fixtures/explain/world.py`, whose every input matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.contract import Contract, FieldStatistics
from pizero.diagnose.explain.explain import explain
from pizero.diagnose.explain.judgement import Explanation
from pizero.embodiment import Dimension
from pizero.models.build import build
from pizero.policy.policy import Policy
from pizero.records import write_record
from pizero.types import ActionChunk, Observation
from tests.fixtures.explain.make_policy import FOLDER, train_config
from tests.fixtures.explain.quick import quick
from tests.fixtures.explain.world import ROBOT, TASKS, Demonstration, demonstration, write

NUM_EPISODES, NUM_SAMPLES, FEWER = 36, 32, 24


@pytest.fixture(autouse=True, scope="module")
def quickly() -> Iterator[None]:
    with quick():
        yield


JOINTS = np.array([True, True, True, False])


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a user brings."""

    policy: Policy
    demonstrations: list[Demonstration]
    fps: float = ROBOT.rate
    constant_task: bool = False


def healthy(seed: int) -> Setup:
    shown = [demonstration(1_000_000 * seed + index) for index in range(NUM_EPISODES)]
    return Setup(policy=Policy.load(FOLDER), demonstrations=shown)


def explained(
    setup: Setup, folder: Path, seed: int, run: Path | None = None, *, num_samples: int = NUM_SAMPLES
) -> Explanation:
    dataset = write(folder / "dataset", setup.demonstrations, replace(ROBOT, rate=setup.fps))
    if setup.constant_task:
        dataset.task_index = np.zeros_like(dataset.task_index)
    return explain(setup.policy, dataset, files=FOLDER, run=run, num_samples=num_samples, seed=seed)


def under(setup: Setup, change: Callable[[Contract], Contract]) -> Setup:
    """Serve the policy under another contract."""
    return replace(setup, policy=Policy(setup.policy.model, change(setup.policy.contract)))


def recorded(setup: Setup, change: Callable[[Demonstration], Demonstration]) -> Setup:
    """Record all demonstrations otherwise."""
    return replace(setup, demonstrations=[change(shown) for shown in setup.demonstrations])


def scaled(field: FieldStatistics, factor: np.ndarray, shift: np.ndarray) -> FieldStatistics:
    mean, std = np.array(field.mean), np.array(field.std)
    return replace(field, mean=tuple((mean * factor + shift).tolist()), std=tuple((std * factor).tolist()))


def with_statistics(contract: Contract, state: tuple, actions: tuple) -> Contract:
    given = contract.statistics
    changed = replace(given, state=scaled(given.state, *state), actions=scaled(given.actions, *actions))
    return replace(contract, statistics=changed)


def wrong_statistics(setup: Setup) -> Setup:
    four = np.ones(4)
    return under(setup, lambda c: with_statistics(c, (1.6 * four, 0.4 * four), (2.0 * four, 0.1 * four)))


def gripper_sign(setup: Setup) -> Setup:
    return recorded(
        setup, lambda d: replace(d, actions=d.actions * np.array([1, 1, 1, -1], dtype=np.float32))
    )


def gripper_inverted(setup: Setup) -> Setup:
    return recorded(setup, lambda d: replace(d, actions=np.where(JOINTS, d.actions, 1.0 - d.actions)))


def cameras_swapped(setup: Setup) -> Setup:
    return recorded(
        setup, lambda d: replace(d, images={"front": d.images["hand"], "hand": d.images["front"]})
    )


def colors_swapped(setup: Setup) -> Setup:
    return recorded(
        setup, lambda d: replace(d, images={name: seen[..., ::-1] for name, seen in d.images.items()})
    )


def pictures_turned(setup: Setup) -> Setup:
    return recorded(
        setup, lambda d: replace(d, images={name: seen[:, ::-1, ::-1] for name, seen in d.images.items()})
    )


def relative_taken_for_absolute(setup: Setup) -> Setup:
    return under(setup, lambda c: replace(c, statistics=replace(c.statistics, action_form="recorded")))


def steps_recorded(setup: Setup) -> Setup:
    """Each action is recorded as the difference to the state of its own tick."""
    return recorded(setup, lambda d: replace(d, actions=np.where(JOINTS, d.actions - d.states, d.actions)))


def degrees(setup: Setup) -> Setup:
    factor = np.where(JOINTS, np.degrees(1.0), 1.0).astype(np.float32)
    return recorded(setup, lambda d: replace(d, states=d.states * factor, actions=d.actions * factor))


def degrees_of_the_state(setup: Setup) -> Setup:
    factor = np.where(JOINTS, np.degrees(1.0), 1.0).astype(np.float32)
    return recorded(setup, lambda d: replace(d, states=d.states * factor))


def radians(setup: Setup) -> Setup:
    """A policy whose statistics are in degrees expects degrees."""
    factor, none = np.where(JOINTS, np.degrees(1.0), 1.0), np.zeros(4)
    return under(setup, lambda c: with_statistics(c, (factor, none), (factor, none)))


def state_permuted(setup: Setup) -> Setup:
    order = [2, 0, 1, 3]
    return recorded(setup, lambda d: replace(d, states=d.states[:, order]))


def all_permuted(setup: Setup) -> Setup:
    order = [2, 0, 1, 3]
    return recorded(setup, lambda d: replace(d, states=d.states[:, order], actions=d.actions[:, order]))


def renamed(dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    return tuple(replace(dimension, name=f"leg_{dimension.name}") for dimension in dimensions)


def contract_of_another_robot(setup: Setup) -> Setup:
    four = np.ones(4)

    def change(contract: Contract) -> Contract:
        ours = contract.embodiment
        legs = replace(ours, name="legs", state=renamed(ours.state), actions=renamed(ours.actions))
        theirs = with_statistics(contract, (3.0 * four, -0.7 * four), (0.3 * four, 0.2 * four))
        return replace(theirs, embodiment=legs)

    return under(setup, change)


class Deaf(Policy):
    """A serving path in which the instruction is not wired."""

    def act(self, observation: Observation, *, noise: np.ndarray | None = None) -> ActionChunk:
        return super().act(replace(observation, instruction=TASKS[0]), noise=noise)


def instruction_not_wired(setup: Setup) -> Setup:
    return replace(setup, policy=Deaf(setup.policy.model, setup.policy.contract))


def instruction_constant(setup: Setup) -> Setup:
    return replace(setup, constant_task=True)


def instructions_exchanged(setup: Setup) -> Setup:
    other: dict[str, str] = dict(zip(TASKS, reversed(TASKS), strict=True))
    return recorded(setup, lambda d: replace(d, task=other[d.task]))


def other_rate(setup: Setup) -> Setup:
    return replace(setup, fps=2 * ROBOT.rate)


BREAKS: dict[Callable[[Setup], Setup], str] = {
    wrong_statistics: "statistics",
    gripper_sign: "gripper-sign",
    cameras_swapped: "cameras-swapped",
    relative_taken_for_absolute: "action-form",
    degrees: "degrees",
    contract_of_another_robot: "another-robot",
    instruction_not_wired: "instruction-ignored",
}

FAST = [
    wrong_statistics,
    gripper_sign,
    cameras_swapped,
    relative_taken_for_absolute,
    instruction_not_wired,
]
"""The others are slow tests, as are all of them on other data."""

MORE_BREAKS: dict[Callable[[Setup], Setup], str] = {
    gripper_inverted: "gripper-inverted",
    colors_swapped: "colors-swapped",
    pictures_turned: "pictures-turned",
    steps_recorded: "action-form",
    degrees_of_the_state: "degrees",
    radians: "radians",
    state_permuted: "state-order",
    all_permuted: "state-order",
    instruction_constant: "instruction-constant",
    instructions_exchanged: "instructions-exchanged",
    other_rate: "rate",
}


def assert_named(
    broken: Setup, code: str, folder: Path, seed: int, *, num_samples: int = NUM_SAMPLES
) -> None:
    explanation = explained(broken, folder, seed, num_samples=num_samples)
    assert not explanation.healthy
    assert [culprit.code for culprit in explanation.culprits][:1] == [code], explanation.reason


@pytest.mark.parametrize("broken", FAST, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_named(broken: Callable[[Setup], Setup], tmp_path: Path) -> None:
    assert_named(broken(healthy(1)), BREAKS[broken], tmp_path, 1, num_samples=FEWER)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("broken", BREAKS | MORE_BREAKS, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_named_on_other_data(
    broken: Callable[[Setup], Setup], seed: int, tmp_path: Path
) -> None:
    assert_named(broken(healthy(seed)), (BREAKS | MORE_BREAKS)[broken], tmp_path, seed)


def worse(setup: Setup, share: float) -> Setup:
    """Disturb every weight by a share of its tensor's spread."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in setup.policy.model.parameters():
            spread = weight.std() if weight.numel() > 1 else weight.abs()
            weight.add_(share * spread * torch.randn(weight.shape, generator=generator))
    return setup


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_named_with_a_policy_of_mediocre_skill(
    broken: Callable[[Setup], Setup], tmp_path: Path
) -> None:
    assert_named(broken(worse(healthy(4), 0.08)), BREAKS[broken], tmp_path, 4)


def assert_healthy(explanation: Explanation, *, skill: float) -> None:
    assert explanation.healthy, explanation.reason
    assert explanation.culprits == ()
    assert explanation.measured is not None
    assert explanation.measured.skill.ratio < skill


def test_a_healthy_policy_is_healthy(tmp_path: Path) -> None:
    explanation = explained(healthy(1), tmp_path, 1)
    assert_healthy(explanation, skill=0.05)
    assert explanation.remarks == ()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_health_does_not_depend_on_the_draw(seed: int, tmp_path: Path) -> None:
    assert_healthy(explained(healthy(seed), tmp_path, seed), skill=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_mediocre_policy_is_healthy(seed: int, tmp_path: Path) -> None:
    explanation = explained(worse(healthy(seed), 0.08), tmp_path, seed)
    assert_healthy(explanation, skill=0.6)
    assert explanation.measured is not None
    assert explanation.measured.skill.ratio > 0.03


def test_a_policy_that_learned_nothing_is_blamed_on_nobody(tmp_path: Path) -> None:
    setup = healthy(1)
    untrained = Policy(build(train_config().model, seed=1), setup.policy.contract)
    explanation = explained(replace(setup, policy=untrained), tmp_path, 1, num_samples=FEWER)
    assert not explanation.healthy
    assert explanation.culprits == ()
    assert "no known culprit" in explanation.reason


def test_a_contract_that_is_not_the_runs_is_named(tmp_path: Path) -> None:
    setup = healthy(1)
    write_record(tmp_path / "contract.json", setup.policy.contract)
    explanation = explained(wrong_statistics(setup), tmp_path, 1, write_run(tmp_path), num_samples=FEWER)
    assert [culprit.code for culprit in explanation.culprits] == ["contract-changed"]
    assert "statistics.state.mean[0]" in explanation.culprits[0].evidence


@pytest.mark.slow
def test_names_that_differ_are_no_fault_if_the_answers_are_right(tmp_path: Path) -> None:
    def legs(contract: Contract) -> Contract:
        robot = contract.embodiment
        named = replace(robot, name="legs", state=renamed(robot.state), actions=renamed(robot.actions))
        return replace(contract, embodiment=named)

    explanation = explained(under(healthy(1), legs), tmp_path, 1)
    assert_healthy(explanation, skill=0.05)
    assert any("leg_shoulder" in remark for remark in explanation.remarks)


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    setup = healthy(1)
    dataset = write(tmp_path / "dataset", setup.demonstrations[:2])
    with pytest.raises(ValueError, match="expected 16 samples or more to judge by, found 15"):
        explain(setup.policy, dataset, num_samples=15)
    with pytest.raises(ValueError, match=r"expected 16 frames or more .* found 14; name more"):
        explain(setup.policy, dataset, num_samples=32)


def write_run(folder: Path) -> Path:
    write_record(folder / "config.json", train_config())
    return folder
