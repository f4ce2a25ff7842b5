"""The training loop, top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch

from pizero.data.loader import AnySource, Samples, batches
from pizero.data.sampler import Sampler, mixture_shares
from pizero.progress import counting
from pizero.records import fingerprint, to_data
from pizero.training.checkpoint import (
    Progress,
    check_origin,
    clear,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from pizero.training.config import Execution, TrainConfig
from pizero.training.ranks import Ranks
from pizero.training.run_folder import (
    claim,
    distinct_contracts,
    note_execution,
    policy_folders,
    read_so_far,
    sample_names,
    show_first_batch,
    write_json,
    writing,
)
from pizero.training.sharding import check_shards
from pizero.training.state import make_state
from pizero.training.tracking import Log, Trackers, open_trackers
from pizero.training.update import Augmenter, check_division, update
from pizero.training.validation import validate
from pizero.weights.folder import write_policy


class InterruptedRunError(Exception):
    """A run was asked to stop; its state is on disk, and the same command goes on from there."""


class DivergedRunError(RuntimeError):
    """Too many updates had gradients that are not finite; the last checkpoint is whole."""


def train(
    config: TrainConfig,
    sources: Sequence[AnySource],
    folder: Path,
    *,
    execution: Execution | None = None,
    ranks: Ranks | None = None,
    start: Path | None = None,
) -> tuple[Path, ...]:
    """Train a policy and return its folders, one for each robot; a run that was stopped goes on where it was.

    Each of several `ranks` calls this with its own. `start` is the folder of the policy that the config
    starts from. `folder` keeps the config, contracts, `metrics.jsonl` with one line a step,
    `validation.jsonl`, `skipped.jsonl`, `samples.json` with what was read, and checkpoints. ValueError if it
    belongs to a run with another config or other data.
    """
    execution, ranks = execution or Execution(), ranks or Ranks()
    check_division(config, execution, ranks)
    check_shards(shards := execution.shards or ranks.world_size, ranks)
    contracts = distinct_contracts(sources)
    frames, held_out = zip(*(source.split(config.held_out, config.seed) for source in sources), strict=True)
    shares = mixture_shares([len(part) for part in frames], config.weights)
    sampler = Sampler(frames, shares, batch_size=config.batch_size, seed=config.seed)
    with ranks.in_turn(), writing(folder):
        claim(folder, config, contracts)
    policies = policy_folders(folder, contracts)
    if all(path.exists() for path in policies):
        return policies
    state = make_state(config, execution=execution, ranks=ranks, start=start)
    progress = Progress(step=0, fingerprint=fingerprint(config), parts=shards)
    newest = newest_checkpoint(folder / "checkpoints", ranks)
    if newest is not None:
        check_origin(newest, folder)
        progress = replace(load_checkpoint(newest, state), parts=shards)

    samples, unseen = Samples(sources, frames), Samples(sources, held_out)
    steps = range(progress.step, config.num_steps)
    stream = batches(
        samples,
        sampler.share_of(ranks.rank, ranks.world_size),
        steps=steps,
        device=ranks.device,
        num_workers=execution.num_workers,
        max_damaged=config.max_damaged,
    )
    augmenter = Augmenter(config, sources, sampler, ranks)
    if ranks.is_first:
        with writing(folder):
            clear(
                folder / "checkpoints",
                progress.step,
                keep_last=execution.keep_last,
                keep_every=execution.keep_every,
            )
            write_json(folder / "samples.json", read_so_far(sources, sampler, progress.step))
            note_execution(folder, execution, progress, ranks)
    with (
        trackers_of(folder, config, execution, progress, ranks) as trackers,
        skipped_log(folder, progress, ranks) as skipped,
        stop_signals() as stop,
        counting("training", config.num_steps, "steps", done=progress.step) as counter,
    ):
        waited_from = time.perf_counter()
        for step, batch in zip(steps, stream, strict=True):
            began = time.perf_counter()
            seen = augmenter.prepare(batch, step)
            if step == 0 and ranks.is_first:
                with writing(folder / "first_batch.png"):
                    show_first_batch(folder, seen, sources, samples.processors)
            figures = update(state, seen, config, step=step, execution=execution, ranks=ranks)
            ended = time.perf_counter()
            progress = replace(progress, step=step + 1, skipped=progress.skipped + (not figures.made))
            trackers.write(
                progress.step,
                {
                    "loss": figures.loss,
                    **figures.named_terms(),
                    "learning_rate": figures.learning_rate,
                    "gradient_norm": figures.gradient_norm,
                    "parameter_norm": figures.parameter_norm,
                    "step_seconds": round(ended - began, 4),
                    "wait_seconds": round(began - waited_from, 4),
                },
            )
            if not figures.made:
                if skipped is not None:
                    with writing(folder / "skipped.jsonl"):
                        skipped.write(
                            step=progress.step,
                            loss=figures.loss,
                            gradient_norm=figures.gradient_norm,
                            samples=sample_names(sources, *sampler.step(step)),
                        )
                check_skipped(progress.skipped, config, folder)
            counter.advance(note=f"loss {figures.loss:.4f}")
            last = progress.step == config.num_steps
            stopping = bool(ranks.sum(torch.tensor(float(stop.is_set), device=ranks.device)))
            if any(map(len, held_out)) and (last or progress.step % config.validate_every == 0):
                errors = validate(state, unseen, config, ranks)
                trackers.write(progress.step, errors, kind="validation")
            if last or stopping or progress.step % execution.save_every == 0:
                save_checkpoint(
                    folder / "checkpoints",
                    progress,
                    state,
                    ranks=ranks,
                    keep_last=execution.keep_last,
                    keep_every=execution.keep_every,
                )
                if ranks.is_first:
                    with writing(folder / "samples.json"):
                        write_json(folder / "samples.json", read_so_far(sources, sampler, progress.step))
            if stopping and not last:
                raise InterruptedRunError(f"stopped after step {progress.step}, which is saved")
            waited_from = time.perf_counter()
    weights = state.policy_weights(keep=ranks.is_first)
    with ranks.in_turn():
        for contract, path in zip(contracts, policies, strict=True):
            files = next(source.files for source in sources if source.contract == contract)
            if ranks.is_first and not path.exists():
                with writing(path):
                    write_policy(path, config=config.model, contract=contract, tensors=weights, files=files)
    return policies


def trackers_of(
    folder: Path, config: TrainConfig, execution: Execution, progress: Progress, ranks: Ranks
) -> Trackers:
    """Return what the run's figures are written to; only the first process writes any."""
    if not ranks.is_first:
        return Trackers()
    return open_trackers(
        folder, progress.step, execution.trackers, config_data=to_data(config), run_name=folder.name
    )


def skipped_log(folder: Path, progress: Progress, ranks: Ranks) -> Log | nullcontext[None]:
    """Return where the samples of skipped updates are written down, by the first process alone."""
    return Log(folder / "skipped.jsonl", progress.step) if ranks.is_first else nullcontext()


def check_skipped(skipped: int, config: TrainConfig, folder: Path) -> None:
    """Raise DivergedRunError if more updates were skipped than the config allows."""
    if skipped > config.max_skipped:
        raise DivergedRunError(
            f"{skipped} updates had a loss or a gradient that is not finite, {config.max_skipped} are "
            f"allowed; none of them changed a weight, and the last checkpoint is whole. "
            f"{folder / 'skipped.jsonl'} names their samples: look at the data with `pizero doctor`, or "
            f"lower the peak rate"
        )


class Stop:
    """Whether a stop was asked for; a second request ends the process at once."""

    is_set = False

    def request(self, number: int, _frame: FrameType | None) -> None:
        """Remember the first signal; raise on the second."""
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, where no loop honours it at the end of its step."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


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
