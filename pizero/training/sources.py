"""From datasets and a config to what the loop reads: a contract for each robot, pictures for each dataset."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pizero.contract import ActionTokens, Contract, Statistics
from pizero.data.action_tokens import FastTokenizer
from pizero.data.dataset import check_robot, used_cameras
from pizero.data.frames import FrameSource, open_frames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import QuestionSource, Source
from pizero.data.processor import Processor
from pizero.data.questions import QuestionSet
from pizero.data.statistics import compute_statistics
from pizero.data.text import ByteTokenizer
from pizero.embodiment import Embodiment
from pizero.models.build import ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.records import differences, read_record, to_data
from pizero.robots import find_embodiment
from pizero.training.config import TrainConfig
from pizero.training.starting import StartingPoint
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
    start: StartingPoint | None = None,
    keep_statistics: bool = False,
) -> tuple[Source, ...]:
    """Return the datasets of a run, each with the contract of its robot, and their pictures.

    A run that starts from a policy has its contract, but for the robot and the statistics, which are kept or
    taken anew. Tokenizers that the contracts name are copied into the folder `tokenizers`. ValueError if a
    dataset is of none of the config's robots, a robot has no dataset, or a file of `statistics` or the folder
    of an `action_tokenizer` does not fit the config.
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
    if start is not None:
        start.copy_tokenizers(tokenizers)
    if keep_statistics and (start is None or statistics is not None):
        raise ValueError("statistics are kept of the policy that a run starts from: name it, and no file")
    tokens = None if start is None else start.contract.action_tokens
    if tokens is None or action_tokenizer is not None or not learns_text(config.model):
        tokens = _action_tokens(config, action_tokenizer, tokenizers)
    contracts: dict[str, Contract] = {}
    for robot in robots:
        own = [dataset for dataset, owner in zip(datasets, owners, strict=True) if owner == robot]
        contract = make_contract(config, robot, own, statistics, tokens)
        contracts[robot.name] = contract if start is None else _as_known(contract, start, keep_statistics)
    return tuple(
        Source(
            dataset=dataset,
            contract=contracts[owner.name],
            frames=open_frames(dataset, used_cameras(dataset, owner), frames, frame_cache),
            files=tokenizers,
        )
        for dataset, owner in zip(datasets, owners, strict=True)
    )


def open_questions(
    config: TrainConfig, folders: Sequence[str | Path], sources: Sequence[Source], *, robot: str = ""
) -> tuple[QuestionSource, ...]:
    """Return folders of questions about pictures as more sources of a run, beside those of its robots.

    They are asked through the contract of `robot`, which may be left out where there is only one. ValueError
    if the model learns no text, a folder is damaged, or a question does not fit the contract.
    """
    if folders and not learns_text(config.model):
        raise ValueError(
            "this recipe's model learns no text; leave out the questions, or take a co-trained π0.5 or a "
            "π0-FAST"
        )
    owners = {source.contract.embodiment.name: source for source in sources}
    if folders and (robot or len(owners) > 1) and robot not in owners:
        raise ValueError(
            f"expected the name of the robot whose cameras the questions are about, one of "
            f"{', '.join(owners)}, found {robot!r}"
        )
    found = []
    for folder in folders:
        owner = owners[robot or next(iter(owners))]
        questions = QuestionSet.open(folder)
        questions.check(Processor(owner.contract, owner.files))
        found.append(QuestionSource(frames=questions, contract=owner.contract, files=owner.files))
    return tuple(found)


def learns_text(model: ModelConfig) -> bool:
    """Return whether a model's loss has a term for the tokens that follow a prompt."""
    return isinstance(model, Pi0FASTConfig) or (
        isinstance(model, Pi05Config) and model.co_training is not None
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


def _as_known(contract: Contract, start: StartingPoint, keep_statistics: bool) -> Contract:  # noqa: FBT001
    """Return a new contract with what a policy's weights know: its tokenizer, its slots, its statistics."""
    known = start.contract
    different = differences(to_data(contract.embodiment), to_data(known.embodiment))
    if keep_statistics and different:
        raise ValueError(
            f"statistics can be kept for the same robot alone; {contract.embodiment.name} differs from that "
            f"of {start.folder} (new ≠ policy's): {'; '.join(different[:5])}. Leave out --keep-statistics"
        )
    return replace(
        contract,
        slots=contract.slots if different else known.slots,
        absent_valid=known.absent_valid,
        padded_prompt_state=known.padded_prompt_state,
        instruction=known.instruction,
        tokenizer=known.tokenizer,
        epsilon=known.epsilon,
        statistics=known.statistics if keep_statistics else contract.statistics,
    )


def _action_tokens(config: TrainConfig, folder: Path | None, target: Path) -> ActionTokens | None:
    """Return how actions are written as tokens, and copy the tokenizer's file to where the run keeps it."""
    co_trained = isinstance(config.model, Pi05Config) and config.model.co_training is not None
    if co_trained and config.prompt != "pi05":
        raise ValueError(f"a co-trained π0.5 needs the prompt 'pi05', found {config.prompt!r}")
    if config.prompt != "pi0_fast" and not co_trained:
        if folder is not None:
            raise ValueError("this recipe writes actions as numbers; leave out the action tokenizer")
        return None
    if co_trained and folder is None:
        raise ValueError(
            "a co-trained π0.5 learns actions as tokens too: give the folder of a FAST tokenizer with "
            "--action-tokenizer (`pizero tokenizer` fits one)"
        )
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
