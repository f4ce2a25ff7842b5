"""The training loop, top to bottom."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from pizero.contract import Contract
from pizero.data.dataset import frames_of, split_episodes
from pizero.data.loader import Samples, Source, batches
from pizero.data.sampler import Sampler, mixture_shares
from pizero.models.build import build
from pizero.progress import counting
from pizero.records import differences, fingerprint, read_record, to_data, write_record
from pizero.training.checkpoint import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from pizero.training.config import TrainConfig
from pizero.training.freezing import freeze
from pizero.training.optimizer import clip_gradients, learning_rate, make_optimizer, update_average
from pizero.training.validation import validate
from pizero.weights.folder import write_policy


class InterruptedRunError(Exception):
    """A run was asked to stop; its state is on disk, and the same command goes on from there."""


def train(
    config: TrainConfig, sources: Sequence[Source], folder: Path, *, num_workers: int = 0
) -> tuple[Path, ...]:
    """Train a policy and return its folders, one for each robot; a run that was stopped goes on where it was.

    `folder` keeps the config, contracts, `metrics.jsonl` with one line a step, `validation.jsonl`,
    `samples.json` with what was read, and checkpoints. ValueError if it belongs to a run with another config
    or other data. Batches are prepared by `num_workers` processes; 0 is a thread of this one.
    """
    contracts = distinct_contracts(sources)
    claim(folder, config, contracts)
    policies = policy_folders(folder, contracts)
    if all(path.exists() for path in policies):
        return policies
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config.model, config.seed).to(device)
    freeze(model, config.frozen)
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(config.optimizer, model)
    progress = Progress(step=0, fingerprint=fingerprint(config))
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is not None:
        progress = load_checkpoint(newest, model, average, optimizer)

    parts = [split_episodes(source.dataset, config.held_out, config.seed) for source in sources]
    frames, held_out = ([frames_of(part[index]) for part in parts] for index in (0, 1))
    samples, unseen = Samples(sources, frames), Samples(sources, held_out)
    shares = mixture_shares([len(part) for part in frames], config.weights)
    sampler = Sampler(frames, shares, batch_size=config.batch_size, seed=config.seed)
    steps = range(progress.step, config.num_steps)
    stream = batches(
        samples,
        sampler,
        steps=steps,
        device=device,
        num_workers=num_workers,
        max_damaged=config.max_damaged,
    )
    with (
        Log(folder / "metrics.jsonl", progress.step) as metrics,
        Log(folder / "validation.jsonl", progress.step) as validation,
        stop_signals() as stop,
        counting("training", config.num_steps, "steps", done=progress.step) as counter,
    ):
        waited_from = time.perf_counter()
        for step, batch in zip(steps, stream, strict=True):
            began = time.perf_counter()
            rate = learning_rate(config.optimizer, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = torch.Generator(device).manual_seed(step_seed(config.seed, step))
            real = batch.real if config.padded_dimensions == "masked" else None
            draws = model.draw(len(batch.actions), generator)
            (term,) = model.losses(batch.inputs, batch.actions, batch.valid, draws=draws, real=real).values()
            loss = (term.values * term.counted).sum() / term.counted.sum()
            optimizer.zero_grad()
            loss.backward()
            norm = clip_gradients(model.parameters(), config.optimizer.clip_norm)
            if not torch.isfinite(norm):
                raise ValueError(
                    f"the gradient of step {step} is not finite (loss {loss.item()}); nothing was "
                    f"changed, and the last checkpoint is whole. Look at the data with `pizero stats`, or "
                    f"lower the peak rate"
                )
            optimizer.step()
            update_average(list(average.values()), model, config.ema_decay)
            progress = Progress(step=step + 1, fingerprint=progress.fingerprint)
            ended = time.perf_counter()
            metrics.write(
                step=progress.step,
                loss=loss.item(),
                learning_rate=rate,
                gradient_norm=norm.item(),
                step_seconds=round(ended - began, 4),
                wait_seconds=round(began - waited_from, 4),
            )
            counter.advance(note=f"loss {loss.item():.4f}")
            last = progress.step == config.num_steps
            if any(map(len, held_out)) and (last or progress.step % config.validate_every == 0):
                error = validate(model, average, unseen, config.seed, device, config.max_damaged)
                validation.write(step=progress.step, **error)
            if last or stop.is_set or progress.step % config.save_every == 0:
                save_checkpoint(folder / "checkpoints", progress, model, average, optimizer)
                write_json(folder / "samples.json", read_so_far(sources, sampler, progress.step))
            if stop.is_set and not last:
                raise InterruptedRunError(f"stopped after step {progress.step}")
            waited_from = time.perf_counter()
    for contract, path in zip(contracts, policies, strict=True):
        files = next(source.files for source in sources if source.contract == contract)
        if not path.exists():
            write_policy(path, config=config.model, contract=contract, tensors=average, files=files)
    return policies


def distinct_contracts(sources: Sequence[Source]) -> tuple[Contract, ...]:
    """Return one contract for each robot; ValueError if datasets of one robot have different ones."""
    found: dict[str, Contract] = {}
    for source in sources:
        name = source.contract.embodiment.name
        different = found.setdefault(name, source.contract).diff(source.contract)
        if different:
            raise ValueError(
                f"datasets of the robot {name!r} have different contracts: {'; '.join(different[:5])}; take "
                f"statistics of all of them together"
            )
    return tuple(found.values())


def policy_folders(folder: Path, contracts: Sequence[Contract]) -> tuple[Path, ...]:
    """Return where a run writes its policy: `policy`, or `policies/ROBOT` for each of several robots."""
    if len(contracts) == 1:
        return (folder / "policy",)
    return tuple(folder / "policies" / contract.embodiment.name for contract in contracts)


def read_so_far(sources: Sequence[Source], sampler: Sampler, steps: int) -> list[dict[str, Any]]:
    """Return what the first `steps` steps read of each dataset."""
    drawn = sampler.num_drawn(steps)
    return [
        {
            "dataset": str(source.dataset.folder),
            "robot": source.contract.embodiment.name,
            "training_frames": len(frames),
            "samples": number,
            "share": number / max(sum(drawn), 1),
            "epochs": number / len(frames),
        }
        for source, frames, number in zip(sources, sampler.frames, drawn, strict=True)
    ]


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one step's noise: a pure function, so that resuming repeats it."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def claim(folder: Path, config: TrainConfig, contracts: Sequence[Contract]) -> None:
    """Make a run folder ours; ValueError if it holds a run with another config or contract."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"contract.json": contracts[0]}
    if len(contracts) > 1:
        named = {f"contract-{contract.embodiment.name}.json": contract for contract in contracts}
    for name, record in ({"config.json": config} | named).items():
        path = folder / name
        if not path.exists():
            write_record(path, record)
            continue
        found = differences(to_data(record), to_data(read_record(type(record), path)))
        if found:
            raise ValueError(
                f"{folder} holds a run with another {path.stem} (asked ≠ there): {'; '.join(found[:5])}. "
                f"Nothing was changed. Name another folder, or remove this one"
            )


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


class Log:
    """A file of one JSON object a line; on resuming, lines of steps that will be made again are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, *, step: int, **figures: float) -> None:
        """Append one line."""
        self.file.write(json.dumps({"step": step, **figures}) + "\n")
        self.file.flush()


class Stop:
    """Whether a stop was asked for; a second request ends the process at once."""

    is_set = False

    def request(self, number: int, _frame: FrameType | None) -> None:
        """Remember the first signal; raise on the second."""
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request that the loop honours at the end of its step."""
    stop = Stop()
    previous = {number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
