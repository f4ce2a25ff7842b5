"""What a run writes into its folder beside checkpoints and figures, and whose folder it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from pizero.contract import Contract
from pizero.data.loader import AnySource, Source
from pizero.data.processor import Processor
from pizero.data.sampler import Sampler
from pizero.records import differences, read_record, to_data, write_record
from pizero.training.checkpoint import Progress
from pizero.training.config import Execution, TrainConfig
from pizero.training.first_batch import (
    action_labels,
    camera_labels,
    prompt_texts,
    write_first_batch,
)
from pizero.training.ranks import Ranks
from pizero.types import Batch

EXECUTIONS = "executions.jsonl"


def distinct_contracts(sources: Sequence[AnySource]) -> tuple[Contract, ...]:
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


def read_so_far(sources: Sequence[AnySource], sampler: Sampler, steps: int) -> list[dict[str, Any]]:
    """Return what the first `steps` steps read of each dataset."""
    drawn = sampler.num_drawn(steps)
    return [
        {
            "dataset": str(source.folder),
            "robot": source.contract.embodiment.name,
            "training_frames": len(frames),
            "samples": number,
            "share": number / max(sum(drawn), 1),
            "epochs": number / len(frames),
        }
        for source, frames, number in zip(sources, sampler.frames, drawn, strict=True)
    ]


def sample_names(
    sources: Sequence[AnySource], chosen: np.ndarray, frames: np.ndarray
) -> list[dict[str, Any]]:
    """Return where the samples of a step come from: a frame of an episode of a dataset, or a question."""
    names: list[dict[str, Any]] = []
    for index, frame in zip(chosen.tolist(), frames.tolist(), strict=True):
        source = sources[index]
        place = {"question": frame}
        if isinstance(source, Source):
            episode = source.dataset.episode_of_frame(frame)
            place = {"episode": episode.index, "frame": frame - episode.start}
        names.append({"dataset": str(source.folder), **place})
    return names


def show_first_batch(
    folder: Path, batch: Batch, sources: Sequence[AnySource], processors: Sequence[Processor]
) -> None:
    """Write `first_batch.png`, what the model sees of some samples at step 0, and the numbers behind it."""
    contracts = [source.contract for source in sources]
    write_first_batch(
        folder,
        batch,
        prompts=prompt_texts(batch.inputs.tokens, processors[0].tokenizer),
        cameras=camera_labels(contracts),
        actions=action_labels(contracts),
    )


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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let the error of a full disk, or of a folder that may not be written, say what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise OSError(
            f"{path} could not be written: {error}. The checkpoints are whole: make room, or make the folder "
            f"writable, and the same command goes on"
        ) from None


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
