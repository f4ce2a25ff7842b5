"""A checkpoint brings back everything, bit for bit; a damaged one is passed over; old ones go."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pizero.training.checkpoint import (
    Progress,
    load_checkpoint,
    newest_checkpoint,
    part_name,
    save_checkpoint,
)
from pizero.training.optimizer import OptimizerConfig, clip_gradients, set_rate, update_average
from pizero.training.state import make_state
from tests.examples import TINY_PI0, tiny_inputs
from tests.small import small_config

CONFIG = replace(
    small_config(num_steps=10),
    model=TINY_PI0,
    optimizer=OptimizerConfig(peak_rate=1e-2, weight_decay=1e-2),
    ema_decay=0.9,
)


class Run:
    """The state of a run, and a step that changes it."""

    def __init__(self, seed: int) -> None:
        self.state = make_state(replace(CONFIG, seed=seed), start=None)

    def step(self, number: int) -> None:
        model, optimizer = self.state.model, self.state.optimizer
        generator = torch.Generator().manual_seed(number)
        actions = torch.randn(2, 3, 2, generator=generator)
        valid = torch.ones(2, 3, dtype=torch.bool)
        draws = model.draw(2, generator)
        loss = model.losses(tiny_inputs(seed=number), actions, valid, draws=draws)["flow"].values.mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        set_rate(optimizer, 1e-2)
        optimizer.step()
        update_average(self.state.average, model, 0.9)

    def save(self, folder: Path, step: int, keep_last: int = 2, keep_every: int = 0) -> None:
        progress = Progress(step=step, fingerprint="f")
        save_checkpoint(folder, progress, self.state, keep_last=keep_last, keep_every=keep_every)

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.state.tensors().items()}


def assert_identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_everything_comes_back(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1)
    for number in range(3):
        run.step(number)
    run.save(tmp_path, step=3)
    progress = load_checkpoint(tmp_path / "step-00000003", other.state)
    assert progress == Progress(step=3, fingerprint="f")
    saved = run.tensors()
    assert_identical(saved, other.tensors())
    assert any(name.endswith("exp_avg_sq") for name in saved)
    assert not torch.equal(saved["model.action_out.weight"], saved["average.action_out.weight"])


def test_a_run_that_is_loaded_goes_on_as_the_one_that_was_saved(tmp_path: Path) -> None:
    """Also where weights are kept in another memory order than the file's: convolutions are."""
    run, other = Run(seed=0), Run(seed=1)
    for number in range(3):
        run.step(number)
    run.save(tmp_path, step=3)
    load_checkpoint(tmp_path / "step-00000003", other.state)
    for number in (3, 4):
        run.step(number)
        other.step(number)
    assert_identical(run.tensors(), other.tensors())


def test_a_run_that_has_not_begun_can_be_saved(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1)
    run.save(tmp_path, step=0)
    load_checkpoint(tmp_path / "step-00000000", other.state)
    assert_identical(run.tensors(), other.tensors())


def test_the_newest_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    run = Run(seed=0)
    for step in (1, 2, 9, 10, 11):
        run.save(tmp_path, step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    run.save(tmp_path, step=12, keep_last=3)
    assert len(list(tmp_path.iterdir())) == 3
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000012"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1)
    run.save(tmp_path, step=1)
    run.step(0)
    run.save(tmp_path, step=1)
    load_checkpoint(tmp_path / "step-00000001", other.state)
    assert_identical(run.tensors(), other.tensors())


@pytest.mark.parametrize(
    "harm", ["a byte of the weights", "a missing file", "a missing manifest", "half a file"]
)
def test_the_newest_checkpoint_that_is_whole_wins(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(seed=0)
    for step in (1, 2):
        run.save(tmp_path, step=step)
    newest = tmp_path / "step-00000002"
    assert newest_checkpoint(tmp_path) == newest
    assert capsys.readouterr().err == ""
    if harm == "a byte of the weights":
        damage(newest / part_name(0, 1), offset=-1)
    elif harm == "a missing file":
        (newest / part_name(0, 1)).unlink()
    elif harm == "a missing manifest":
        (newest / "manifest.json").unlink()
    else:
        whole = (newest / part_name(0, 1)).read_bytes()
        (newest / part_name(0, 1)).write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"
    assert "step-00000002" in capsys.readouterr().err


def test_a_crash_while_saving_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(seed=0)
    run.save(tmp_path, step=1)

    def crash(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pizero.training.checkpoint._finish", crash)
        with pytest.raises(KeyboardInterrupt):
            run.save(tmp_path, step=2)
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"
    run.save(tmp_path, step=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None
    Run(seed=0).save(tmp_path, step=1)
    shutil.rmtree(tmp_path / "step-00000001")
    assert newest_checkpoint(tmp_path) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = Run(seed=0)
    run.save(tmp_path, step=1)
    expert = replace(TINY_PI0.expert, width=16)
    other = make_state(replace(CONFIG, model=replace(TINY_PI0, expert=expert)), start=None)
    with pytest.raises(ValueError, match=r"step-00000001 does not fit the model.*of another shape"):
        load_checkpoint(tmp_path / "step-00000001", other)


def test_multiples_are_kept(tmp_path: Path) -> None:
    run = Run(seed=0)
    for step in range(2, 14, 2):
        run.save(tmp_path, step=step, keep_last=2, keep_every=4)
    kept = [int(path.name.removeprefix("step-")) for path in sorted(tmp_path.iterdir())]
    assert kept == [4, 8, 10, 12]
