"""The HTML of a report: one file without scripts, which opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pizero.diagnose.run import Run

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width:
1080px; padding: 24px; } h1 { font-size: 28px; margin: 0; } h2 { font-size: 20px; margin: 40px 0 8px; }
.headline { font-size: 56px; font-weight: 700; color: #0072B2; line-height: 1.1; margin: 16px 0 0; } .note {
color: #555; margin: 4px 0 16px; max-width: 80ch; } table { border-collapse: collapse; } th, td { padding: 4px
14px 4px 0; text-align: left; font-weight: 400; } th { color: #555; border-bottom: 1px solid #ccc; }
td.number, th.number { text-align: right; } svg { max-width: 100%; height: auto; display: block; } .film {
margin: 0 0 20px; } .film p { margin: 0 0 4px; font-weight: 600; } .film img { width: 100%; display: block; }
.film video { height: 180px; margin-top: 6px; } img.wide { max-width: 100%; display: block; } td {
vertical-align: top; overflow-wrap: anywhere; } ul.missing { color: #a23c00; padding-left: 20px; } h3 {
font-size: 15px; margin: 16px 0 4px; } code { background: #f3f3f3; padding: 1px 5px; border-radius:
3px; }
"""


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """The figures of a page, as SVG texts, empty where there is none; some have a heading of their own.

    `first_batch` is a PNG in base64; `more_tasks` are those whose chunks are not shown.
    """

    training: str
    success: str
    stages: str
    velocity: Sequence[tuple[str, str]]
    chunks: Sequence[tuple[str, str]]
    first_batch: str
    more_tasks: int


def page(
    run: Run, report: Mapping[str, Any], drawings: Drawings, films: Mapping[str, tuple[str, str]]
) -> str:
    """Return the page of a run: the result first, then how it looks, then how it came about."""
    parts = [_headline(run, report), _notes(report), _tasks(report, drawings), _films(films)]
    parts += [_training(report, drawings), _first_batch(drawings), _samples(report)]
    if drawings.chunks:
        text = (
            "On one held-out episode of each task: what the expert did (grey), and the chunks that the "
            "policy predicts along the way, each from the dot on (orange), in robot units. Good chunks lie "
            "on the grey line."
        )
        if drawings.more_tasks:
            text += f" {drawings.more_tasks} more tasks are not shown."
        parts.append(_section("Predicted chunks", text, *_headed(drawings.chunks)))
    if drawings.velocity:
        text = (
            "The squared error of the predicted velocity on held-out frames. At time 1 the network sees "
            "noise alone and must know the actions from the observation; towards 0 it must tell noise from "
            "actions, which is hard again. A constant velocity would give the dashed line."
        )
        parts.append(_section("Velocity field", text, *_headed(drawings.velocity)))
    parts += [_skipped(report), _executions(report)]
    if drawings.stages:
        text = f"{report['wall_seconds']:.0f} seconds in all, over every time that a stage was started."
        parts.append(_section("Time", text, drawings.stages))
    rows = [[name, value] for name, value in report["config"].items()]
    parts.append("<h2>What was computed</h2>" + _table([], rows))
    parts.append(_details(report))
    body = "\n".join(part for part in parts if part)
    title = f"pizero: {escape(run_name(run))}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def run_name(run: Run) -> str:
    """Return the name of a run: that of its folder, also where the user names it as `.`."""
    return run.folder.resolve().name


def _section(title: str, text: str, *contents: str) -> str:
    return f'<h2>{escape(title)}</h2>\n<p class="note">{escape(text)}</p>\n' + "\n".join(contents)


def _headed(drawings: Sequence[tuple[str, str]]) -> list[str]:
    """Return drawings, each heading above the first of those that have it."""
    found, before = [], ""
    for heading, drawing in drawings:
        found.append((f"<h3>{escape(heading)}</h3>" if heading != before else "") + drawing)
        before = heading
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Return a table of texts; all columns but the first `words` are of numbers, if there is a head."""
    kinds = ["" if place < words or not head else ' class="number"' for place in range(len(rows[0]))]
    lines = ["".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, head, strict=False))]
    for row in rows:
        cells = zip(kinds, row, strict=True)
        lines.append("".join(f"<td{kind}>{escape(text)}</td>" for kind, text in cells))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines if line) + "</table>"


def _headline(run: Run, report: Mapping[str, Any]) -> str:
    heading = f"<h1>{escape(run_name(run))}</h1>"
    if report["success_rate"] is not None:
        low, high = report["interval"]
        sentence = (
            f"of {report['episodes']} episodes solved in closed loop, on scenes that no demonstration shows "
            f"(95 % interval {low:.0%} to {high:.0%}). One policy, told its task by nothing but the "
            f"instruction."
        )
        rate = f"{report['success_rate']:.0%}"
        return f'{heading}<p class="headline">{rate}</p><p class="note">{escape(sentence)}</p>'
    steps, num_steps = report["training"]["steps"], report["training"]["num_steps"]
    if not run.finished:
        made = f"{steps:,} of {num_steps:,} updates are made" if steps else "No update is made yet"
        sentence = (
            f"Not finished: {made}. If it was stopped, the same `pizero train` goes on from its last "
            f"checkpoint."
        )
        return f'{heading}<p class="note">{escape(sentence)}</p>'
    commands = []
    for robot, policy in run.policies.items():
        name = "evaluation" if len(run.policies) == 1 else f"evaluation-{robot}"
        command = f"pizero evaluate {policy} --output {run.folder / name}"
        commands.append(f"<code>{escape(command)}</code>")
    return f'{heading}<p class="note">Not evaluated yet: {"<br>".join(commands)}</p>'


def _notes(report: Mapping[str, Any]) -> str:
    if not report["notes"]:
        return ""
    lines = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return f'<h2>What is missing</h2><ul class="missing">{lines}</ul>'


def _training(report: Mapping[str, Any], drawings: Drawings) -> str:
    if not drawings.training:
        return _section("Training", "No update is logged yet.") if report["executions"] else ""
    text = (
        "A good run falls fast and then slowly in all curves. The loss never reaches zero, because noise "
        "cannot be foreseen; the held-out error, which comes from full sampling, is the one to trust."
    )
    if report["config"]["model"].startswith("π0-FAST"):
        text = (
            "A good run falls fast and then slowly. The loss is that of the next token; the held-out error "
            "of the actions that the tokens stand for is the one to trust."
        )
    return _section("Training", text, drawings.training, _last_figures(report))


def _last_figures(report: Mapping[str, Any]) -> str:
    training = report["training"]
    rows = [["updates", f"{training['steps']:,} of {training['num_steps']:,}"]]
    if training["data_wait_share"] is not None:
        rows.append(["waiting for data", f"{training['data_wait_share']:.1%} of the training time"])
    rows.append(["updates skipped, because not finite", f"{training['skipped']:,}"])
    for key, value in training.items():
        if key.startswith("final_") and value is not None:
            name = key.removeprefix("final_").replace("_", " of ") if key != "final_loss" else "loss"
            rows.append([f"{name}, mean of the last 50", figure(value)])
    shown = {
        "learning_rate": "learning rate at the end",
        "gradient_norm": "gradient norm, mean of the last 50",
        "parameter_norm": "parameter norm at the end",
        "samples_per_second": "samples a second",
        "held_out_action_error": "held out: action error",
        "held_out_action_error_of_mean": "held out: that of always predicting the mean",
    }
    rows += [[name, figure(training[key])] for key, name in shown.items() if training[key] is not None]
    last = report["validation"][-1] if report["validation"] else {}
    known = ("step", "action_error", "action_error_of_mean")
    rows += [
        [f"held out: {name.replace('_', ' ')}", figure(value)]
        for name, value in last.items()
        if name not in known
    ]
    return _table([], rows)


def _first_batch(drawings: Drawings) -> str:
    if not drawings.first_batch:
        return ""
    text = "Samples of the first batch, as the model reads them: the one look that finds most mistakes."
    address = f"data:image/png;base64,{drawings.first_batch}"
    return _section(
        "What the model saw first", text, f'<img class="wide" src="{address}" alt="{escape(text)}">'
    )


def _samples(report: Mapping[str, Any]) -> str:
    rows = [
        [
            row["dataset"],
            str(row.get("robot", "")),
            *(figure(row.get(key)) for key in ("training_frames", "samples", "share", "epochs")),
        ]
        for row in report["samples"]
    ]
    if not rows:
        return ""
    head = ("dataset", "robot", "training frames", "samples", "share", "epochs")
    text = "What was read of each dataset up to the last checkpoint."
    return _section("What was sampled", text, _table(head, rows, words=2))


def _skipped(report: Mapping[str, Any]) -> str:
    skipped = report["skipped"]
    if not skipped["rows"]:
        return ""
    text = (
        "The loss or the gradient of these updates was not finite, so they changed no weight. Look at their "
        "samples with `pizero doctor`."
    )
    if skipped["in_all"]:
        text += f" In all of them: {'; '.join(sample_name(name) for name in skipped['in_all'])}."
    rows = []
    for row in skipped["rows"]:
        more = row["num_samples"] - len(row["samples"])
        names = [sample_name(name) for name in row["samples"]] + ([f"{more} more"] if more else [])
        rows.append([str(row["step"]), figure(row["loss"]), figure(row["gradient_norm"]), "; ".join(names)])
    return _section(
        "Skipped updates", text, _table(("step", "loss", "gradient norm", "samples"), rows, words=4)
    )


def _executions(report: Mapping[str, Any]) -> str:
    lines = report["executions"]
    if not lines:
        return ""
    text = "Started once." if len(lines) == 1 else f"Started {len(lines)} times"
    if len(lines) > 1:
        text += ", and went on after " + ", ".join(f"step {row['from_step']:,}" for row in lines[1:]) + "."
    rows = [
        [
            f"{row['from_step']:,} – {row['to_step']:,}",
            str(row["time"]),
            str(row["world_size"]),
            str(row["device"]),
            str(row["torch"]),
            ", ".join(f"{name} {value}" for name, value in row["options"].items()) or "as usual",
        ]
        for row in lines
    ]
    head = ("steps", "started", "processes", "device", "torch", "how")
    return _section("How it was executed", text, _table(head, rows, words=6))


def sample_name(name: Mapping[str, Any]) -> str:
    """Return what a sample is called: its dataset and its episode, frame or question."""
    parts = [f"{key} {value}" for key, value in name.items() if key != "dataset"]
    return ", ".join([Path(str(name.get("dataset", ""))).name, *parts])


def figure(value: Any) -> str:
    """Return a number as a reader sees it; "–" where there is none."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else "–"


def _tasks(report: Mapping[str, Any], drawings: Drawings) -> str:
    if not report["tasks"]:
        return ""
    rows = []
    for task, row in report["tasks"].items():
        low, high = row["interval"]
        steps = "–" if row["median_steps"] is None else str(row["median_steps"])
        solved = f"{row['successes']} / {row['episodes']}"
        rows.append([task, solved, f"{row['success_rate']:.2f}", f"{low:.2f} – {high:.2f}", steps])
    head = ("task", "solved", "rate", "95 % interval", "median steps")
    return f"<h2>Tasks</h2>{_table(head, rows)}{drawings.success}"


def _films(films: Mapping[str, tuple[str, str]]) -> str:
    if not films:
        return ""
    blocks = [
        f'<div class="film"><p>{escape(task)}</p><img src="{address}" alt="six moments of an episode of '
        f'{escape(task)}"><video src="{escape(path)}" controls muted loop preload="metadata"></video></div>'
        for task, (path, address) in films.items()
    ]
    text = "The first evaluated episode of each task, solved or not: six moments, and the video."
    return _section("What it does", text, *blocks)


def _details(report: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    if "parameters" in report:
        train = f"{report['parameters_that_train']:,} of them train"
        rows.append(["parameters", f"{report['parameters']:,}, {train}"])
    rows.append(["seeds", ", ".join(f"{name} {seed}" for name, seed in report["seeds"].items())])
    several = len(report["contracts"]) > 1
    for robot, sha256 in report["contracts"].items():
        rows.append([f"contract of {robot}" if several else "contract", sha256[:16]])
    machine = report["machine"]
    rows += [
        ["report made on", f"{machine['processor']}, {machine['cores']} cores"],
        ["with", ", ".join(f"{name} {version}" for name, version in report["versions"].items())],
    ]
    return f"<h2>Details</h2>{_table([], rows)}"
