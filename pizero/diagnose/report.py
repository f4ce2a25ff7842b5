"""A run as one page and one JSON file."""

from __future__ import annotations

import base64
import glob
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pizero.diagnose import figures
from pizero.diagnose.filmstrip import filmstrip
from pizero.diagnose.measure import Data, Measured, measure, open_data
from pizero.diagnose.page import Drawings, page
from pizero.diagnose.run import Run, read_json, read_run
from pizero.diagnose.run_facts import config_facts, count_parameters, execution_rows
from pizero.diagnose.run_log import column, last, names_of, tail_mean
from pizero.diagnose.stages import read_stages
from pizero.records import read_record
from pizero.results import summarize
from pizero.training.first_batch import Labels

PACKAGES = ("pizero", "torch", "numpy", "pyarrow", "av", "mujoco", "metaworld")

NUM_NAMED = 8
"""Of a skipped update's samples, so many are named."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Updates that were not made, and the episodes that were in all of them, if there are several."""

    rows: list[dict[str, Any]]
    in_all: list[dict[str, Any]]


def write_report(folder: Path, *, measured: bool = True) -> dict[str, Any]:
    """Write `report.html` and `report.json` into a run's folder, and return the figures of the latter.

    A run that is not finished gets what there is. Its policies are only run on held-out episodes if it is
    `measured`. ValueError if the folder holds no training run.
    """
    run = read_run(folder)
    notes = list(run.notes)
    data = open_data(run)
    notes += [f"the dataset {part.named} {part.problem}" for part in data if part.problem]
    found, problems = measure(run, data) if measured else ([], [])
    results = [result for part in run.evaluations.values() for result in part]
    stages = _stages(folder / "stages.json", notes)
    films, unreadable = _films(run)
    first = _first_batch(run.training)
    notes += [*problems, *unreadable]
    skipped = skipped_updates(run.skipped)
    names = _held_out_names(run, data)
    report = {
        **(
            summarize(results)
            if results
            else {"success_rate": None, "interval": None, "episodes": 0, "tasks": {}}
        ),
        "evaluations": {
            os.path.relpath(place, folder): summarize(part) for place, part in run.evaluations.items()
        },
        "finished": run.finished,
        "wall_seconds": round(sum(stages.values()), 1),
        "stages": stages,
        "seeds": _seeds(run),
        "training": {**_training(run), "skipped": len(skipped.rows)},
        "validation": [
            {names.get(name, name): value for name, value in row.items()} for row in run.validation
        ],
        "samples": list(run.samples),
        "skipped": asdict(skipped),
        "executions": execution_rows(run.executions, run.step),
        "config": config_facts(run.config),
        "first_batch": first,
        **_parameters(run, notes),
        **_velocity(found),
        "contract_sha256": next((contract.sha256 for contract in run.contracts.values()), None),
        "contracts": {robot: contract.sha256 for robot, contract in run.contracts.items()},
        "versions": _versions(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "notes": notes,
    }
    report = _finite(report)
    drawings = _draw(run, report, found, names)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    _write(folder / "report.json", text + "\n")
    _write(folder / "report.html", page(run, report, drawings, films))
    return report


def skipped_updates(lines: Sequence[Mapping[str, Any]]) -> Skipped:
    """Return a row for each skipped update, and the episodes that were in each of several."""
    rows, episodes = [], []
    for line in lines:
        samples = [name for name in line.get("samples") or [] if isinstance(name, dict)]
        rows.append(
            {
                "step": line["step"],
                "loss": line.get("loss"),
                "gradient_norm": line.get("gradient_norm"),
                "num_samples": len(samples),
                "samples": samples[:NUM_NAMED],
            }
        )
        named = [{key: value for key, value in name.items() if key != "frame"} for name in samples]
        episodes.append({json.dumps(name, sort_keys=True) for name in named})
    common = set.intersection(*episodes) if len(episodes) > 1 else set[str]()
    return Skipped(rows=rows, in_all=[json.loads(text) for text in sorted(common)])


def _training(run: Run) -> dict[str, Any]:
    metrics, validation = run.metrics, run.validation
    waited, worked = column(metrics, "wait_seconds"), column(metrics, "step_seconds")
    known = np.isfinite(waited) & np.isfinite(worked)
    seconds = float((waited + worked)[known].sum())
    return {
        "steps": run.step,
        "num_steps": run.config.num_steps,
        "final_loss": tail_mean(column(metrics, "loss")),
        **{f"final_{name}": tail_mean(column(metrics, name)) for name in names_of(metrics, "loss_")},
        "learning_rate": last(column(metrics, "learning_rate")),
        "gradient_norm": tail_mean(column(metrics, "gradient_norm")),
        "parameter_norm": last(column(metrics, "parameter_norm")),
        "samples_per_second": run.config.batch_size * int(known.sum()) / seconds if seconds else None,
        "training_seconds": round(seconds, 1),
        "data_wait_share": float(waited[known].sum()) / seconds if seconds else None,
        "held_out_action_error": last(column(validation, "action_error")),
        "held_out_action_error_of_mean": last(column(validation, "action_error_of_mean")),
        "precision": run.config.model.compute_dtype,
    }


def _held_out_names(run: Run, data: Sequence[Data]) -> dict[str, str]:
    """Return which dataset each `action_error_INDEX` is of, as far as that can be known.

    Indices count the datasets that have held-out episodes.
    """
    parts = [name for name in names_of(run.validation, "action_error_") if name[13:].isdecimal()]
    held = [part.named for part in data if part.held_out]
    everything = [part.named for part in data]
    owners = next((names for names in (held, everything) if len(names) == len(parts)), [])
    short = [Path(name).name for name in owners]
    labels = short if len(set(short)) == len(short) else owners
    return {f"action_error_{index}": f"action_error of {name}" for index, name in enumerate(labels)}


def _parameters(run: Run, notes: list[str]) -> dict[str, Any]:
    try:
        parameters, trained = count_parameters(run.config)
    except ValueError as error:
        notes.append(f"the parameters cannot be counted: {error}")
        return {}
    return {"parameters": parameters, "parameters_that_train": trained}


def _velocity(found: Sequence[Measured]) -> dict[str, Any]:
    rows = [
        {"robot": part.robot, "dataset": part.dataset, **asdict(part.velocity_error)}
        for part in found
        if part.velocity_error is not None
    ]
    if not rows:
        return {}
    own = ("times", "errors", "reference")
    return {"velocity_error": {name: rows[0][name] for name in own}, "velocity_errors": rows}


def _draw(
    run: Run, report: Mapping[str, Any], found: Sequence[Measured], names: Mapping[str, str]
) -> Drawings:
    curves = ""
    if run.metrics:
        curves = figures.training_curves(
            run.metrics,
            run.validation,
            batch_size=run.config.batch_size,
            skipped=[row["step"] for row in report["skipped"]["rows"]],
            datasets={name: label.removeprefix("action_error of ") for name, label in names.items()},
        )
    velocity, chunks = [], []
    for part in found:
        error = part.velocity_error
        if error is not None:
            drawing = figures.velocity_error(error.times, error.errors, error.reference)
            velocity.append((f"{part.robot}, {part.dataset}" if len(found) > 1 else "", drawing))
        for overlay in part.overlays:
            drawing = figures.chunks(overlay.recorded, overlay.predicted, part.action_names, overlay.task)
            chunks.append((f"{part.robot}, {part.dataset}" if len(found) > 1 else "", drawing))
    picture = run.training / "first_batch.png"
    return Drawings(
        training=curves,
        success=figures.success_rates(report["tasks"]) if report["tasks"] else "",
        stages=figures.stage_times(report["stages"]) if report["stages"] else "",
        velocity=velocity,
        chunks=chunks,
        first_batch=base64.b64encode(picture.read_bytes()).decode() if report["first_batch"] else "",
        more_tasks=sum(part.num_tasks - len(part.overlays) for part in found),
    )


def _first_batch(training: Path) -> dict[str, Any] | None:
    """Return the words of what the model saw first; None if there is no picture of it that can be read."""
    try:
        labels = read_record(Labels, training / "first_batch.json")
        with Image.open(training / "first_batch.png") as picture:
            picture.load()
    except (ValueError, OSError, SyntaxError):
        return None
    return asdict(labels)


def _films(run: Run) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return each task's video, as a path relative to the page, and its filmstrip as a data address."""
    films, problems = {}, []
    for place, results in run.evaluations.items():
        for task in dict.fromkeys(result.task for result in results):
            videos = sorted((place / "videos").glob(f"{glob.escape(task)}-[0-9]*.mp4"))
            if videos:
                try:
                    films[task] = (os.path.relpath(videos[0], run.folder), filmstrip(videos[0]))
                except (ValueError, OSError, IndexError) as error:
                    problems.append(f"the video {videos[0]} cannot be shown: {error}")
    return films, problems


def _stages(path: Path, notes: list[str]) -> dict[str, float]:
    try:
        return read_stages(path).seconds
    except ValueError as error:
        notes.append(str(error))
        return {}


def _seeds(run: Run) -> dict[str, int]:
    """Return the seeds of all stages that have one, from what each wrote down."""
    seeds = {"training": run.config.seed}
    places = [("collection", run.folder / "dataset" / "meta" / "collect.json")]
    places += [("evaluation", place / "run.json") for place in run.evaluations]
    for name, path in places:
        data = read_json(path)
        config = data.get("config", data) if isinstance(data, dict) else {}
        if isinstance(config, dict) and isinstance(config.get("seed"), int):
            seeds[name] = config["seed"]
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


def _finite(data: Any) -> Any:
    """Return data that JSON can hold: a number that is not finite is null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
