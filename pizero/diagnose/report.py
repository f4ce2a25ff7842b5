"""A run as one page and one JSON file."""

from __future__ import annotations

import html
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pizero.contract import Contract
from pizero.data.lerobot import LeRobotDataset
from pizero.diagnose import figures
from pizero.diagnose.filmstrip import filmstrip
from pizero.diagnose.measure import held_out_episodes, overlays, velocity_error
from pizero.diagnose.page import page
from pizero.diagnose.stages import read_stages
from pizero.policy.policy import Policy
from pizero.records import read_record
from pizero.results import read_results, summarize
from pizero.training.config import TrainConfig

PACKAGES = ("pizero", "torch", "numpy", "pyarrow", "av", "mujoco", "metaworld")


def write_report(run: Path) -> dict[str, Any]:
    """Write `report.html` and `report.json` into a run's folder, and return the figures of the latter.

    A run that is not finished gets what there is. ValueError if the folder holds no training run.
    """
    training = run / "training"
    if not (training / "config.json").is_file():
        raise ValueError(
            f"{run} is not a run: expected {training / 'config.json'}, found none; "
            f"`pizero demo` or `pizero train --output {training}` makes one"
        )
    config = read_record(TrainConfig, training / "config.json")
    contract = read_record(Contract, training / "contract.json")
    metrics, validation = _lines(training / "metrics.jsonl"), _lines(training / "validation.jsonl")
    stages = read_stages(run / "stages.json").seconds
    results = read_results(run / "evaluation" / "episodes.jsonl")
    summary = summarize(results) if results else None
    drawings: dict[str, str] = {}
    if metrics:
        drawings["training"] = figures.training_curves(metrics, validation)
    if summary is not None:
        drawings["success"] = figures.success_rates(summary["tasks"])
    if stages:
        drawings["stages"] = figures.stage_times(stages)
    measured: dict[str, Any] = {}
    chunk_drawings: list[str] = []
    if (training / "policy").is_dir() and (run / "dataset").is_dir():
        policy, dataset = Policy.load(training / "policy"), LeRobotDataset.open(run / "dataset")
        measured["parameters"] = sum(parameter.numel() for parameter in policy.model.parameters())
        held_out = held_out_episodes(config, dataset)
        if held_out:
            error = velocity_error(policy, dataset, held_out)
            measured["velocity_error"] = asdict(error)
            drawings["velocity"] = figures.velocity_error(error.times, error.errors, error.reference)
            names = dataset.action_names
            for overlay in overlays(policy, dataset, held_out):
                drawing = figures.chunks(overlay.recorded, overlay.predicted, names, overlay.task)
                chunk_drawings.append(drawing)
    report = {
        **(summary or {"success_rate": None, "interval": None, "episodes": 0, "tasks": {}}),
        "wall_seconds": round(sum(stages.values()), 1),
        "stages": stages,
        "seeds": _seeds(run, config),
        "training": {
            "steps": metrics[-1]["step"] if metrics else 0,
            "final_loss": _tail_mean(metrics, "loss"),
            "data_wait_share": _wait_share(metrics),
            "held_out_action_error": validation[-1]["action_error"] if validation else None,
            "held_out_action_error_of_mean": validation[-1]["action_error_of_mean"] if validation else None,
            "precision": config.model.compute_dtype,
        },
        **measured,
        "contract_sha256": contract.sha256,
        "versions": _versions(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
    }
    films = _films(run, [result.task for result in results])
    _write(run / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    _write(run / "report.html", page(run, report, drawings, chunk_drawings, films))
    return report


def _films(run: Path, tasks: list[str]) -> dict[str, tuple[str, str]]:
    """Return each task's video, as a path relative to the page, and its filmstrip as a data address."""
    films = {}
    for task in dict.fromkeys(tasks):
        videos = sorted((run / "evaluation" / "videos").glob(f"{html.escape(task)}-*.mp4"))
        if videos:
            films[task] = (str(videos[0].relative_to(run)), filmstrip(videos[0]))
    return films


def _lines(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def _tail_mean(metrics: list[dict[str, float]], key: str) -> float | None:
    tail = [row[key] for row in metrics[-50:]]
    return sum(tail) / len(tail) if tail else None


def _wait_share(metrics: list[dict[str, float]]) -> float | None:
    waited = sum(row["wait_seconds"] for row in metrics)
    total = waited + sum(row["step_seconds"] for row in metrics)
    return waited / total if total else None


def _seeds(run: Path, config: TrainConfig) -> dict[str, int]:
    """Return the seeds of all stages that have one, from what each wrote down."""
    seeds = {"training": config.seed}
    places = {
        "collection": run / "dataset" / "meta" / "collect.json",
        "evaluation": run / "evaluation" / "run.json",
    }
    for name, path in places.items():
        if path.exists():
            data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            seeds[name] = data.get("config", data)["seed"]
    return seeds


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
