"""The training loop, top to bottom."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from pizero.contract import Contract
from pizero.data.dataset import frames_of, split_episodes
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Frames, Samples, batches
from pizero.data.processor import Processor
from pizero.models.base import ActionModel
from pizero.models.build import build
from pizero.progress import counting
from pizero.records import differences, fingerprint, read_record, to_data, write_record
from pizero.training.checkpoint import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from pizero.training.config import TrainConfig
from pizero.training.freezing import freeze
from pizero.training.optimizer import clip_gradients, learning_rate, make_optimizer, update_average
from pizero.weights.folder import write_policy

VALIDATION_FRAMES = 256
"""How many held-out frames the policy acts on at each validation."""


class InterruptedRunError(Exception):
    """A run was asked to stop; its state is on disk, and the same command goes on from there."""


def train(config: TrainConfig, dataset: LeRobotDataset, contract: Contract, folder: Path) -> Path:
    """Train a policy and return its folder, `folder/policy`; a run that was stopped goes on where it was.

    `folder` keeps the config, `metrics.jsonl` with one line a step, `validation.jsonl`, and checkpoints.
    ValueError if it belongs to a run with another config or other data.
    """
    claim(folder, config, contract)
    policy_folder = folder / "policy"
    if policy_folder.exists():
        return policy_folder
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config.model, config.seed).to(device)
    freeze(model, config.frozen)
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(config.optimizer, model)
    progress = Progress(step=0, fingerprint=fingerprint(config))
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is not None:
        progress = load_checkpoint(newest, model, average, optimizer)

    samples = Samples(dataset, Frames(dataset), Processor(contract))
    train_episodes, held_out_episodes = split_episodes(dataset, config.held_out, config.seed)
    frames, held_out = frames_of(train_episodes), frames_of(held_out_episodes)
    steps = range(progress.step, config.num_steps)
    stream = batches(
        samples, frames, batch_size=config.batch_size, seed=config.seed, steps=steps, device=device
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
            losses = model.loss(batch.inputs, batch.actions, generator=generator)
            loss = (losses * batch.valid).sum() / batch.valid.sum()
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
            if len(held_out) and (last or progress.step % config.validate_every == 0):
                error = validate(model, average, samples, held_out, config.seed, device)
                validation.write(step=progress.step, **error)
            if last or stop.is_set or progress.step % config.save_every == 0:
                save_checkpoint(folder / "checkpoints", progress, model, average, optimizer)
            if stop.is_set and not last:
                raise InterruptedRunError(f"stopped after step {progress.step}")
            waited_from = time.perf_counter()
    write_policy(policy_folder, config=config.model, contract=contract, tensors=average)
    return policy_folder


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one step's noise: a pure function, so that resuming repeats it."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def validate(
    model: ActionModel,
    average: dict[str, Tensor],
    samples: Samples,
    held_out: np.ndarray,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Let the averaged weights act on frames that training never saw, by full sampling.

    Returns the mean squared difference to the recorded actions, and that of always predicting the mean, both
    in normalised units over real steps.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(held_out, size=min(VALIDATION_FRAMES, len(held_out)), replace=False))
    batch = samples.batch(chosen, device)
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    current = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.load_state_dict(average)
    predicted = model.sample(batch.inputs, noise=noise)
    model.load_state_dict(current)
    valid = batch.valid[..., None].expand_as(predicted)
    error = (predicted.float() - batch.actions).square()[valid].mean().item()
    return {"action_error": error, "action_error_of_mean": batch.actions.square()[valid].mean().item()}


def claim(folder: Path, config: TrainConfig, contract: Contract) -> None:
    """Make a run folder ours; ValueError if it holds a run with another config or contract."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in (("config.json", config), ("contract.json", contract)):
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
