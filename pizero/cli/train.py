"""`pizero train`: from one dataset, or several, to a policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pizero.cli.options import say
from pizero.data.frames import FrameSource
from pizero.data.hub import open_dataset
from pizero.models.build import build
from pizero.recipes import Precision, find_recipe
from pizero.records import to_data
from pizero.training.config import TrainConfig
from pizero.training.loop import train as train_policy
from pizero.training.sources import open_sources


def train(
    *,
    dataset: tuple[Path, ...],
    output: Path,
    recipe: str = "metaworld",
    statistics: Path | None = None,
    weights: tuple[float, ...] = (),
    action_tokenizer: Path | None = None,
    steps: int | None = None,
    precision: Precision | None = None,
    frames: FrameSource = "auto",
    frame_cache: Path | None = None,
    workers: int = 0,
    max_damaged: int = 0,
    seed: int = 0,
    dry_run: bool = False,
) -> None:
    """Train a policy; an interrupted run goes on where it was, bit for bit on a CPU.

    Args:
        dataset: Folder of a LeRobot dataset, or several: a mixture.
        output: Folder of the run: config, logs, checkpoints, and `policy` when it is finished.
        recipe: Name of the experiment.
        statistics: File that `pizero stats` wrote; computed from the data if not given.
        weights: Share of each dataset in what is sampled; by default its size to the power of 0.43.
        action_tokenizer: Folder that `pizero tokenizer` wrote, for recipes that write actions as tokens.
        steps: Number of updates, instead of the recipe's.
        precision: Dtype of the transformers' activations; by default bfloat16 where the processor has it.
        frames: Where pictures come from: decoded into memory, into a cache on disk, or on demand from video.
        frame_cache: Folder of that cache; it serves other runs on the same data too.
        workers: Processes that prepare batches; 0 is a thread.
        max_damaged: So many samples that cannot be read are replaced by others before the run stops.
        seed: Decides initial weights, order of samples and noise.
        dry_run: Print the resolved config, the data and the model's size, and stop.
    """
    make = find_recipe(recipe)
    chosen = {} if steps is None else {"num_steps": steps}
    config = replace(make(seed=seed, precision=precision, **chosen), weights=weights, max_damaged=max_damaged)
    if dry_run:
        _dry_run(config, dataset, output)
        return
    sources = open_sources(
        config,
        [open_dataset(folder) for folder in dataset],
        tokenizers=output / "tokenizers",
        statistics=statistics,
        action_tokenizer=action_tokenizer,
        frames=frames,
        frame_cache=frame_cache,
    )
    policies = train_policy(config, sources, output, num_workers=workers)
    _say_what_was_read(output)
    for policy in policies:
        robot = policy.name if len(policies) > 1 else sources[0].contract.embodiment.name
        say(f"{policy}: a policy for {robot}", next_command=f"pizero evaluate {policy}")


def _dry_run(config: TrainConfig, folders: tuple[Path, ...], output: Path) -> None:
    parameters = sum(parameter.numel() for parameter in build(config.model).parameters())
    print(json.dumps(to_data(config), indent=2))
    named = ", ".join(map(str, folders))
    say(f"{parameters:,} parameters; would train {config.num_steps} steps on {named} into {output}")


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
