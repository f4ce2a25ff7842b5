"""The parts of `explain` against closed forms: samples, errors, baselines, tests, structure, statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from pizero.contract import Contract, Statistics
from pizero.data.dataset import split_episodes
from pizero.data.lerobot import LeRobotDataset
from pizero.data.statistics import compute_statistics
from pizero.diagnose.explain.ablations import ablate
from pizero.diagnose.explain.answers import dimension_errors
from pizero.diagnose.explain.explain import explain
from pizero.diagnose.explain.inputs import seen
from pizero.diagnose.explain.orders import proposed_orders
from pizero.diagnose.explain.repairs import Repair
from pizero.diagnose.explain.replay import AS_RECORDED, Change, Replay, Ruler
from pizero.diagnose.explain.samples import (
    Sample,
    choose_frames,
    episodes_to_replay,
    read_samples,
    run_of,
)
from pizero.diagnose.explain.statistics import fit_of
from pizero.diagnose.explain.structure import Mismatch, mismatches
from pizero.diagnose.explain.verdict import REARRANGED, Comparison, Trial, compare, explains_as_much, ranked
from pizero.policy.policy import Policy
from pizero.records import write_record
from pizero.types import ActionChunk, Observation
from tests.fixtures.explain.make_policy import FOLDER, train_config
from tests.fixtures.explain.world import HORIZON, ROBOT, TASKS, demonstration, write

NUM_EPISODES = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    folder = tmp_path_factory.mktemp("explain") / "dataset"
    return write(folder, [demonstration(seed) for seed in range(NUM_EPISODES)])


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(FOLDER)


@pytest.fixture(scope="module")
def samples(dataset: LeRobotDataset, policy: Policy) -> list[Sample]:
    frames = choose_frames(dataset.episodes, horizon=HORIZON, count=20, seed=0)
    return list(read_samples(dataset, policy.contract, frames))


def own_statistics(dataset: LeRobotDataset) -> Statistics:
    return compute_statistics(dataset, ROBOT, action_form="relative", horizon=HORIZON)


@pytest.mark.parametrize("seed", range(5))
def test_frames_come_from_all_episodes_and_chunks_do_not_overlap(dataset: LeRobotDataset, seed: int) -> None:
    frames = np.array(choose_frames(dataset.episodes, horizon=HORIZON, count=NUM_EPISODES, seed=seed))
    assert sorted(dataset.episode_index[frames].tolist()) == list(range(NUM_EPISODES))
    starts = {episode.start for episode in dataset.episodes}
    every = choose_frames(dataset.episodes, horizon=HORIZON, count=10_000, seed=seed)
    assert every != choose_frames(dataset.episodes, horizon=HORIZON, count=10_000, seed=seed + 1)
    assert sorted(every) == [frame for frame in range(dataset.num_frames) if frame not in starts]
    for index in range(NUM_EPISODES):
        own = [frame for frame in every if dataset.episode_index[frame] == index]
        apart = sorted(own[: -(-len(own) // HORIZON)])
        assert len(apart) == 2
        assert apart[1] - apart[0] >= HORIZON


def test_a_sample_is_what_the_dataset_says(dataset: LeRobotDataset, samples: list[Sample]) -> None:
    for sample in samples:
        episode = dataset.episodes[sample.episode]
        real = min(HORIZON, episode.end - sample.frame)
        assert sample.valid.tolist() == [True] * real + [False] * (HORIZON - real)
        following = dataset.actions[sample.frame : sample.frame + real]
        np.testing.assert_array_equal(sample.actions[:real], following)
        np.testing.assert_array_equal(sample.previous, dataset.actions[sample.frame - 1])
        np.testing.assert_array_equal(sample.observation.state, dataset.states[sample.frame])
        shown = demonstration(sample.episode)
        assert sample.observation.instruction == shown.task
        for camera, pictures in shown.images.items():
            picture = pictures[sample.frame - episode.start]
            np.testing.assert_array_equal(sample.observation.images[camera], picture)


def test_episodes_are_those_asked_for_or_held_out_or_all(
    dataset: LeRobotDataset, policy: Policy, tmp_path: Path
) -> None:
    contract = policy.contract
    chosen, _ = episodes_to_replay(dataset, contract, None, [3, 1, 3])
    assert [episode.index for episode in chosen] == [3, 1]
    with pytest.raises(ValueError, match="has no episode 99; it has 0 to 11"):
        episodes_to_replay(dataset, contract, None, [1, 99])
    config = replace(train_config(), held_out=0.25, seed=5)
    write_record(tmp_path / "config.json", config)
    assert run_of(tmp_path / "policy") == tmp_path
    assert run_of(tmp_path / "policies" / "robot") == tmp_path
    assert run_of(tmp_path / "a" / "b" / "c") is None
    everything, words = episodes_to_replay(dataset, contract, tmp_path, [])
    assert len(everything) == NUM_EPISODES  # it was trained on another number of frames
    assert "not known" in words
    trained = replace(contract.statistics.state, count=dataset.num_frames)
    here = replace(contract, statistics=replace(contract.statistics, state=trained))
    held_out, _ = episodes_to_replay(dataset, here, tmp_path, [])
    assert held_out == split_episodes(dataset, 0.25, 5)[1]
    assert 0 < len(held_out) < NUM_EPISODES


def test_a_policy_folder_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"type": "Pi0Config"}')
    assert run_of(tmp_path / "policy") is None


def test_the_mean_of_the_data_has_an_error_of_one(dataset: LeRobotDataset, policy: Policy) -> None:
    """Over all chunks of the dataset, the error of their mean is their variance, exactly."""
    frames = list(range(dataset.num_frames))
    every = [sample for start in frames for sample in read_samples(dataset, policy.contract, [start])]
    ruler = Ruler(policy, every, own_statistics(dataset))
    weights = ruler.valid.sum(axis=1)
    errors = ruler.errors(ruler.mean())
    assert (errors * weights).sum() / weights.sum() == pytest.approx(1.0, abs=1e-4)
    recorded = np.stack([sample.actions for sample in every])
    assert ruler.errors(recorded).max() == 0.0


def test_errors_are_blind_beyond_the_episode_and_to_what_never_moves(
    dataset: LeRobotDataset, policy: Policy, samples: list[Sample]
) -> None:
    own = own_statistics(dataset)
    still = replace(own, actions=replace(own.actions, std=(0.0, *own.actions.std[1:])))
    ruler = Ruler(policy, samples, still)
    wrong = np.stack([sample.actions for sample in samples])
    wrong[..., 0] += 3.0
    wrong[~ruler.valid] += 7.0
    assert ruler.errors(wrong).max() == 0.0
    none = replace(own, actions=replace(own.actions, std=(0.0,) * 4))
    with pytest.raises(ValueError, match="no action of the dataset ever moves"):
        Ruler(policy, samples, none)


def test_a_replay_is_the_policy_itself_and_asks_once(policy: Policy, samples: list[Sample]) -> None:
    replay = Replay(policy, samples[:3], files=FOLDER, seed=7)
    first, again = replay.act(AS_RECORDED), replay.act(AS_RECORDED)
    np.testing.assert_array_equal(first, again)
    other = replay.act(AS_RECORDED, draw=1)
    assert np.abs(other - first).max() > 0.0
    noise = replay._noise(0, 2)
    np.testing.assert_array_equal(first[2], policy.act(samples[2].observation, noise=noise))
    asked = []

    def observe(observation: Observation) -> Observation:
        asked.append(observation)
        return observation

    same = Change(name="nothing", observe=observe)
    np.testing.assert_array_equal(replay.act(same, count=2), first[:2])
    np.testing.assert_array_equal(replay.act(same), first)
    assert len(asked) == 3


def test_dimension_errors_have_closed_forms(policy: Policy, samples: list[Sample]) -> None:
    recorded = np.stack([sample.actions for sample in samples])
    predicted = recorded + np.array([0.5, 0.0, -0.25, 1.0], dtype=np.float32)
    predicted[:, 0, 1] += 2.0
    rows = dimension_errors(predicted, recorded, samples, policy.contract)
    valid = np.stack([sample.valid for sample in samples])
    assert [row.error for row in rows[::2]] == pytest.approx([0.5, 0.25], rel=1e-5)
    assert (rows[1].start, rows[1].middle, rows[1].end) == pytest.approx((2.0, 0.0, 0.0), abs=1e-6)
    assert rows[0].correlation == pytest.approx(1.0)
    assert rows[0].relative == pytest.approx(0.5 / recorded[valid][:, 0].std(), rel=1e-5)
    assert [row.mean for row in rows] == [0.0] * 4
    held = np.stack([sample.observation.state[0] for sample in samples])[:, None] - recorded[..., 0]
    assert rows[0].hold == pytest.approx(np.sqrt(np.square(held[valid]).mean()), rel=1e-5)
    before = np.stack([sample.previous[3] for sample in samples])[:, None] - recorded[..., 3]
    assert rows[3].last == pytest.approx(np.sqrt(np.square(before[valid]).mean()), rel=1e-5, abs=1e-6)


def test_a_comparison_is_the_signed_rank_test() -> None:
    """If all of n pairs fall, the exact p-value is 2⁻ⁿ."""
    before = np.linspace(1.0, 2.0, 20)
    fallen = compare(before, before * np.linspace(0.1, 0.5, 20))
    assert fallen.p_value == pytest.approx(2.0**-20)
    assert fallen.is_decisive(30)
    assert compare(before, before).p_value == 1.0
    assert not compare(before, 0.9 * before).is_decisive()  # certain, and too little
    one = before.copy()
    one[0] = 1e9
    assert not compare(one, before).is_decisive()  # one sample alone
    assert compare(np.zeros(5), np.zeros(5)).ratio == 1.0


def test_chance_blames_nobody_more_often_than_stated() -> None:
    """Under the null hypothesis, a test at 1 % is decisive in 1 % of the cases at most."""
    rng = np.random.default_rng(0)
    pairs = rng.lognormal(sigma=3.0, size=(1_000, 2, 32))
    hits = sum(compare(before, after).is_decisive() for before, after in pairs)
    assert hits <= binom.ppf(0.999, 1_000, 0.01)


def test_a_small_gain_counts_only_for_what_rearranges() -> None:
    """Ten percent, and certain: enough if the repair cannot have made the answers harmless."""
    before = np.linspace(1.0, 2.0, 20)
    gain = compare(before, 0.9 * before)
    assert gain.is_decisive(30, material=REARRANGED)
    assert not gain.is_decisive(30)
    assert not compare(before, 0.97 * before).is_decisive(material=REARRANGED)


def trial(after: float, *, num_fitted: int = 0, helps: bool = True, explains: bool = True) -> Trial:
    repair = Repair(culprit=f"{after}", title="", advice="", num_fitted=num_fitted)
    comparison = Comparison(before=1.0, after=after, p_value=1e-6)
    return Trial(repair=repair, comparison=comparison, screened=False, helps=helps, explains=explains)


def test_the_simplest_of_those_that_explain_as_much_is_first() -> None:
    fitted, plain, worse = trial(0.10, num_fitted=16), trial(0.12), trial(0.2)
    harmless, nothing = trial(0.05, explains=False), trial(0.9, helps=False, explains=False)
    found = ranked([nothing, harmless, worse, fitted, plain])
    assert found == [plain, fitted, worse, harmless, nothing]
    assert [explains_as_much(one, found) for one in found] == [True, True, False, False, False]


def test_structure_is_compared_before_anything_is_replayed(dataset: LeRobotDataset, policy: Policy) -> None:
    contract = policy.contract

    def found(changed: Contract, trained: Contract | None = None) -> list[tuple[str, str]]:
        return [(one.code, one.weight) for one in mismatches(changed, dataset, trained)]

    def with_robot(**changes: object) -> Contract:
        return replace(contract, embodiment=replace(ROBOT, **changes))

    assert found(contract) == []
    assert found(contract, contract) == []
    assert found(with_robot(rate=25.0)) == [("rate", "fault")]
    assert found(with_robot(cameras=(*ROBOT.cameras, replace(ROBOT.cameras[0], name="top")))) == [
        ("camera-missing", "fatal")
    ]
    optional = replace(ROBOT.cameras[0], name="top", required=False)
    assert found(with_robot(cameras=(*ROBOT.cameras, optional))) == [("camera-missing", "suspicion")]
    assert found(with_robot(cameras=ROBOT.cameras[:1])) == [("camera-missing", "suspicion")]
    assert found(with_robot(state=ROBOT.state[::-1])) == [("state-order", "suspicion")]
    changed = replace(contract, epsilon=1e-3)
    assert found(changed, contract) == [("contract-changed", "suspicion")]
    lines = mismatches(changed, dataset, contract)[0].evidence
    assert "epsilon: 1e-06 ≠ 0.001" in lines


def test_a_robot_with_other_numbers_is_fatal(dataset: LeRobotDataset, policy: Policy) -> None:
    statistics = policy.contract.statistics
    state = replace(statistics.state, mean=statistics.state.mean[:3], std=statistics.state.std[:3], floor=())
    three = replace(
        policy.contract,
        embodiment=replace(ROBOT, name="three", state=ROBOT.state[:3]),
        statistics=replace(statistics, state=state),
    )
    (only,) = mismatches(three, dataset, None)
    assert isinstance(only, Mismatch)
    assert (only.code, only.weight) == ("another-robot", "fatal")
    assert "three) has 3 numbers (shoulder, elbow, wrist), the dataset 4" in only.evidence


def test_empty_instructions_are_fatal_unless_the_contract_has_one(policy: Policy, tmp_path: Path) -> None:
    shown = [replace(demonstration(seed), task=" " if seed else TASKS[0]) for seed in range(2)]
    silent = write(tmp_path / "dataset", shown)
    assert [one.code for one in mismatches(policy.contract, silent, None)] == ["instruction-missing"]
    assert mismatches(replace(policy.contract, instruction="go"), silent, None) == []


def test_fits_tell_shift_scale_and_share(dataset: LeRobotDataset, policy: Policy) -> None:
    own = own_statistics(dataset)
    given = replace(
        own,
        state=replace(
            own.state,
            mean=(own.state.mean[0] + 2.0 * own.state.std[0], *own.state.mean[1:]),
            std=(own.state.std[0], own.state.std[1] / 100.0, *own.state.std[2:]),
            floor=(),
        ),
    )
    contract = replace(policy.contract, statistics=given)
    rows = fit_of(dataset, Policy(policy.model, contract).processor, own)
    assert [(row.field, row.name) for row in rows[3:5]] == [("state", "gripper"), ("actions", "shoulder")]
    assert rows[0].shift == pytest.approx(-2.0, rel=1e-4)
    assert rows[0].ratio == pytest.approx(1.0, rel=1e-4)
    assert rows[1].ratio == pytest.approx(100.0, rel=1e-2)
    far = np.abs(dataset.states[:, 1] - own.state.mean[1]) > 5.0 * own.state.std[1] / 100.0
    assert rows[1].outside == pytest.approx(far.mean(), abs=0.02)
    assert [row.outside for row in rows[2:]] == [0.0] * 6


def test_orders_are_proposed_by_name_or_by_likeness(
    dataset: LeRobotDataset, policy: Policy, tmp_path: Path
) -> None:
    own = own_statistics(dataset)
    assert proposed_orders(policy.contract, dataset, own)[0] is None
    order = [2, 0, 1, 3]
    shown = [demonstration(seed) for seed in range(NUM_EPISODES)]
    permuted = [replace(one, states=one.states[:, order]) for one in shown]
    unlabelled = write(tmp_path / "a", permuted)
    state, _ = proposed_orders(policy.contract, unlabelled, own_statistics(unlabelled))
    assert state is not None
    np.testing.assert_array_equal(unlabelled.states[:, state], dataset.states)
    robot = replace(ROBOT, state=tuple(ROBOT.state[place] for place in order))
    labelled = write(tmp_path / "b", permuted, robot)
    state, _ = proposed_orders(policy.contract, labelled, own)
    assert state is not None
    np.testing.assert_array_equal(labelled.states[:, state], dataset.states)


def test_what_the_model_sees_is_what_the_processor_gives(policy: Policy, samples: list[Sample]) -> None:
    (first, *_) = seen(policy, samples[:2])
    assert [picture.slot for picture in first.pictures] == ["front", "hand"]
    for picture in first.pictures:
        assert picture.valid
        np.testing.assert_array_equal(picture.pixels, samples[0].observation.images[picture.slot])
    assert first.prompt == samples[0].observation.instruction + "\n"
    assert first.num_tokens == len(first.prompt) + 1  # bytes, and the begin


def patch(picture: np.ndarray) -> float:
    """Return how bright the place is where a part lies in the hand's picture, or not."""
    return float(picture[24:30, 12:20].mean()) / 255.0


class Picky(Policy):
    """Answers with the brightness of a patch, and adds its noise in a known amount."""

    def act(self, observation: Observation, *, noise: np.ndarray | None = None) -> ActionChunk:
        assert noise is not None
        brightness = patch(observation.images["hand"])
        return (np.full((HORIZON, 4), brightness) + 0.01 * noise[:, :4]).astype(np.float32)


def test_ablations_find_the_only_input_that_matters(
    dataset: LeRobotDataset, policy: Policy, samples: list[Sample]
) -> None:
    picky = Picky(policy.model, policy.contract)
    own = own_statistics(dataset)
    ruler = Ruler(policy, samples, replace(own, actions=replace(own.actions, std=(1.0,) * 4)))
    found = ablate(Replay(picky, samples, files=FOLDER, seed=0), ruler, TASKS)
    changes = {one.name: one.change for one in found}
    pictures = np.stack([sample.observation.images["hand"] for sample in samples])
    blank = pictures.mean(axis=(0, 1, 2)).astype(np.uint8).mean() / 255.0
    expected = np.sqrt(np.mean([(patch(picture) - blank) ** 2 for picture in pictures]))
    assert found[0].name == "camera hand → one color"
    assert found[0].change == pytest.approx(expected, rel=1e-3)
    assert changes["camera front → one color"] == 0.0
    assert changes["instruction → blank"] == changes["instruction → another task's"] == 0.0
    assert changes["other noise"] == pytest.approx(0.01 * np.sqrt(2.0), rel=0.2)


def test_a_whole_explanation_has_the_types_it_says(dataset: LeRobotDataset, policy: Policy) -> None:
    """The other files leave types unchecked, for speed."""
    explanation = explain(policy, dataset, files=FOLDER, num_samples=16)
    assert explanation.healthy
    assert explanation.measured is not None
