"""What a contract and a dataset say of themselves, compared before anything is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pizero.contract import Contract
from pizero.data.lerobot import LeRobotDataset
from pizero.data.text import clean
from pizero.records import read_record

Weight = Literal["fatal", "fault", "suspicion"]
"""Whether nothing can be replayed, something is wrong for sure, or only if the answers are wrong too."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Something in which the contract and the dataset differ, under the name of a culprit."""

    code: str
    weight: Weight
    evidence: str
    advice: str


def mismatches(contract: Contract, dataset: LeRobotDataset, trained: Contract | None) -> list[Mismatch]:
    """Return all differences, those that prevent a replay first; `trained` is the contract of the run."""
    found = [
        *_dimensions(contract, dataset),
        *_cameras(contract, dataset),
        *_rate(contract, dataset),
        *_instructions(contract, dataset),
        *_hash(contract, trained),
    ]
    return sorted(found, key=lambda mismatch: ("fatal", "fault", "suspicion").index(mismatch.weight))


def _dimensions(contract: Contract, dataset: LeRobotDataset) -> list[Mismatch]:
    embodiment = contract.embodiment
    found = []
    for what, expected, names, width in (
        ("state", embodiment.state, dataset.state_names, dataset.states.shape[1]),
        ("actions", embodiment.actions, dataset.action_names, dataset.actions.shape[1]),
    ):
        wanted = tuple(dimension.name for dimension in expected)
        if len(wanted) == width and wanted == names:
            continue
        evidence = (
            f"{what}: the contract ({embodiment.name}) has {len(wanted)} numbers ({', '.join(wanted)}), "
            f"the dataset {width} ({', '.join(names)})"
        )
        if len(wanted) != width:
            advice = "serve the policy that was trained for this robot, or name the robot's own dataset"
            found.append(Mismatch(code="another-robot", weight="fatal", evidence=evidence, advice=advice))
        elif sorted(wanted) == sorted(names):
            code = "state-order" if what == "state" else "action-order"
            advice = f"bring the {what} into the contract's order, both in the data and on the robot"
            found.append(Mismatch(code=code, weight="suspicion", evidence=evidence, advice=advice))
        else:
            advice = "check that both are the same robot; if so, give its dimensions the same names"
            found.append(Mismatch(code="another-robot", weight="suspicion", evidence=evidence, advice=advice))
    return found


def _cameras(contract: Contract, dataset: LeRobotDataset) -> list[Mismatch]:
    embodiment, there = contract.embodiment, dataset.camera_names
    missing = [camera.name for camera in embodiment.cameras if camera.required and camera.name not in there]
    absent = [
        camera.name for camera in embodiment.cameras if not camera.required and camera.name not in there
    ]
    unused = [name for name in there if name not in embodiment.camera_names]
    names = f"the contract has {', '.join(embodiment.camera_names)}, the dataset {', '.join(there) or 'none'}"
    found = []
    if missing:
        advice = f"record {', '.join(missing)}, or rename the camera that it is"
        found.append(Mismatch(code="camera-missing", weight="fatal", evidence=names, advice=advice))
    elif absent or unused:
        advice = "give each camera the name that it had in training; the policy never sees the others"
        found.append(Mismatch(code="camera-missing", weight="suspicion", evidence=names, advice=advice))
    return found


def _rate(contract: Contract, dataset: LeRobotDataset) -> list[Mismatch]:
    rate = contract.embodiment.rate
    if rate == dataset.fps:
        return []
    evidence = (
        f"the policy's actions are {rate:g} a second, the dataset's {dataset.fps:g}: executed there, they "
        f"would run {dataset.fps / rate:.2g} times as fast"
    )
    advice = f"record at {rate:g} Hz, or train on this dataset"
    return [Mismatch(code="rate", weight="fault", evidence=evidence, advice=advice)]


def _instructions(contract: Contract, dataset: LeRobotDataset) -> list[Mismatch]:
    if contract.instruction:
        return []
    used = sorted(set(dataset.task_index.tolist()))
    empty = [index for index in used if not clean(dataset.tasks[index], contract.prompt)]
    if not empty:
        return []
    evidence = f"{len(empty)} of {len(used)} instructions in the dataset are empty, and the contract has none"
    advice = "write into the dataset what was asked, in the words that the policy was trained with"
    return [Mismatch(code="instruction-missing", weight="fatal", evidence=evidence, advice=advice)]


def trained_contract(contract: Contract, run: Path | None) -> Contract | None:
    """Return the contract that a run wrote down for this robot; None if there is none."""
    if run is None:
        return None
    for name in ("contract.json", f"contract-{contract.embodiment.name}.json"):
        if (run / name).is_file():
            return read_record(Contract, run / name)
    return None


def _hash(contract: Contract, trained: Contract | None) -> list[Mismatch]:
    if trained is None or trained.sha256 == contract.sha256:
        return []
    lines = trained.diff(contract)
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    evidence = f"the contracts of run and policy differ (run ≠ policy): {'; '.join(lines[:3])}{more}"
    advice = "serve the policy folder that training wrote, unchanged"
    return [Mismatch(code="contract-changed", weight="suspicion", evidence=evidence, advice=advice)]
