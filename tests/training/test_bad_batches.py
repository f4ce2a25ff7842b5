"""Numbers that are not finite change no weight, a damaged sample is named, and a stop loses no sample."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pizero.contract import Contract
from pizero.data.dataset import frames_of, split_episodes
from pizero.data.faults import DatasetError
from pizero.data.frames import DecodedFrames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Samples
from pizero.data.sampler import Sampler
from pizero.diagnose.doctor.run import examine_run
from pizero.training import loop
from pizero.training.checkpoint import part_name
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import InterruptedRunError, train
from tests.small import demonstrate, small_config, small_contract, small_source, small_train

NUM_STEPS = 5
BAD = 3
"""The step that goes wrong."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("bad") / "dataset", num_episodes=12)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return replace(small_config(num_steps=NUM_STEPS), batch_size=8, held_out=0.1)


@pytest.fixture(scope="module")
def contract(config: TrainConfig, dataset: LeRobotDataset) -> Contract:
    return small_contract(config, dataset)


def state_after(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:08d}" / part_name(0, 1))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Read lines of JSON as other programs do: RFC 8259 has no NaN and no Infinity."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def assert_only_step_skipped(run: Path, step: int) -> dict[str, Any]:
    """Nothing of the state changed in one step, and something in every other; return what was noted."""
    for made in range(2, NUM_STEPS + 1):
        before, after = state_after(run, made - 1), state_after(run, made)
        assert before.keys() == after.keys()
        assert all(before[name].equal(after[name]) for name in before) == (made == step)
    (line,) = json_lines(run / "skipped.jsonl")
    rows = json_lines(run / "metrics.jsonl")
    assert [row["gradient_norm"] is None for row in rows] == [row["step"] == step for row in rows]
    (found,) = [one for one in examine_run(run) if one.code == "loss-not-finite"]
    assert f"first of step {step}" in found.what
    assert line["step"] == step
    assert len(line["samples"]) == 8
    return line


def test_an_infinite_gradient_of_a_finite_loss_is_skipped(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = 0

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        return gradient / (0.0 if made == BAD else 1.0)

    real = loop.make_state

    def make_state(*given: Any, **named: Any) -> Any:
        state = real(*given, **named)
        state.model.get_parameter("action_out.weight").register_hook(overflow)
        return state

    monkeypatch.setattr(loop, "make_state", make_state)
    small_train(config, dataset, contract, tmp_path / "run", save_every=1, keep_last=9)
    line = assert_only_step_skipped(tmp_path / "run", BAD)
    assert math.isfinite(line["loss"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_skipped(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: float,
) -> None:
    real = Samples.prepare
    made = 0

    def prepare(*given: Any) -> Any:
        nonlocal made
        made += 1
        prepared = real(*given)
        if made == BAD:
            prepared.batch.inputs.state[2, 1] = bad
        return prepared

    monkeypatch.setattr(Samples, "prepare", prepare)
    small_train(config, dataset, contract, tmp_path / "run", save_every=1, keep_last=9)
    assert_only_step_skipped(tmp_path / "run", BAD)


def seen_batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return a list that will have, for each update, its step and a hash of all that the model is given."""
    seen: list[tuple[int, str]] = []
    real = loop.update

    def update(state: Any, batch: Any, *given: Any, step: int, **named: Any) -> Any:
        parts = (batch.inputs.images, batch.inputs.state, batch.inputs.tokens.ids, batch.actions)
        digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
        seen.append((step, digest))
        return real(state, batch, *given, step=step, **named)

    monkeypatch.setattr(loop, "update", update)
    return seen


def test_stopped_after_any_step_a_run_reads_the_same_samples_and_learns_the_same(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = seen_batches(monkeypatch)
    small_train(config, dataset, contract, tmp_path / "whole")
    expected, policy = list(seen), (tmp_path / "whole/policy/model.safetensors").read_bytes()
    assert [step for step, _ in expected] == list(range(NUM_STEPS))
    assert len({digest for _, digest in expected}) == NUM_STEPS
    counted = loop.update

    for stop_at in range(NUM_STEPS - 1):
        seen.clear()
        run = tmp_path / f"stopped{stop_at}"

        def stopped(*given: Any, step: int, stop_at: int = stop_at, **named: Any) -> Any:
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return counted(*given, step=step, **named)

        monkeypatch.setattr(loop, "update", stopped)
        with pytest.raises(InterruptedRunError, match=f"after step {stop_at + 1},"):
            small_train(config, dataset, contract, run)
        assert len(seen) == stop_at + 1
        monkeypatch.setattr(loop, "update", counted)
        small_train(config, dataset, contract, run)
        assert seen == expected
        assert (run / "policy/model.safetensors").read_bytes() == policy


class OneDamaged:
    """Pictures, of which those of one frame cannot be had."""

    def __init__(self, dataset: LeRobotDataset, bad: int) -> None:
        self.whole, self.bad = DecodedFrames(dataset, dataset.camera_names), bad

    def read(self, frames: Sequence[int]) -> list[Any]:
        found: list[Any] = self.whole.read(frames)
        error = DatasetError("video-damaged", Path("top.mp4"), f"frame {self.bad} cannot be decoded")
        return [error if frame == self.bad else one for frame, one in zip(frames, found, strict=True)]


def damaged_frame(config: TrainConfig, known: np.ndarray, step: int) -> int:
    """A frame that is drawn at a step, and not before."""
    sampler = Sampler([known], np.ones(1), batch_size=config.batch_size, seed=config.seed)
    earlier = {frame for made in range(step) for frame in sampler.step(made)[1].tolist()}
    return next(frame for frame in sampler.step(step)[1].tolist() if frame not in earlier)


def test_a_damaged_sample_ends_a_run_whose_last_checkpoint_is_kept_or_is_replaced_by_the_next(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checkpoints are those of `save_every`: the steps after the last of them are made again."""
    known = frames_of(split_episodes(dataset, config.held_out, config.seed)[0])
    bad = damaged_frame(config, known, BAD)
    source = replace(small_source(dataset, contract), frames=OneDamaged(dataset, bad))
    execution = Execution(save_every=2)
    with pytest.raises(DatasetError, match=rf"frame {bad} cannot be decoded \[video-damaged\]"):
        train(config, [source], tmp_path / "run", execution=execution)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    assert not (tmp_path / "run" / "policy").exists()
    (mended,) = train(config, [small_source(dataset, contract)], tmp_path / "run", execution=execution)
    whole = small_train(config, dataset, contract, tmp_path / "whole")
    assert (mended / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    patient = replace(config, max_damaged=99)
    (lenient,) = train(patient, [source], tmp_path / "lenient", execution=execution)
    following = int(known[(np.searchsorted(known, bad) + 1) % len(known)])
    real = Sampler.step

    def step(self: Sampler, number: int) -> Any:
        sources, frames = real(self, number)
        return sources, np.where(frames == bad, following, frames)

    monkeypatch.setattr(Sampler, "step", step)
    substituted = small_train(config, dataset, contract, tmp_path / "substituted")
    assert (lenient / "model.safetensors").read_bytes() == (substituted / "model.safetensors").read_bytes()
    assert (lenient / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()
