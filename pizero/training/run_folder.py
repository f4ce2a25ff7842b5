"""What a run writes into its folder beside checkpoints and figures, and whose folder it is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pizero.contract import Contract
from pizero.data.loader import Source
from pizero.data.sampler import Sampler
from pizero.records import differences, read_record, to_data, write_record
from pizero.training.checkpoint import Progress
from pizero.training.config import Execution, TrainConfig
from pizero.training.ranks import Ranks

EXECUTIONS = "executions.jsonl"


def distinct_contracts(sources: Sequence[Source]) -> tuple[Contract, ...]:
    """Return one contract for each robot; ValueError if datasets of one robot have different ones."""
    found: dict[str, Contract] = {}
    for source in sources:
        name = source.contract.embodiment.name
        different = found.setdefault(name, source.contract).diff(source.contract)
        if different:
            raise ValueError(
                f"datasets of the robot {name!r} have different contracts: {'; '.join(different[:5])}; take "
                f"statistics of all of them together"
            )
    return tuple(found.values())


def policy_folders(folder: Path, contracts: Sequence[Contract]) -> tuple[Path, ...]:
    """Return where a run writes its policy: `policy`, or `policies/ROBOT` for each of several robots."""
    if len(contracts) == 1:
        return (folder / "policy",)
    return tuple(folder / "policies" / contract.embodiment.name for contract in contracts)


def read_so_far(sources: Sequence[Source], sampler: Sampler, steps: int) -> list[dict[str, Any]]:
    """Return what the first `steps` steps read of each dataset."""
    drawn = sampler.num_drawn(steps)
    return [
        {
            "dataset": str(source.dataset.folder),
            "robot": source.contract.embodiment.name,
            "training_frames": len(frames),
            "samples": number,
            "share": number / max(sum(drawn), 1),
            "epochs": number / len(frames),
        }
        for source, frames, number in zip(sources, sampler.frames, drawn, strict=True)
    ]


def sample_names(sources: Sequence[Source], chosen: np.ndarray, frames: np.ndarray) -> list[dict[str, Any]]:
    """Return where the samples of a step come from: dataset, episode, and frame within it."""
    names = []
    for source, frame in zip(chosen.tolist(), frames.tolist(), strict=True):
        dataset = sources[source].dataset
        episode = dataset.episode_of_frame(frame)
        names.append(
            {"dataset": str(dataset.folder), "episode": episode.index, "frame": frame - episode.start}
        )
    return names


def note_execution(folder: Path, execution: Execution, progress: Progress, ranks: Ranks) -> None:
    """Add a line to `executions.jsonl`: from which step on, when, and how a run is executed."""
    on_gpu = ranks.device.type == "cuda"
    line = {
        "step": progress.step,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "world_size": ranks.world_size,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else "CPU",
        "torch": torch.__version__,
        **to_data(execution),
    }
    with (folder / EXECUTIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def claim(folder: Path, config: TrainConfig, contracts: Sequence[Contract]) -> None:
    """Make a run folder ours; ValueError if it holds a run with another config or contract."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"contract.json": contracts[0]}
    if len(contracts) > 1:
        named = {f"contract-{contract.embodiment.name}.json": contract for contract in contracts}
    for name, record in ({"config.json": config} | named).items():
        path = folder / name
        if not path.exists():
            write_record(path, record)
            continue
        found = differences(to_data(record), to_data(read_record(type(record), path)))
        if found:
            raise ValueError(
                f"{folder} holds a run with another {path.stem} (asked ≠ there): {'; '.join(found[:5])}. "
                f"Nothing was changed. Name another folder, or remove this one"
            )


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
