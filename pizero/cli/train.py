"""`pizero train`: from a dataset to a policy."""

from __future__ import annotations

import json
from pathlib import Path

from pizero.cli.options import say
from pizero.contract import Contract, Statistics
from pizero.data.dataset import check_robot
from pizero.data.lerobot import LeRobotDataset
from pizero.data.statistics import compute_statistics
from pizero.models.build import build
from pizero.recipes import Precision, find_recipe
from pizero.records import read_record, to_data
from pizero.robots import find_embodiment
from pizero.training.config import TrainConfig
from pizero.training.loop import train as train_policy


def train(
    *,
    dataset: Path,
    output: Path,
    recipe: str = "metaworld",
    statistics: Path | None = None,
    steps: int | None = None,
    precision: Precision | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> None:
    """Train a policy; an interrupted run goes on where it was, bit for bit on a CPU.

    Args:
        dataset: Folder of a LeRobot v3.0 dataset.
        output: Folder of the run: config, logs, checkpoints, and `policy` when it is finished.
        recipe: Name of the experiment.
        statistics: File that `pizero stats` wrote; computed from the dataset if not given.
        steps: Number of updates, instead of the recipe's.
        precision: Dtype of the transformers' activations; by default bfloat16 where the processor has it.
        seed: Decides initial weights, order of samples and noise.
        dry_run: Print the resolved config and the model's size, and stop.
    """
    make = find_recipe(recipe)
    chosen = {} if steps is None else {"num_steps": steps}
    config = make(seed=seed, precision=precision, **chosen)
    if dry_run:
        parameters = sum(parameter.numel() for parameter in build(config.model).parameters())
        print(json.dumps(to_data(config), indent=2))
        say(f"{parameters:,} parameters; would train {config.num_steps} steps on {dataset} into {output}")
        return
    opened = LeRobotDataset.open(dataset)
    contract = make_contract(config, opened, statistics)
    policy = train_policy(config, opened, contract, output)
    say(f"{policy}: a policy for {contract.embodiment.name}", next_command=f"pizero evaluate {policy}")


def make_contract(config: TrainConfig, dataset: LeRobotDataset, statistics: Path | None) -> Contract:
    """Return the contract of a new policy; ValueError if the dataset was made by another robot."""
    embodiment = find_embodiment(config.embodiment)
    check_robot(dataset, embodiment)
    form, horizon = config.action_form, config.model.horizon
    if statistics is None:
        given = compute_statistics(dataset, embodiment, action_form=form, horizon=horizon)
    else:
        given = read_record(Statistics, statistics)
        if (given.action_form, given.horizon) != (form, horizon):
            raise ValueError(
                f"{statistics} holds statistics of actions as {given.action_form!r} over {given.horizon} "
                f"steps, the recipe needs {form!r} over {horizon}: use `pizero stats` with that recipe"
            )
    return Contract(
        embodiment=embodiment,
        image_size=config.image_size,
        max_tokens=config.max_tokens,
        horizon=config.model.horizon,
        normalization=config.normalization,
        statistics=given,
    )
