"""Runs of the small experiment by two processes, one after the other; torchrun starts this file.

    torchrun --nproc-per-node 2 -m tests.training.on_two_ranks FOLDER

FOLDER holds a dataset, and runs that one process has begun; every run that is named here is made there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pizero.data.lerobot import LeRobotDataset
from pizero.recipes import find_recipe
from pizero.training import update
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import InterruptedRunError, train
from pizero.training.optimizer import OptimizerConfig
from pizero.training.ranks import Ranks, join_ranks
from pizero.training.starting import inherit, read_start
from tests.small import small_config, small_contract, small_source

NUM_STEPS = 8
STOP_AT = 3


@contextmanager
def interrupted(ranks: Ranks, *, only: int, step: int) -> Iterator[None]:
    """Send SIGINT to one of the processes within a step."""
    made = 0
    real = update.update_average

    def interrupt(*given: Any) -> None:
        nonlocal made
        made += 1
        if made == step and ranks.rank == only:
            os.kill(os.getpid(), signal.SIGINT)
        real(*given)

    with mock.patch.object(update, "update_average", interrupt):
        yield


def adapted(policy: Path) -> TrainConfig:
    """Return a run that trains adapters of a policy whose own weights are stored in bfloat16."""
    start = read_start(policy)
    config = find_recipe("fine_tune_lora", start.model)(num_steps=NUM_STEPS)
    rates = OptimizerConfig(peak_rate=2e-4, warmup_steps=1, decay_steps=NUM_STEPS)
    small = replace(
        config,
        embodiments=(start.contract.embodiment.name,),
        batch_size=16,
        frozen_dtype="bfloat16",
        optimizer=rates,
        held_out=0.1,
    )
    return inherit(small, start)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dataset = LeRobotDataset.open(folder / "dataset")
    config = small_config(num_steps=NUM_STEPS)
    source = small_source(dataset, small_contract(config, dataset))
    with join_ranks(timeout=120) as ranks:

        def run(name: str, **execution: Any) -> None:
            train(
                config, [source], folder / name, execution=Execution(save_every=2, **execution), ranks=ranks
            )

        run("sharded")
        try:
            with interrupted(ranks, only=1, step=STOP_AT):
                run("stopped")
        except InterruptedRunError as interruption:
            (folder / f"stopped-{ranks.rank}.txt").write_text(str(interruption))
        run("stopped")
        run("replicated", shards=1)
        run("pieces", micro_batches=2, recompute="layers")
        policy = folder / "alone" / "policy"
        train(adapted(policy), [source], folder / "adapters", ranks=ranks, start=policy)
        run("begun_by_one")
        try:
            with interrupted(ranks, only=0, step=STOP_AT):
                run("begun_by_two")
        except InterruptedRunError:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
