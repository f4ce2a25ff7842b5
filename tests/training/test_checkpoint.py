"""A checkpoint brings back everything, bit for bit; a damaged one is passed over; old ones go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pizero.models.build import build
from pizero.models.pi0 import Pi0
from pizero.training.checkpoint import (
    STATE,
    Progress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from pizero.training.optimizer import OptimizerConfig, clip_gradients, make_optimizer, update_average
from tests.examples import TINY_PI0, tiny_inputs


class Run:
    """A model, its average and its optimizer, and a step that trains them."""

    def __init__(self, seed: int) -> None:
        model = build(TINY_PI0, seed)
        assert isinstance(model, Pi0)
        self.model = model
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.optimizer = make_optimizer(OptimizerConfig(peak_rate=1e-2, weight_decay=1e-2), model)

    def step(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        actions = torch.randn(2, 3, 2, generator=generator)
        draws = self.model.draw(2, generator)
        loss = self.model.flow_loss(self.model.observe(tiny_inputs(seed=number)), actions, draws).mean()
        self.optimizer.zero_grad()
        loss.backward()
        clip_gradients(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_average(list(self.average.values()), self.model, 0.9)

    def save(self, folder: Path, step: int, keep: int = 2) -> None:
        save_checkpoint(
            folder, Progress(step=step, fingerprint="f"), self.model, self.average, self.optimizer, keep=keep
        )

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}


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
    progress = load_checkpoint(tmp_path / "step-00000003", other.model, other.average, other.optimizer)
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
    load_checkpoint(tmp_path / "step-00000003", other.model, other.average, other.optimizer)
    for number in (3, 4):
        run.step(number)
        other.step(number)
    assert_identical(run.tensors(), other.tensors())


def test_a_run_that_has_not_begun_can_be_saved(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1)
    run.save(tmp_path, step=0)
    load_checkpoint(tmp_path / "step-00000000", other.model, other.average, other.optimizer)
    assert_identical(run.tensors(), other.tensors())


def test_the_newest_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    run = Run(seed=0)
    for step in (1, 2, 9, 10, 11):
        run.save(tmp_path, step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    run.save(tmp_path, step=12, keep=3)
    assert len(list(tmp_path.iterdir())) == 3
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000012"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1)
    run.save(tmp_path, step=1)
    run.step(0)
    run.save(tmp_path, step=1)
    load_checkpoint(tmp_path / "step-00000001", other.model, other.average, other.optimizer)
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
        damage(newest / STATE, offset=-1)
    elif harm == "a missing file":
        (newest / STATE).unlink()
    elif harm == "a missing manifest":
        (newest / "manifest.json").unlink()
    else:
        whole = (newest / STATE).read_bytes()
        (newest / STATE).write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"
    assert "step-00000002" in capsys.readouterr().err


def test_a_crash_while_saving_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(seed=0)
    run.save(tmp_path, step=1)

    def crash(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pizero.training.checkpoint.seal", crash)
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
    other = torch.nn.Linear(2, 3)
    optimizer = make_optimizer(OptimizerConfig(), other)
    with pytest.raises(ValueError, match=r"step-00000001 does not fit the model of its config\. 2 missing"):
        load_checkpoint(tmp_path / "step-00000001", other, {}, optimizer)
