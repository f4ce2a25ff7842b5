"""What `pizero train --dry-run` says: the resolved config, the data, and what a run needs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pizero.data.hub import open_dataset
from pizero.models.build import skeleton
from pizero.records import to_data
from pizero.training.config import Execution, TrainConfig
from pizero.training.flops import count_flops
from pizero.training.freezing import freeze
from pizero.training.memory import estimate_memory
from pizero.training.ranks import Ranks
from pizero.training.sharding import check_shards
from pizero.training.update import check_division

CARDS = {"24 GB card": 24.0, "40 GB card": 40.0, "80 GB card": 80.0, "141 GB card": 141.0}
"""Memory of usual cards, in 10⁹ bytes."""

OUTSIDE = 1.2
"""So many 10⁹ bytes of a card are CUDA's own and its libraries'."""


def plan(config: TrainConfig, execution: Execution, folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Return what a run would read, compute and need; ValueError if it could not begin.

    Memory is that of one of the processes that torchrun started, or of one process.
    """
    ranks = Ranks(world_size=int(os.environ.get("WORLD_SIZE", "1")))
    check_division(config, execution, ranks)
    shards = execution.shards or ranks.world_size
    check_shards(shards, ranks)
    model = skeleton(config.model)
    freeze(model, config.frozen)
    parameters = list(model.parameters())
    rows = config.batch_size // ranks.world_size // execution.micro_batches
    memory = estimate_memory(
        config,
        rows=rows,
        shards=shards,
        micro_batches=execution.micro_batches,
        recompute=execution.recompute,
        gather=execution.gather,
    )
    flops = count_flops(config).total
    return {
        "config": to_data(config),
        "execution": to_data(execution),
        "output": str(output),
        "datasets": [_dataset(folder) for folder in folders],
        "parameters": sum(parameter.numel() for parameter in parameters),
        "parameters_that_train": sum(
            parameter.numel() for parameter in parameters if parameter.requires_grad
        ),
        "processes": ranks.world_size,
        "rows_at_once": rows,
        "samples": config.batch_size * config.num_steps,
        "flops_per_sample": flops,
        "flops": flops * config.batch_size * config.num_steps,
        "memory": asdict(memory),
        "fits": [name for name, size in CARDS.items() if memory.peak <= (size - OUTSIDE) * 1e9],
    }


def print_plan(found: dict[str, Any], *, as_json: bool) -> None:
    """Print a plan as JSON, or as the config and two tables."""
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(json.dumps(found["config"], indent=2, ensure_ascii=False))
    console = Console()
    data = Table(title="data")
    for column in ("dataset", "episodes", "frames", "tasks"):
        data.add_column(column, justify="left" if column == "dataset" else "right")
    for row in found["datasets"]:
        numbers = ["?" if row[key] is None else f"{row[key]:,}" for key in ("episodes", "frames", "tasks")]
        data.add_row(row["dataset"], *numbers)
    console.print(data)
    memory = Table(title=f"memory of one process ({found['rows_at_once']} samples at once)")
    memory.add_column("what")
    memory.add_column("GB (10⁹ bytes)", justify="right")
    for name, size in found["memory"].items():
        memory.add_row(name, f"{size / 1e9:.2f}", end_section=name == "activations")
    console.print(memory)
    print(f"fits: {', '.join(found['fits']) or 'no usual card'}")
    if len(found["fits"]) < len(CARDS):
        print("to fit a smaller one: --recompute layers first, then more --micro-batches, then more GPUs")
    print(
        f"{found['parameters']:,} parameters, {found['parameters_that_train']:,} of them train; "
        f"{found['samples']:,} samples of {found['flops_per_sample'] / 1e9:,.1f} GFLOP each, "
        f"{found['flops'] / 1e15:,.1f} PFLOP in all (recomputation not counted)"
    )
    print(f"would train {found['config']['num_steps']:,} steps into {found['output']}; nothing was written")


def _dataset(folder: Path) -> dict[str, Any]:
    try:
        dataset = open_dataset(folder)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return {
            "dataset": str(folder),
            "episodes": None,
            "frames": None,
            "tasks": None,
            "problem": str(error),
        }
    return {
        "dataset": str(folder),
        "episodes": len(dataset.episodes),
        "frames": dataset.num_frames,
        "tasks": len(dataset.tasks),
        "problem": None,
    }
