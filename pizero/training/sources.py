"""From datasets and a config to what the loop reads: a contract for each robot, pictures for each dataset."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pizero.contract import ActionTokens, Contract, Statistics
from pizero.data.action_tokens import FastTokenizer
from pizero.data.dataset import check_robot, used_cameras
from pizero.data.frames import FrameSource, open_frames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Source
from pizero.data.statistics import compute_statistics
from pizero.data.text import ByteTokenizer
from pizero.embodiment import Embodiment
from pizero.records import read_record
from pizero.robots import find_embodiment
from pizero.training.config import TrainConfig
from pizero.weights.contracts import find_action_tokens


def open_sources(
    config: TrainConfig,
    datasets: Sequence[LeRobotDataset],
    *,
    tokenizers: Path,
    statistics: Path | None = None,
    action_tokenizer: Path | None = None,
    frames: FrameSource = "auto",
    frame_cache: Path | None = None,
) -> tuple[Source, ...]:
    """Return the datasets of a run, each with the contract of its robot, and their pictures.

    Tokenizers that the contracts name are copied into the folder `tokenizers`. ValueError if a dataset is of
    none of the config's robots, a robot has no dataset, or a file of `statistics` or the folder of an
    `action_tokenizer` does not fit the config.
    """
    robots = [find_embodiment(name) for name in config.embodiments]
    owners = [robot_of(dataset, robots) for dataset in datasets]
    idle = [robot.name for robot in robots if robot not in owners]
    if idle or not datasets:
        raise ValueError(f"expected a dataset of each robot of the recipe, found none of {', '.join(idle)}")
    if statistics is not None and len(robots) > 1:
        raise ValueError("a file of statistics is of one robot; leave it out, and they are computed of each")
    for dataset in datasets:
        dataset.check_times()
    tokens = _action_tokens(config, action_tokenizer, tokenizers)
    contracts: dict[str, Contract] = {}
    for robot in robots:
        own = [dataset for dataset, owner in zip(datasets, owners, strict=True) if owner == robot]
        contracts[robot.name] = make_contract(config, robot, own, statistics, tokens)
    return tuple(
        Source(
            dataset=dataset,
            contract=contracts[owner.name],
            frames=open_frames(dataset, used_cameras(dataset, owner), frames, frame_cache),
            files=tokenizers,
        )
        for dataset, owner in zip(datasets, owners, strict=True)
    )


def robot_of(dataset: LeRobotDataset, robots: Sequence[Embodiment]) -> Embodiment:
    """Return the robot that made a dataset; ValueError says how it differs from each."""
    reasons = []
    for robot in robots:
        try:
            check_robot(dataset, robot)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return robot
    raise ValueError("; ".join(reasons))


def make_contract(
    config: TrainConfig,
    robot: Embodiment,
    datasets: Sequence[LeRobotDataset],
    statistics: Path | None,
    action_tokens: ActionTokens | None = None,
) -> Contract:
    """Return the contract of a new policy for a robot, with statistics of all its data together."""
    horizon = config.model.horizon
    if statistics is None:
        given = compute_statistics(
            datasets,
            robot,
            action_form=config.action_form,
            absolute=config.absolute,
            horizon=horizon,
            convention=config.convention,
        )
    else:
        given = read_record(Statistics, statistics)
        found = (given.action_form, given.absolute, given.horizon, given.convention)
        expected = (config.action_form, config.absolute, horizon, config.convention)
        if found != expected:
            names = ("action form", "absolute dimensions", "horizon", "convention")
            wrong = [
                f"{name} {theirs!r}, expected {ours!r}"
                for name, theirs, ours in zip(names, found, expected, strict=True)
                if theirs != ours
            ]
            raise ValueError(
                f"{statistics} does not fit the recipe: {'; '.join(wrong)}. Use `pizero stats` with that "
                f"recipe"
            )
    missing = max(config.num_slots - len(robot.cameras), 0)
    return Contract(
        embodiment=robot,
        convention=config.convention,
        slots=(*robot.camera_names, *[""] * missing) if missing else (),
        image_size=config.image_size,
        prompt=config.prompt,
        max_tokens=config.max_tokens,
        horizon=horizon,
        width=config.width,
        action_tokens=action_tokens,
        normalization=config.normalization,
        statistics=given,
    )


def _action_tokens(config: TrainConfig, folder: Path | None, target: Path) -> ActionTokens | None:
    """Return how actions are written as tokens, and copy the tokenizer's file to where the run keeps it."""
    if config.prompt != "pi0_fast":
        if folder is not None:
            raise ValueError("this recipe writes actions as numbers; leave out the action tokenizer")
        return None
    vocabulary = config.model.backbone.vocab_size
    tokens, files = find_action_tokens(folder, vocabulary, decoding="relaxed")
    room = tokens.first_id + 1 - ByteTokenizer.vocab_size
    needed = FastTokenizer.load_folder(files[tokens.file.name].parent).vocab_size
    if needed > room:
        raise ValueError(
            f"the recipe's vocabulary has room for {room} action tokens, found {needed} in {folder}: fit a "
            f"tokenizer with `pizero tokenizer --vocab-size {room}`"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        shutil.copyfile(path, target / name)
    return tokens
