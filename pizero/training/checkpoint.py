"""The state of a training run on disk: whole or not at all, verified when read, the newest valid one wins.

Every process writes the rows that it has into a file of its own, which says which rows these are; so a run
may go on with another number of processes.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pizero.durable import publish
from pizero.records import fingerprint, read_record, write_record
from pizero.training.ranks import Ranks
from pizero.training.sharding import first_row, local
from pizero.training.state import State
from pizero.weights.folder import MANIFEST, Manifest, check_fit, check_seal, sha256_of

PROGRESS = "progress.json"
ROWS = "rows"
"""The key under which a file says, for each tensor, its first row and how many there are in all files."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come: its updates, those `skipped`, for which config, in how many files."""

    step: int
    fingerprint: str
    skipped: int = 0
    parts: int = 1


def part_name(part: int, parts: int) -> str:
    """Return the name of one file of a state, counted from 0."""
    return f"state-{part + 1:05d}-of-{parts:05d}.safetensors"


def part_names(path: Path) -> tuple[str, ...]:
    """Return the names of the files that a checkpoint has to have; ValueError if it does not say."""
    progress = read_record(Progress, path / PROGRESS)
    return tuple(part_name(part, progress.parts) for part in range(progress.parts))


def save_checkpoint(
    folder: Path,
    progress: Progress,
    state: State,
    *,
    ranks: Ranks | None = None,
    keep_last: int = 2,
    keep_every: int = 0,
) -> None:
    """Write `folder/step-…`, remove those of later steps, which could not be read, and `clear` the folder.

    The first `progress.parts` processes write, each its own rows. OSError if one of them cannot; then nothing
    has changed.
    """
    ranks = ranks or Ranks()
    target = folder / f"step-{progress.step:08d}"
    partial = target.with_name(target.name + ".partial")
    error: OSError | None = None
    try:
        if ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    except OSError as problem:
        error = problem
    _agree(error, target, ranks, partial)
    try:
        if ranks.rank < progress.parts:
            _write_part(partial / part_name(ranks.rank, progress.parts), state)
    except OSError as problem:
        error = problem
    _agree(error, target, ranks, partial)
    try:
        if ranks.is_first:
            _finish(partial, target, progress)
            for path in sorted(folder.glob("step-????????")):
                if step_of(path) > progress.step:
                    shutil.rmtree(path)
            clear(folder, progress.step, keep_last=keep_last, keep_every=keep_every)
    except OSError as problem:
        error = problem
    _agree(error, target, ranks, partial)


def clear(folder: Path, step: int, *, keep_last: int, keep_every: int = 0) -> None:
    """Remove what is half-written, and of the checkpoints up to a step all but the newest `keep_last`, and
    multiples of `keep_every`.
    """
    for partial in folder.glob("step-????????.partial"):
        shutil.rmtree(partial)
    made = sorted(path for path in folder.glob("step-????????") if step_of(path) <= step)
    for old in made[:-keep_last]:
        if not keep_every or step_of(old) % keep_every:
            shutil.rmtree(old)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def _write_part(path: Path, state: State) -> None:
    tensors, rows = {}, {}
    for name, tensor in state.tensors().items():
        own = local(tensor)
        tensors[name] = own.contiguous()
        if own.ndim:
            rows[name] = [first_row(tensor), tensor.shape[0]]
    try:
        save_file(tensors, path, metadata={ROWS: json.dumps(rows)})
    except Exception as problem:  # safetensors raises its own error for a full disk
        raise OSError(str(problem)) from None
    path.with_suffix(".sha256").write_text(sha256_of(path), encoding="ascii")


def _finish(partial: Path, target: Path, progress: Progress) -> None:
    write_record(partial / PROGRESS, progress)
    hashes = {PROGRESS: sha256_of(partial / PROGRESS)}
    for part in range(progress.parts):
        name = part_name(part, progress.parts)
        note = (partial / name).with_suffix(".sha256")
        hashes[name] = note.read_text(encoding="ascii")
        note.unlink()
    write_record(partial / MANIFEST, Manifest(files=hashes))
    shutil.rmtree(target, ignore_errors=True)
    publish(partial, target)


def _agree(error: OSError | None, target: Path, ranks: Ranks, partial: Path) -> None:
    """Raise OSError in every process if there is an error in one of them."""
    failed = ranks.sum(torch.tensor([float(error is not None)], device=ranks.device)).item()
    if not failed:
        return
    if ranks.is_first:
        shutil.rmtree(partial, ignore_errors=True)
    reason = str(error) if error is not None else "another process of this run could not write its part"
    raise OSError(
        f"the checkpoint {target} could not be written: {reason}. The checkpoints before it are whole: make "
        f"room, or make the folder writable, and the same command goes on"
    )


def newest_checkpoint(folder: Path, ranks: Ranks | None = None) -> Path | None:
    """Return the newest checkpoint whose files are whole; damaged ones are named on standard error.

    The first of several processes looks, and tells the others.
    """
    ranks = ranks or Ranks()
    newest = _newest(folder) if ranks.is_first else None
    step = -1 if newest is None else step_of(newest)
    agreed = ranks.sum(torch.tensor(step if ranks.is_first else 0, device=ranks.device)).item()
    return None if agreed < 0 else folder / f"step-{int(agreed):08d}"


def _newest(folder: Path) -> Path | None:
    for path in sorted(folder.glob("step-????????"), reverse=True):
        try:
            check_seal(path, (PROGRESS,), "a checkpoint")
            check_seal(path, part_names(path), "a checkpoint")
        except ValueError as error:
            sys.stderr.write(f"passing over a checkpoint: {error}\n")
        else:
            return path
    return None


def check_origin(path: Path, run: Path) -> None:
    """Raise ValueError unless a checkpoint was made with the config in a run's folder."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))  # as it was when the run began
    if read_record(Progress, path / PROGRESS).fingerprint != fingerprint(config):
        raise ValueError(
            f"{path} was made with another config than {run / 'config.json'}, so it is of another run: move "
            f"it away, and the same command goes on from what is left"
        )


@torch.no_grad()
def load_checkpoint(path: Path, state: State) -> Progress:
    """Restore everything that `save_checkpoint` wrote; each process reads its own rows."""
    with ExitStack() as stack:
        files = [
            stack.enter_context(safe_open(path / name, framework="pt", device="cpu"))
            for name in part_names(path)
        ]
        layouts = [json.loads(file.metadata()[ROWS]) for file in files]
        found: dict[str, torch.Size] = {}
        for file, rows in zip(files, layouts, strict=True):
            for name in file.keys():  # noqa: SIM118 (no mapping)
                shape = file.get_slice(name).get_shape()
                found[name] = torch.Size([rows[name][1], *shape[1:]] if shape else [])
        known = dict(state.model.named_parameters())
        moments = [name for name in found if name.startswith("optimizer.")]
        state.make_room(
            [name for name in moments if name.removeprefix("optimizer.").rpartition(".")[0] in known]
        )
        own = state.tensors()
        check_fit({name: tensor.shape for name, tensor in own.items()}, found, str(path))
        for name, tensor in own.items():
            for file, rows in zip(files, layouts, strict=True):
                _copy_rows(file, name, rows.get(name), tensor)
    return read_record(Progress, path / PROGRESS)


def _copy_rows(file: safe_open, name: str, rows: list[int] | None, tensor: Tensor) -> None:
    """Copy what a file has of this process's rows of a tensor."""
    target = local(tensor)
    if rows is None:
        target.copy_(file.get_tensor(name))
        return
    there = file.get_slice(name)
    first, start = first_row(tensor), rows[0]
    low, high = max(first, start), min(first + len(target), start + there.get_shape()[0])
    if low < high:
        target[low - first : high - first].copy_(there[low - start : high - start])
