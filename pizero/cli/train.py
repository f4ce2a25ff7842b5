"""`pizero train`: from one dataset, or several, to a policy."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from torch.distributed.elastic.multiprocessing.errors import record

from pizero.cli.options import Json, say
from pizero.cli.plan import plan, print_plan
from pizero.data.frames import FrameSource
from pizero.data.hub import open_dataset
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.recipes import NEEDS_START, Precision, find_recipe
from pizero.records import read_record
from pizero.training.augmentation import Augmentation
from pizero.training.config import Execution, Tracker, TrainConfig
from pizero.training.loop import sigterm_interrupts
from pizero.training.loop import train as train_policy
from pizero.training.ranks import join_ranks
from pizero.training.recompute import Recompute
from pizero.training.sharding import Gather
from pizero.training.sources import open_questions, open_sources
from pizero.training.starting import StartingPoint, inherit, read_start

DEFAULT = Execution()


def train(
    *,
    dataset: tuple[Path, ...],
    output: Path,
    recipe: str | None = None,
    config: Path | None = None,
    start_from: Path | None = None,
    robot: tuple[str, ...] = (),
    statistics: Path | None = None,
    keep_statistics: bool = False,
    weights: tuple[float, ...] = (),
    questions: tuple[Path, ...] = (),
    action_tokenizer: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    rate: float | None = None,
    precision: Precision | None = None,
    augment: Literal["none", "openpi", "intended"] | None = None,
    num_draws: int | None = None,
    max_delay: int | None = None,
    ema_decay: float | None = None,
    frames: FrameSource = "auto",
    frame_cache: Path | None = None,
    workers: int = DEFAULT.num_workers,
    micro_batches: int = DEFAULT.micro_batches,
    recompute: Recompute = DEFAULT.recompute,
    compile: bool = DEFAULT.compiled,
    shards: int = DEFAULT.shards,
    gather: Gather = DEFAULT.gather,
    timeout: float = 600.0,
    save_every: int = DEFAULT.save_every,
    keep_last: int = DEFAULT.keep_last,
    keep_every: int = DEFAULT.keep_every,
    track: tuple[Tracker, ...] = DEFAULT.trackers,
    max_damaged: int | None = None,
    max_skipped: int | None = None,
    seed: int | None = None,
    dry_run: bool = False,
    json: Json = False,
) -> None:
    """Train a policy; an interrupted run goes on where it was, bit for bit on a CPU.

    On several GPUs: `torchrun --nproc-per-node 8 -m pizero train …` (docs/many-gpus.md). The first signal
    (Ctrl-C, SIGTERM) saves at the end of the step and ends with status 130, the second ends at once.

    Args:
        dataset: Folder of a LeRobot dataset, or several: a mixture.
        output: Folder of the run: config, logs, checkpoints, and `policy` when it is finished.
        recipe: Name of the experiment: metaworld (the default), metaworld_positions, metaworld_fast,
            metaworld_pi05, metaworld_co_trained, metaworld_and_navigation, metaworld_real_time; with
            --start-from fine_tune (the default then), fine_tune_lora, fine_tune_expert, or for published
            sizes pi0, pi05, pi0_fast, each also with _lora, and pi0_expert, pi05_expert.
        config: File with the config of another run (its `config.json`), instead of a recipe.
        start_from: Folder of the policy whose weights and contract the run starts from.
        robot: Name of the robot that made the data, or of several, instead of the recipe's.
        statistics: File that `pizero stats` wrote; computed from the data if not given.
        keep_statistics: Normalise with the statistics of the policy that the run starts from.
        weights: Share of each dataset in what is sampled; by default its size to the power of 0.43.
        questions: Folders of questions about pictures, for models that learn text; in `weights` they follow
            the datasets.
        action_tokenizer: Folder that `pizero tokenizer` wrote, for recipes that write actions as tokens.
        steps: Number of updates, instead of the recipe's.
        batch_size: Samples of one update, over all processes, instead of the recipe's.
        rate: Peak learning rate, instead of the recipe's; the final rate keeps its proportion.
        precision: Dtype of the transformers' activations; by default bfloat16 where the processor has it.
        augment: Change the pictures: as openpi's library behaves, as its config intends, or not at all.
        num_draws: Pairs of noise and flow time for each observation; more of them are no more observations.
        max_delay: Learn to be given up to so many first actions of a chunk, for real-time chunking.
        ema_decay: Decay of the moving average of the weights, instead of the recipe's; 0 is the last weights.
        frames: Where pictures come from: decoded into memory, into a cache on disk, or on demand from video.
        frame_cache: Folder of that cache; it serves other runs on the same data too.
        workers: Processes that prepare batches; 0 is a thread.
        micro_batches: Pieces in which each process makes its part of a batch, one after the other.
        recompute: What the backward pass computes again to save memory: what is cheap, or whole layers.
        compile: Compile each layer with torch.compile.
        shards: Processes that divide a model among them; 0 is all of them, 1 is a copy in each.
        gather: Dtype in which divided layers are put together; bfloat16 halves the traffic, but rounds.
        timeout: Seconds that a process waits for another one before the run fails.
        save_every: Steps between two checkpoints.
        keep_last: Newest checkpoints that are kept.
        keep_every: Checkpoints at multiples of so many steps are kept too; 0 is none.
        track: More places for the figures, beside metrics.jsonl and TensorBoard's files.
        max_damaged: So many samples that cannot be read are replaced by others before the run stops.
        max_skipped: So many updates whose gradient is not finite are passed over before the run stops.
        seed: Decides initial weights, order of samples and noise.
        dry_run: Print the resolved config, the data, and what the run needs of memory and work, and stop.
        json: Print the dry run as JSON.
    """
    start = None if start_from is None else read_start(start_from)
    resolved = resolve(
        recipe,
        config,
        start,
        robots=robot,
        steps=steps,
        rate=rate,
        precision=precision,
        augment=augment,
        num_draws=num_draws,
        max_delay=max_delay,
        chosen={
            "weights": weights or None,
            "batch_size": batch_size,
            "ema_decay": ema_decay,
            "max_damaged": max_damaged,
            "max_skipped": max_skipped,
            "seed": seed,
        },
    )
    execution = Execution(
        num_workers=workers,
        micro_batches=micro_batches,
        recompute=recompute,
        compiled=compile,
        shards=shards,
        gather=gather,
        save_every=save_every,
        keep_last=keep_last,
        keep_every=keep_every,
        trackers=track,
    )
    if dry_run:
        found = plan(resolved, execution, dataset, output)
        print_plan(found, as_json=json)
        problems = [row["problem"] for row in found["datasets"] if row["problem"]]
        if problems:
            raise ValueError("; ".join(problems))
        return
    if start is None and recipe in NEEDS_START:
        raise ValueError(
            f"the recipe {recipe!r} starts from a published checkpoint: convert one with `pizero convert`, "
            f"and name its folder with --start-from"
        )

    def run() -> None:
        with join_ranks(timeout=timeout) as ranks:
            with ranks.in_turn():
                sources = open_sources(
                    resolved,
                    [open_dataset(folder) for folder in dataset],
                    tokenizers=output / "tokenizers",
                    statistics=statistics,
                    action_tokenizer=action_tokenizer,
                    frames=frames,
                    frame_cache=frame_cache,
                    start=start,
                    keep_statistics=keep_statistics,
                )
                asked = open_questions(resolved, questions, sources)
            policies = train_policy(
                resolved,
                (*sources, *asked),
                output,
                execution=execution,
                ranks=ranks,
                start=start_from,
            )
            if ranks.is_first:
                _say_what_was_read(output)
                for policy in policies:
                    name = policy.name if len(policies) > 1 else sources[0].contract.embodiment.name
                    say(f"{policy}: a policy for {name}", next_command=f"pizero evaluate {policy}")

    under_torchrun = "WORLD_SIZE" in os.environ
    with sigterm_interrupts():
        (record(run) if under_torchrun else run)()  # torchrun shows what a process failed of


def resolve(
    recipe: str | None,
    config: Path | None,
    start: StartingPoint | None,
    *,
    robots: tuple[str, ...],
    steps: int | None,
    rate: float | None,
    precision: Precision | None,
    augment: Literal["none", "openpi", "intended"] | None,
    num_draws: int | None,
    max_delay: int | None,
    chosen: dict[str, Any],
) -> TrainConfig:
    """Return what a run computes: a recipe or another run's config, with what the user chose instead.

    ValueError if options contradict each other.
    """
    if config is not None and recipe is not None:
        raise ValueError("--recipe and --config exclude each other: a config says all that a recipe does")
    if config is not None:
        resolved = read_record(TrainConfig, config)
        if precision is not None:
            resolved = replace(resolved, model=replace(resolved.model, compute_dtype=precision))
        if steps is not None:
            schedule = resolved.optimizer
            if schedule.decay_steps == resolved.num_steps:
                schedule = replace(schedule, decay_steps=steps)
            resolved = replace(resolved, num_steps=steps, optimizer=schedule)
        if resolved.starts_from and (start is None or start.sha256 != resolved.starts_from):
            raise ValueError(
                f"{config} is of a run that started from the policy whose manifest has the sha256 "
                f"{resolved.starts_from}: name that policy with --start-from"
            )
    else:
        name = recipe or ("metaworld" if start is None else "fine_tune")
        given: dict[str, Any] = {} if steps is None else {"num_steps": steps}
        make = find_recipe(name, None if start is None else start.model)
        resolved = make(precision=precision, **given)
    if robots:
        resolved = replace(resolved, embodiments=robots)
    elif start is not None and config is None:
        resolved = replace(resolved, embodiments=(start.contract.embodiment.name,))
    if rate is not None:
        optimizer = resolved.optimizer
        final = optimizer.final_rate * rate / optimizer.peak_rate
        resolved = replace(resolved, optimizer=replace(optimizer, peak_rate=rate, final_rate=final))
    if augment is not None:
        style = Augmentation(saturation_acts=augment == "intended")
        resolved = replace(resolved, augmentation=None if augment == "none" else style)
    if num_draws is not None:
        if isinstance(resolved.model, Pi0FASTConfig) or num_draws < 1:
            raise ValueError(
                f"expected at least one draw of noise, for a model that denoises; found {num_draws} for a "
                f"{type(resolved.model).__name__.removesuffix('Config')}"
            )
        resolved = replace(resolved, model=replace(resolved.model, num_draws=num_draws))
    if max_delay is not None:
        if isinstance(resolved.model, Pi0FASTConfig):
            raise ValueError(
                "a π0-FAST writes its actions as tokens, and cannot be given the first: leave out --max-delay"
            )
        resolved = replace(resolved, model=replace(resolved.model, max_delay=max_delay))
    names = {field.name for field in fields(TrainConfig)}
    assert names >= set(chosen)
    resolved = replace(resolved, **{name: value for name, value in chosen.items() if value is not None})
    return resolved if start is None else inherit(resolved, start)


def _say_what_was_read(output: Path) -> None:
    path = output / "samples.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if len(rows) < 2:
        return
    table = Table(title="what was sampled")
    for column in ("dataset", "robot", "training frames", "samples", "share", "epochs"):
        table.add_column(column, justify="left" if column in ("dataset", "robot") else "right")
    for row in rows:
        table.add_row(
            row["dataset"],
            row["robot"],
            f"{row['training_frames']:,}",
            f"{row['samples']:,}",
            f"{row['share']:.3f}",
            f"{row['epochs']:.2f}",
        )
    Console().print(table)
