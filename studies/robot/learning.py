"""Training in a study: the library's own update, by any process, some rows without their instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from pizero.data.loader import Samples, batches
from pizero.data.sampler import Sampler, mixture_shares
from pizero.envs.workers import default_workers
from pizero.generative.flow import FlowMatching
from pizero.generative.guidance import Guidance
from pizero.models.base import DenoisingModel
from pizero.progress import counting
from pizero.records import fingerprint, to_data
from pizero.training.checkpoint import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from pizero.training.config import Execution, TrainConfig
from pizero.training.ranks import Ranks
from pizero.training.state import make_state
from pizero.training.update import step_seed, update
from pizero.weights.folder import write_policy
from studies.robot.asking import AnyProcess, without_instruction
from studies.robot.run_folder import Run

SAVE_EVERY = 100


def shortened(config: TrainConfig, num_steps: int, *, seed: int, rate: float = 1.0) -> TrainConfig:
    """Return a recipe for so many updates, its rates times `rate`, its schedule ending with the last one."""
    before = config.optimizer
    optimizer = replace(
        before,
        peak_rate=rate * before.peak_rate,
        final_rate=rate * before.final_rate,
        warmup_steps=min(before.warmup_steps, num_steps // 6),
        decay_steps=num_steps,
    )
    return replace(config, num_steps=num_steps, optimizer=optimizer, seed=seed)


def learn(
    of: Run,
    folder: Path,
    *,
    config: TrainConfig,
    process: AnyProcess,
    dropout: float = 0.0,
    start: Path | None = None,
    snapshots: Sequence[int] = (),
) -> dict[int, Path]:
    """Train on a run's data by its recipe; return policies after the `snapshots` and after the last update.

    The same seed gives the same first weights, batches, noise and uniform numbers behind the times, whatever
    the process. A share `dropout` of the rows loses its instruction. What is there is not computed again.
    """
    wanted = {step: folder / f"step-{step:05d}" for step in (*snapshots, config.num_steps)}
    if all(path.exists() for path in wanted.values()):
        return wanted
    torch.set_num_threads(default_workers())
    source, contract, ranks = of.source("auto"), of.contract, Ranks()
    frames, _ = source.split(config.held_out, of.config.seed)
    sampler = Sampler([frames], mixture_shares([len(frames)]), batch_size=config.batch_size, seed=config.seed)
    state = make_state(config, start=start)
    assert isinstance(state.model, DenoisingModel)
    # The class names the one process that policies are saved with; it uses what every process has.
    state.model.process = cast(FlowMatching, process)
    identity = fingerprint({"config": to_data(config), "process": to_data(process), "dropout": dropout})
    progress = Progress(step=0, fingerprint=identity)
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is not None:
        progress = load_checkpoint(newest, state)
        if progress.fingerprint != identity:
            raise ValueError(f"{folder} holds another training; name another run, or remove it")
    steps = range(progress.step, config.num_steps)
    stream = batches(Samples([source], [frames]), sampler, steps=steps, device=ranks.device)
    with counting(f"training {folder.name}", config.num_steps, "steps", done=progress.step) as counter:
        for step, batch in zip(steps, stream, strict=True):
            if dropout:
                generator = torch.Generator().manual_seed(step_seed(config.seed, step, stream=2))
                keep = Guidance(dropout=dropout).keeps(len(batch.actions), generator)
                batch = replace(batch, inputs=without_instruction(batch.inputs, keep))
            figures = update(state, batch, config, step=step, execution=Execution(), ranks=ranks)
            counter.advance(note=f"loss {figures.loss:.4f}")
            made = step + 1
            if made in wanted and not wanted[made].exists():
                weights = state.policy_weights(keep=True)
                write_policy(wanted[made], config=config.model, contract=contract, tensors=weights)
            if made % SAVE_EVERY == 0:
                done = replace(progress, step=made)
                save_checkpoint(folder / "checkpoints", done, state, keep_last=1)
    torch.set_num_threads(1)
    return wanted
