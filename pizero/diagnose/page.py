"""The HTML of a report: one file without scripts, which opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width:
1080px; padding: 24px; } h1 { font-size: 28px; margin: 0; } h2 { font-size: 20px; margin: 40px 0 8px; }
.headline { font-size: 56px; font-weight: 700; color: #0072B2; line-height: 1.1; margin: 16px 0 0; } .note {
color: #555; margin: 4px 0 16px; max-width: 80ch; } table { border-collapse: collapse; } th, td { padding: 4px
14px 4px 0; text-align: left; font-weight: 400; } th { color: #555; border-bottom: 1px solid #ccc; }
td.number, th.number { text-align: right; } svg { max-width: 100%; height: auto; display: block; } .film {
margin: 0 0 20px; } .film p { margin: 0 0 4px; font-weight: 600; } .film img { width: 100%; display: block; }
.film video { height: 180px; margin-top: 6px; } code { background: #f3f3f3; padding: 1px 5px; border-radius:
3px; }
"""


def page(
    run: Path,
    report: Mapping[str, Any],
    drawings: Mapping[str, str],
    chunk_drawings: Sequence[str],
    films: Mapping[str, tuple[str, str]],
) -> str:
    """Return the page of a run: the result first, then how it looks, then how it came about."""
    parts = [_headline(run, report), _tasks(run, report, drawings), _films(films)]
    if "training" in drawings:
        text = (
            "A good run falls fast and then slowly in all curves. The loss never reaches zero, because noise "
            "cannot be foreseen; the held-out error, which comes from full sampling, is the one to trust."
        )
        parts.append(_section("Training", text, drawings["training"]))
    if chunk_drawings:
        text = (
            "On one held-out episode of each task: what the expert did (grey), and the chunks that the "
            "policy predicts along the way, each from the dot on (orange), in robot units. Good chunks lie "
            "on the grey line."
        )
        parts.append(_section("Predicted chunks", text, *chunk_drawings))
    if "velocity" in drawings:
        text = (
            "The squared error of the predicted velocity on held-out frames. At time 1 the network sees "
            "noise alone and must know the actions from the observation; towards 0 it must tell noise from "
            "actions, which is hard again. A constant velocity would give the dashed line."
        )
        parts.append(_section("Velocity field", text, drawings["velocity"]))
    if "stages" in drawings:
        text = f"{report['wall_seconds']:.0f} seconds in all, over every time that a stage was started."
        parts.append(_section("Time", text, drawings["stages"]))
    parts.append(_details(report))
    body = "\n".join(parts)
    title = f"pizero: {escape(run.name)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _section(title: str, text: str, *contents: str) -> str:
    return f'<h2>{escape(title)}</h2>\n<p class="note">{escape(text)}</p>\n' + "\n".join(contents)


def _headline(run: Path, report: Mapping[str, Any]) -> str:
    heading = f"<h1>{escape(run.name)}</h1>"
    if report["success_rate"] is None:
        policy = run / "training" / "policy"
        return (
            heading + '<p class="note">Not evaluated yet: '
            f"<code>pizero evaluate {escape(str(policy))} --output "
            f"{escape(str(run / 'evaluation'))}</code></p>"
        )
    low, high = report["interval"]
    sentence = (
        f"of {report['episodes']} episodes solved in closed loop, on scenes that no demonstration shows "
        f"(95 % interval {low:.0%} to {high:.0%}). One policy, told its task by nothing but the instruction."
    )
    return (
        f'{heading}<p class="headline">{report["success_rate"]:.0%}</p><p class="note">{escape(sentence)}</p>'
    )


def _tasks(run: Path, report: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    if not report["tasks"]:
        return ""
    head = "".join(
        f'<th class="{"" if name == "task" else "number"}">{name}</th>'
        for name in ("task", "solved", "rate", "95 % interval", "median steps")
    )
    rows = []
    for task, row in report["tasks"].items():
        low, high = row["interval"]
        steps = "–" if row["median_steps"] is None else str(row["median_steps"])
        solved = f"{row['successes']} / {row['episodes']}"
        cells = (solved, f"{row['success_rate']:.2f}", f"{low:.2f} – {high:.2f}", steps)
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{escape(task)}</td>{numbers}</tr>")
    return f"<h2>Tasks</h2><table><tr>{head}</tr>{''.join(rows)}</table>{drawings.get('success', '')}"


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
    rows: list[tuple[str, str]] = []
    if "parameters" in report:
        rows.append(("parameters", f"{report['parameters']:,}"))
    training = report["training"]
    rows += [
        ("training steps", f"{training['steps']}"),
        ("precision", training["precision"]),
        ("seeds", ", ".join(f"{name} {seed}" for name, seed in report["seeds"].items())),
        ("contract", report["contract_sha256"][:16]),
        ("machine", f"{report['machine']['processor']}, {report['machine']['cores']} cores"),
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
    ]
    if training["data_wait_share"] is not None:
        rows.insert(2, ("waiting for data", f"{training['data_wait_share']:.1%} of the training time"))
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>Details</h2><table>{cells}</table>"
