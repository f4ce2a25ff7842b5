"""The figures of a report, as SVG texts; the only file that knows matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pizero.diagnose.run_log import column, names_of, smoothed, thinned

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#8a8a8a"
"""Colours that the colour-blind tell apart (Okabe and Ito 2008)."""

CYCLE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9")

SMOOTHING = 0.95

USUAL = 1.25
"""Actions within this bound, as those of normalised robots are, are drawn on one scale."""

MAX_COLUMNS = 5
"""Of panels beside each other."""


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Return a figure of some inches and its axes, in the house's manner."""
    figure = Figure(figsize=size, layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(rows, columns, squeeze=False)))
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(visible=True, color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def svg_of(figure: Figure) -> str:
    """Return a figure as SVG that can stand inside a page."""
    FigureCanvasSVG(figure)
    text = io.StringIO()
    settings: dict[Any, Any] = {"svg.hashsalt": "pizero", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw texts
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def training_curves(
    metrics: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    skipped: Sequence[int] = (),
    datasets: Mapping[str, str] | None = None,
) -> str:
    """Draw what a run logged over its steps: losses, held-out errors, rate, norms, throughput.

    Steps of `skipped` updates are marked. `datasets` has a name for each `action_error_INDEX`.
    """
    steps = column(metrics, "step")
    terms = names_of(metrics, "loss_")
    norms = [name for name in ("gradient_norm", "parameter_norm") if names_of(metrics, name)]
    figure, axes = new_figure(2, 3, size=(11, 5.6))
    loss, error, rate, *rest = axes.flat
    for place, name in enumerate(["loss", *terms]):
        values = column(metrics, name)
        color = CYCLE[place % len(CYCLE)]
        loss.plot(*thinned(steps, values), color=color, alpha=0.25, linewidth=0.6)
        label = name.removeprefix("loss_") if place else ("sum" if terms else "smoothed")
        loss.plot(*thinned(steps, smoothed(values, SMOOTHING)), color=color, label=label)
    loss.set(title="training loss", xlabel="step")
    if _positive(np.concatenate([column(metrics, name) for name in ("loss", *terms)])):
        loss.set_yscale("log")
    if terms:
        loss.legend(frameon=False)
    _held_out(error, validation, datasets or {})
    rate.plot(*thinned(steps, column(metrics, "learning_rate")), color=ORANGE)
    rate.set(title="learning rate", xlabel="step")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for ax, name in zip(rest, norms, strict=False):
        values = column(metrics, name)
        ax.plot(*thinned(steps, values, most=True), color=BLUE, linewidth=0.8)
        ax.set(title=name.replace("_", " "), xlabel="step")
        if name == "gradient_norm" and _positive(values):
            ax.set_yscale("log")
    speed = rest[len(norms)]
    seconds = column(metrics, "step_seconds") + column(metrics, "wait_seconds")
    rates = np.divide(batch_size, seconds, out=np.full(len(seconds), np.nan), where=seconds > 0)
    speed.plot(*thinned(steps, rates), color=GREEN, linewidth=0.8)
    speed.set(title="samples a second", xlabel="step")
    speed.set_ylim(bottom=0)
    for ax in (loss, *rest[: len(norms)]):
        for step in skipped:
            ax.axvline(step, color=ORANGE, linewidth=1.0, linestyle=":")
    for ax in rest[len(norms) + 1 :]:
        ax.remove()
    return svg_of(figure)


def _held_out(ax: Axes, validation: Sequence[Mapping[str, Any]], datasets: Mapping[str, str]) -> None:
    ax.set(title="action error on held-out episodes", xlabel="step")
    at = column(validation, "step")
    if not validation:
        ax.text(0.5, 0.5, "not tried", transform=ax.transAxes, ha="center", color=GRAY)
        return
    parts = sorted(names_of(validation, "action_error_"), key=len)
    for name in [name for name in parts if name.removeprefix("action_error_").isdecimal()]:
        ax.plot(at, column(validation, name), ".-", linewidth=0.8, label=datasets.get(name, name))
    ax.plot(at, column(validation, "action_error"), "o-", color=GREEN, label="policy")
    ax.plot(at, column(validation, "action_error_of_mean"), ".--", color=GRAY, label="mean action")
    ax.legend(frameon=False)
    ax.set_ylim(bottom=0)


def _positive(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and bool((finite > 0).all())


def success_rates(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw each task's success rate with its Wilson 95 % interval."""
    figure, axes = new_figure(size=(7, 0.5 + 0.45 * len(tasks)))
    ax: Axes = axes[0, 0]
    names = list(tasks)
    for place, name in enumerate(names):
        low, high = tasks[name]["interval"]
        ax.plot([low, high], [place, place], color=BLUE, linewidth=2.5, solid_capstyle="round", alpha=0.5)
        ax.plot(tasks[name]["success_rate"], place, "o", color=BLUE, markersize=8)
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
    ax.set_xlabel("success rate, Wilson 95 % interval")
    return svg_of(figure)


def chunks(
    recorded: np.ndarray, predicted: Sequence[tuple[int, np.ndarray]], names: Sequence[str], task: str
) -> str:
    """Draw predicted chunks over recorded actions, one panel a dimension, in robot units.

    `recorded` is `[step, action_dim]`; each of `predicted` is a first step and a chunk `[horizon,
    action_dim]`.
    """
    rows = math.ceil(len(names) / MAX_COLUMNS)
    figure, axes = new_figure(rows, math.ceil(len(names) / rows), size=(11, 0.4 + 2.0 * rows))
    drawn = [recorded, *(chunk for _, chunk in predicted)]
    usual = max(float(np.abs(part).max(initial=0.0)) for part in drawn) <= USUAL
    for ax in list(axes.flat)[len(names) :]:
        ax.remove()
    for dimension, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
        mark = "o" if len(recorded) == 1 else None
        ax.plot(recorded[:, dimension], color=GRAY, linewidth=3, alpha=0.6, label="expert", marker=mark)
        for number, (start, chunk) in enumerate(predicted):
            steps = np.arange(start, start + len(chunk))
            label = "policy" if number == 0 else None
            ax.plot(steps, chunk[:, dimension], color=ORANGE, linewidth=1.0, label=label)
            ax.plot(start, chunk[0, dimension], "o", color=ORANGE, markersize=3)
        ax.set_title(name, parse_math=False)
        ax.set_xlabel("step")
        if usual:
            ax.set_ylim(-USUAL, USUAL)
    figure.suptitle(task, fontsize=10, x=0.01, horizontalalignment="left", parse_math=False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return svg_of(figure)


def velocity_error(times: Sequence[float], errors: Sequence[float], reference: Sequence[float]) -> str:
    """Draw the velocity field's mean squared error over flow time."""
    figure, axes = new_figure(size=(7, 3))
    ax: Axes = axes[0, 0]
    ax.plot(times, errors, "o-", color=BLUE, label="policy")
    ax.plot(times, reference, "--", color=GRAY, label="a constant velocity")
    ax.set(xlabel="flow time (1 = noise, 0 = actions)", ylabel="squared error", xlim=(1.02, 0), yscale="log")
    ax.legend(frameon=False)
    return svg_of(figure)


def stage_times(seconds: Mapping[str, float]) -> str:
    """Draw the time of each stage."""
    figure, axes = new_figure(size=(7, 0.6 + 0.35 * len(seconds)))
    ax: Axes = axes[0, 0]
    names = list(seconds)
    bars = ax.barh(names, [seconds[name] for name in names], color=BLUE, height=0.6)
    ax.bar_label(bars, fmt=" %.0f s")
    ax.invert_yaxis()
    ax.set(xlabel="seconds", xlim=(0, 1.15 * max(seconds.values())))
    return svg_of(figure)
