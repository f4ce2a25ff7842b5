"""A training run as its folder tells of it, finished or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pizero.contract import Contract
from pizero.diagnose.run_log import Lines, read_lines
from pizero.records import from_data, read_record
from pizero.results import EpisodeResult
from pizero.training.config import TrainConfig
from pizero.training.run_folder import EXECUTIONS
from pizero.weights.folder import MANIFEST, sha256_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run wrote down; `notes` says what of it is missing or damaged, one sentence each.

    `folder` is what the user names, `training` the folder in it that the training wrote; they may be one.
    `contracts`, and `policies` as far as they are there, are by robot; `evaluations` are by folder.
    """

    folder: Path
    training: Path
    config: TrainConfig
    contracts: Mapping[str, Contract]
    policies: Mapping[str, Path]
    samples: Sequence[dict[str, Any]]
    metrics: Sequence[dict[str, Any]]
    validation: Sequence[dict[str, Any]]
    skipped: Sequence[dict[str, Any]]
    executions: Sequence[dict[str, Any]]
    evaluations: Mapping[Path, list[EpisodeResult]]
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Return whether the run wrote the policies of all its robots."""
        return bool(self.contracts) and set(self.policies) == set(self.contracts)

    @property
    def step(self) -> int:
        """Return how many updates were made, as far as the log says."""
        return max((row["step"] for row in self.metrics), default=0)


def read_run(folder: Path) -> Run:
    """Read a run that `pizero demo` or `pizero train` wrote; ValueError if the folder holds none."""
    training = find_training(folder)
    config = read_record(TrainConfig, training / "config.json")
    notes: list[str] = []

    def read(name: str) -> list[dict[str, Any]]:
        return _noted(training / name, read_lines(training / name), notes)

    contracts = _contracts(training, notes)
    policies = _policies(training, contracts)
    evaluations = {
        place: results
        for place in _evaluations(folder, training, policies, notes)
        if (results := _results(place / "episodes.jsonl", notes))
    }
    return Run(
        folder=folder,
        training=training,
        config=config,
        contracts=contracts,
        policies=policies,
        samples=_samples(folder, training, contracts, notes),
        metrics=read("metrics.jsonl"),
        validation=read("validation.jsonl"),
        skipped=read("skipped.jsonl"),
        executions=read(EXECUTIONS),
        evaluations=evaluations,
        notes=tuple(notes),
    )


def find_training(folder: Path) -> Path:
    """Return the folder of a run that the training wrote; ValueError if there is none."""
    if (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} is not a run: expected the folder that `pizero train --output` names, found a policy "
            f"or a checkpoint of one; name the folder of the run that holds it"
        )
    for place in (folder / "training", folder):
        if (place / "config.json").is_file():
            return place
    raise ValueError(
        f"{folder} is not a run: expected {folder / 'training' / 'config.json'} or "
        f"{folder / 'config.json'}, found neither; `pizero demo` or `pizero train --output {folder}` makes "
        f"one"
    )


def find_data(named: str, run: Path) -> Path | None:
    """Return where a dataset lies: where it was, or in the folder of a run that was moved with it."""
    return next((path for path in (Path(named), run / Path(named).name) if path.is_dir()), None)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _noted(path: Path, lines: Lines, notes: list[str]) -> list[dict[str, Any]]:
    if lines.damaged:
        several = "1 line is" if lines.damaged == 1 else f"{lines.damaged} lines are"
        notes.append(f"{path.name}: {several} damaged and passed over")
    return lines.rows


def _contracts(training: Path, notes: list[str]) -> dict[str, Contract]:
    found: dict[str, Contract] = {}
    for path in [training / "contract.json", *sorted(training.glob("contract-*.json"))]:
        if path.is_file():
            try:
                contract = read_record(Contract, path)
            except ValueError as error:
                notes.append(str(error))
            else:
                found[contract.embodiment.name] = contract
    return found


def _policies(training: Path, contracts: Mapping[str, Contract]) -> dict[str, Path]:
    alone = training / "policy"
    places = {robot: training / "policies" / robot for robot in contracts}
    if len(contracts) == 1:
        places = dict.fromkeys(contracts, alone)
    return {robot: place for robot, place in places.items() if (place / MANIFEST).is_file()}


def _samples(
    folder: Path, training: Path, contracts: Mapping[str, Contract], notes: list[str]
) -> list[dict[str, Any]]:
    """Return what was read of each dataset; a run that noted nothing may have its dataset beside it."""
    path = training / "samples.json"
    rows = read_json(path)
    if rows is None and path.is_file():
        notes.append(f"{path.name} is damaged: what was sampled is not known")
    if isinstance(rows, list):
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("dataset"), str)]
    if (folder / "dataset").is_dir() and len(contracts) == 1:
        return [{"dataset": str(folder / "dataset"), "robot": next(iter(contracts))}]
    return []


def _evaluations(folder: Path, training: Path, policies: Mapping[str, Path], notes: list[str]) -> list[Path]:
    """Return the folders where `pizero evaluate` puts results of these policies; others' are left out."""
    known = {sha256_of(policy / MANIFEST) for policy in policies.values()}
    names = ["evaluation", *(f"evaluation-{robot}" for robot in policies)]
    found = []
    for place in dict.fromkeys(top / name for top in (folder, training, training.parent) for name in names):
        if (place / "episodes.jsonl").is_file():
            data = read_json(place / "run.json")
            policy = data.get("policy_sha256") if isinstance(data, dict) else None
            within = place.parent in (folder, training)
            if policy in known or (policy is None and within):
                found.append(place)
            elif within:
                notes.append(f"{place.name} is of another policy than this run's, and is not shown")
    return found


def _results(path: Path, notes: list[str]) -> list[EpisodeResult]:
    lines = read_lines(path, key="task", kind=str)
    results, wrong = [], 0
    for row in lines.rows:
        try:
            results.append(from_data(EpisodeResult, row))
        except ValueError:
            wrong += 1
    _noted(path, Lines(rows=[], damaged=lines.damaged + wrong), notes)
    return results
