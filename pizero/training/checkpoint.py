"""The state of a training run on disk: whole or not at all, verified when read, the newest valid one wins."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pizero.records import read_record, write_record
from pizero.weights.folder import check_seal, load_into, seal

STATE, PROGRESS = "state.safetensors", "progress.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come: the number of updates made, and for which config and data they were."""

    step: int
    fingerprint: str


def save_checkpoint(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    keep: int = 2,
) -> None:
    """Write `folder/step-…` and remove all but the newest `keep` checkpoints."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    target = folder / f"step-{progress.step:08d}"
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / STATE)
    write_record(partial / PROGRESS, progress)
    seal(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in sorted(folder.glob("step-????????"))[:-keep]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are whole; damaged ones are named on standard error."""
    for path in sorted(folder.glob("step-????????"), reverse=True):
        try:
            check_seal(path, (STATE, PROGRESS), "a checkpoint")
        except ValueError as error:
            sys.stderr.write(f"passing over a checkpoint: {error}\n")
        else:
            return path
    return None


def load_checkpoint(
    path: Path, model: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Progress:
    """Restore everything that `save_checkpoint` wrote."""
    tensors = load_file(path / STATE)

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
        }

    load_into(model, part("model."), str(path))
    for name, tensor in part("average.").items():
        average[name].copy_(tensor)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:  # the fused update reads memory in the weight's own order
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return read_record(Progress, path / PROGRESS)
