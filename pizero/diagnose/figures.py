"""The figures of a report, as SVG texts; the only file that knows matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#8a8a8a"
"""Colours that the colour-blind tell apart (Okabe and Ito 2008)."""

SMOOTHING = 0.95


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
    with mpl.rc_context({"svg.hashsalt": "pizero", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def training_curves(metrics: Sequence[Mapping[str, float]], validation: Sequence[Mapping[str, float]]) -> str:
    """Draw loss, held-out action error and learning rate over steps."""
    figure, axes = new_figure(1, 3, size=(11, 3))
    loss, error, rate = axes[0]
    steps = [row["step"] for row in metrics]
    values = [row["loss"] for row in metrics]
    smooth, average = [], values[0]
    for value in values:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        smooth.append(average)
    loss.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.6)
    loss.plot(steps, smooth, color=BLUE, label="smoothed")
    loss.set(title="training loss (flow matching)", xlabel="step", yscale="log")
    if validation:
        at = [row["step"] for row in validation]
        error.plot(at, [row["action_error"] for row in validation], "o-", color=GREEN, label="policy")
        error.plot(
            at, [row["action_error_of_mean"] for row in validation], "--", color=GRAY, label="mean action"
        )
        error.legend(frameon=False)
        error.set_ylim(bottom=0)
    error.set(title="action error on held-out episodes", xlabel="step")
    rate.plot(steps, [row["learning_rate"] for row in metrics], color=ORANGE)
    rate.set(title="learning rate", xlabel="step")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return svg_of(figure)


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
    figure, axes = new_figure(1, len(names), size=(11, 2.4))
    for dimension, (ax, name) in enumerate(zip(axes[0], names, strict=True)):
        ax.plot(recorded[:, dimension], color=GRAY, linewidth=3, alpha=0.6, label="expert")
        for number, (start, chunk) in enumerate(predicted):
            steps = np.arange(start, start + len(chunk))
            label = "policy" if number == 0 else None
            ax.plot(steps, chunk[:, dimension], color=ORANGE, linewidth=1.0, label=label)
            ax.plot(start, chunk[0, dimension], "o", color=ORANGE, markersize=3)
        ax.set(title=name, xlabel="step", ylim=(-1.25, 1.25))
    figure.suptitle(task, fontsize=10, x=0.01, horizontalalignment="left")
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
