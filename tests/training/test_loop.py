"""A run repeats itself bit for bit, goes on as if it had never stopped, and never overwrites another."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pizero.contract import Contract
from pizero.data.dataset import frames_of, split_episodes
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Samples
from pizero.data.sampler import Sampler, mixture_shares
from pizero.training import update
from pizero.training.checkpoint import part_name
from pizero.training.config import TrainConfig
from pizero.training.loop import DivergedRunError, InterruptedRunError
from tests.small import demonstrate, small_config, small_contract, small_train

NUM_STEPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("loop") / "dataset", num_episodes=20)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return small_config(num_steps=NUM_STEPS)


@pytest.fixture(scope="module")
def contract(config: TrainConfig, dataset: LeRobotDataset) -> Contract:
    return small_contract(config, dataset)


@pytest.fixture(scope="module")
def whole(
    config: TrainConfig, dataset: LeRobotDataset, contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    small_train(config, dataset, contract, folder, save_every=5)
    return folder


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_the_same_seed_gives_the_same_losses_and_weights(
    config: TrainConfig, dataset: LeRobotDataset, contract: Contract, whole: Path, tmp_path: Path
) -> None:
    small_train(config, dataset, contract, tmp_path / "run", save_every=5)
    assert_same_run(whole, tmp_path / "run")


def test_another_seed_gives_other_losses(
    dataset: LeRobotDataset, contract: Contract, whole: Path, tmp_path: Path
) -> None:
    small_train(small_config(num_steps=NUM_STEPS, seed=1), dataset, contract, tmp_path / "run")
    assert losses(tmp_path / "run") != losses(whole)


@pytest.mark.parametrize("stop_at", [1, 5, 7, 11])
def test_stopping_and_resuming_changes_nothing(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
) -> None:
    """Ctrl-C arrives within step `stop_at`: it is finished, and the next run goes on after it."""
    made = 0
    real = update.update_average

    def interrupt(*given: object) -> None:
        nonlocal made
        made += 1
        if made == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(update, "update_average", interrupt)
        with pytest.raises(InterruptedRunError, match=f"after step {stop_at}"):
            small_train(config, dataset, contract, tmp_path / "run", save_every=5)
    assert not (tmp_path / "run" / "policy").exists()
    small_train(config, dataset, contract, tmp_path / "run", save_every=5)
    assert_same_run(whole, tmp_path / "run")


def test_a_crash_between_checkpoints_loses_only_what_follows_the_last(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Samples.prepare
    made = 0

    def fail(*given: object) -> object:
        nonlocal made
        made += 1
        if made == 9:
            raise OSError("the disk is gone")
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Samples, "prepare", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            small_train(config, dataset, contract, tmp_path / "run", save_every=5)
    small_train(config, dataset, contract, tmp_path / "run", save_every=5)
    assert_same_run(whole, tmp_path / "run")


def test_a_finished_run_is_not_made_again(
    config: TrainConfig, dataset: LeRobotDataset, contract: Contract, whole: Path
) -> None:
    before = (whole / "metrics.jsonl").stat().st_mtime_ns
    assert small_train(config, dataset, contract, whole) == whole / "policy"
    assert (whole / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_folder_of_another_config_is_refused_with_the_difference(
    dataset: LeRobotDataset, contract: Contract, whole: Path
) -> None:
    with pytest.raises(ValueError, match=r"another config .*seed: 3 ≠ 0.*Nothing was changed"):
        small_train(small_config(num_steps=NUM_STEPS, seed=3), dataset, contract, whole)


def poisoned(monkeypatch: pytest.MonkeyPatch, batches: set[int]) -> None:
    """Put a number that is not finite into some of the batches, counted from 1."""
    real = Samples.prepare
    made = 0

    def poison(*given: object) -> object:
        nonlocal made
        made += 1
        prepared = real(*given)  # type: ignore[arg-type]
        if made in batches:
            prepared.batch.actions[0] = float("nan")
        return prepared

    monkeypatch.setattr(Samples, "prepare", poison)


def test_an_update_that_is_not_finite_changes_no_weight_and_names_its_samples(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poisoned(monkeypatch, {10})
    small_train(config, dataset, contract, tmp_path / "run", save_every=1, keep_last=20)
    before, after = (
        load_file(tmp_path / f"run/checkpoints/step-{step:08d}" / part_name(0, 1)) for step in (9, 10)
    )
    assert before.keys() == after.keys()
    assert any(name.startswith("average.") for name in before)
    assert all(before[name].equal(after[name]) for name in before)
    (line,) = map(json.loads, (tmp_path / "run/skipped.jsonl").read_text().splitlines())
    assert line["step"] == 10
    sampler = Sampler(
        [frames_of(split_episodes(dataset, config.held_out, config.seed)[0])],
        mixture_shares([1]),
        batch_size=config.batch_size,
        seed=config.seed,
    )
    read = [dataset.episodes[each["episode"]].start + each["frame"] for each in line["samples"]]
    assert read == sampler.step(9)[1].tolist()
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, NUM_STEPS + 1))


def test_too_many_updates_that_are_not_finite_stop_the_run(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the run is stopped and goes on in between: the count is kept."""
    poisoned(monkeypatch, {4, 8, 9})
    with pytest.raises(DivergedRunError, match=r"3 updates .* 2 are allowed.*none of them changed a weight"):
        small_train(replace(config, max_skipped=2), dataset, contract, tmp_path / "run", save_every=5)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]
    poisoned(monkeypatch, {2, 3})
    with pytest.raises(DivergedRunError, match="3 updates"):
        small_train(replace(config, max_skipped=2), dataset, contract, tmp_path / "run", save_every=5)
