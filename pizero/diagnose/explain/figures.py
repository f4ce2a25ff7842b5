"""The figures of an explanation, as SVG texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pizero.diagnose.explain.ablations import Ablation
from pizero.diagnose.explain.answers import DimensionError
from pizero.diagnose.explain.measured import Measured
from pizero.diagnose.explain.verdict import MATERIAL, Trial, explains_as_much
from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE, new_figure, svg_of

NUM_TRIALS = 12
COLUMNS = 4


def trials(tried: Sequence[Trial]) -> str:
    """Draw the share of the error that is left after each repair, those that leave the least first."""
    shown = tried[:NUM_TRIALS]
    figure, axes = new_figure(size=(10, 0.7 + 0.34 * len(shown)))
    ax = axes[0, 0]
    ratios = [max(trial.comparison.ratio, 1e-4) for trial in shown]
    colors = [ORANGE if explains_as_much(trial, tried) else BLUE if trial.helps else GRAY for trial in shown]
    for place, (ratio, color) in enumerate(zip(ratios, colors, strict=True)):
        ax.plot([1.0, ratio], [place, place], color=color, linewidth=2)
        ax.plot(ratio, place, "o", color=color, markersize=6)
    ax.axvline(1.0, color="#1a1a1a", linewidth=1)
    ax.axvline(MATERIAL, color=GRAY, linewidth=1, linestyle="--")
    ax.set(
        xscale="log",
        yticks=range(len(shown)),
        yticklabels=[trial.repair.title for trial in shown],
        ylim=(len(shown) - 0.5, -0.5),
        xlabel="error undone ÷ error as recorded",
    )
    return svg_of(figure)


def scatter(measured: Measured) -> str:
    """Draw predicted over recorded actions, one panel a dimension, in robot units."""
    recorded = np.stack([sample.actions for sample in measured.samples])
    valid = np.stack([sample.valid for sample in measured.samples])
    steps = np.broadcast_to(np.arange(valid.shape[1]), valid.shape)[valid]
    rows = -(-len(measured.dimensions) // COLUMNS)
    columns = min(COLUMNS, len(measured.dimensions))
    figure, axes = new_figure(rows, columns, size=(2.75 * columns, 2.6 * rows))
    for index, row in enumerate(measured.dimensions):
        ax = axes.flat[index]
        there, ours = recorded[..., index][valid], measured.predicted[..., index][valid]
        low, high = min(there.min(), ours.min()), max(there.max(), ours.max())
        ax.plot([low, high], [low, high], color=GRAY, linewidth=1)
        ax.scatter(there, ours, c=steps, cmap="cividis", s=7, linewidths=0)
        ax.set(title=row.name, xlabel=f"recorded [{row.unit}]" if row.unit else "recorded")
        if index % columns == 0:
            ax.set_ylabel("predicted")
    for ax in axes.flat[len(measured.dimensions) :]:
        ax.set_axis_off()
    return svg_of(figure)


def errors(dimensions: Sequence[DimensionError]) -> str:
    """Draw each dimension's error at the chunk's start, middle and end, with the baselines', in spreads."""
    shown = [row for row in dimensions if row.relative is not None]
    figure, axes = new_figure(size=(10, 0.9 + 0.42 * max(len(shown), 4)))
    ax = axes[0, 0]
    marks: tuple[tuple[str, str, str, Callable[[DimensionError], float | None]], ...] = (
        ("chunk's start", ">", ORANGE, lambda row: row.start),
        ("middle", "o", ORANGE, lambda row: row.middle),
        ("end", "s", ORANGE, lambda row: row.end),
        ("always the mean", "|", BLUE, lambda row: row.mean),
        ("stay at the state", "x", GREEN, lambda row: row.hold),
        ("repeat the last action", "+", GRAY, lambda row: row.last),
    )
    for label, mark, color, value_of in marks:
        values = [(value_of(row), row.spread, place) for place, row in enumerate(shown)]
        points = [(value / spread, place) for value, spread, place in values if value is not None and spread]
        size, edge = (6, 0) if color == ORANGE else (11, 2)
        if points:
            across, up = zip(*points, strict=True)
            ax.plot(across, up, mark, color=color, markersize=size, markeredgewidth=edge, label=label)
    ax.set(
        yticks=range(len(shown)),
        yticklabels=[row.name for row in shown],
        ylim=(len(shown) - 0.5, -0.5),
        xlabel="root mean squared error ÷ spread of the recorded actions",
    )
    ax.set_xlim(left=0)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return svg_of(figure)


def chunks(measured: Measured, count: int = 3) -> str:
    """Draw some samples' recorded and predicted chunks, one column a dimension, in robot units."""
    samples, names = measured.samples[:count], [row.name for row in measured.dimensions]
    figure, axes = new_figure(len(samples), len(names), size=(max(2.4 * len(names), 6), 1.9 * len(samples)))
    recorded = np.concatenate([sample.actions[sample.valid] for sample in measured.samples])
    low, high = recorded.min(axis=0), recorded.max(axis=0)
    room = np.maximum(0.15 * (high - low), 1e-3)
    for row, sample in enumerate(samples):
        for index, name in enumerate(names):
            ax, real = axes[row, index], sample.valid
            ax.plot(sample.actions[real, index], color=GRAY, linewidth=4, alpha=0.6, label="recorded")
            ax.plot(measured.predicted[row][:, index], "o-", color=ORANGE, markersize=3, label="policy")
            ax.set_ylim(
                min(low[index], measured.predicted[row][:, index].min()) - room[index],
                max(high[index], measured.predicted[row][:, index].max()) + room[index],
            )
            if row == 0:
                ax.set_title(name)
            if index == 0:
                ax.set_ylabel(f"frame {sample.frame}")
    for index in range(len(names)):
        axes[-1, index].set_xlabel("step of the chunk")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return svg_of(figure)


def ablations(found: Sequence[Ablation]) -> str:
    """Draw how much each input changes the answers; the dashed line is what other noise does."""
    *inputs, noise = found
    figure, axes = new_figure(size=(8, 0.7 + 0.36 * len(inputs)))
    ax = axes[0, 0]
    bars = ax.barh([one.name for one in inputs], [one.change for one in inputs], color=BLUE, height=0.6)
    ax.bar_label(bars, fmt=" %.2f")
    ax.axvline(noise.change, color=ORANGE, linestyle="--", label="other noise")
    ax.invert_yaxis()
    ax.set(xlabel="change of the answers, in spreads of the actions")
    ax.set_xlim(0, 1.15 * max([*(one.change for one in found), 1e-6]))
    ax.legend(frameon=False, loc="lower right")
    return svg_of(figure)
