"""The figures of a control report, as SVG texts."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from pizero.diagnose.control.measure import ControlFigures
from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE, new_figure, svg_of
from pizero.embodiment import Embodiment
from pizero.policy.record import Record

COLUMNS = 3
MAX_JOINTS = 12
MAX_TICKS = 1000
"""Of the last ticks of a run, whose commands are drawn: more would be a black band."""


def timing(record: Record, embodiment: Embodiment) -> str:
    """Draw how late each tick began, and how often the period was longer than some time."""
    ticks = list(record.ticks)
    began = np.array([tick.began for tick in ticks])
    late = 1e3 * (began - np.array([tick.deadline for tick in ticks]))
    figure, axes = new_figure(1, 2, size=(11, 3.0))
    over, rare = axes.flat
    over.plot(began - began[0], late, ".", color=BLUE, markersize=2.5)
    over.set(xlabel="seconds", ylabel="ms after the deadline", title="when ticks begin")
    over.set_ylim(bottom=0)
    periods = np.sort(1e3 * np.diff(began))
    share = 1.0 - np.arange(len(periods)) / len(periods)
    rare.step(periods, share, color=BLUE, where="post")
    rare.axvline(1e3 / embodiment.rate, color=GRAY, linestyle="--", linewidth=1)
    rare.axhline(0.01, color=GRAY, linestyle=":", linewidth=1)
    rare.text(periods[-1], 0.011, "one in a hundred", ha="right", va="bottom", color=GRAY, fontsize=8)
    rare.set(yscale="log", xlabel="period in ms", ylabel="share of periods as long or longer")
    rare.set_title("periods")
    return svg_of(figure)


def stages(figures: ControlFigures) -> str:
    """Draw how long each part of the loop and of the policy takes."""
    names = list(figures.stages)
    figure, axes = new_figure(size=(9, 0.9 + 0.36 * len(names)))
    ax: Axes = axes[0, 0]
    for place, name in enumerate(names):
        part = figures.stages[name]
        values = [max(value, 1e-4) for value in (part.p50, part.p95, part.p99, part.max)]
        ax.plot([values[0], values[-1]], [place, place], color=GRAY, linewidth=1)
        for value, mark, color, label in zip(
            values, "o|dx", (BLUE, BLUE, GREEN, ORANGE), ("p50", "p95", "p99", "max"), strict=True
        ):
            ax.plot(value, place, mark, color=color, markersize=7, label=label if not place else None)
    ax.set(xscale="log", xlabel="ms", yticks=range(len(names)), yticklabels=names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    return svg_of(figure)


def delays(record: Record) -> str:
    """Draw measured against expected delays, and how old what is executed is."""
    figure, axes = new_figure(1, 2, size=(11, 3.0))
    delay, age = axes.flat
    start = record.ticks[0].began
    at = {tick.index: tick.began - start for tick in record.ticks}
    told = [answer for answer in record.answers if answer.delay is not None and answer.tick in at]
    moments = [at[answer.tick] for answer in told]
    if any(answer.estimate is not None for answer in told):
        expected = [np.nan if answer.estimate is None else answer.estimate for answer in told]
        delay.step(moments, expected, color=GRAY, where="post", label="expected")
    for used, color, label in ((True, BLUE, "measured"), (False, ORANGE, "too late, dropped")):
        chosen = [place for place, answer in enumerate(told) if answer.used is used]
        delay.plot(
            [moments[place] for place in chosen],
            [told[place].delay for place in chosen],
            "o",
            color=color,
            markersize=3,
            label=label,
        )
    delay.set(xlabel="seconds", ylabel="control ticks", title="delay of answers")
    delay.set_ylim(bottom=0)
    delay.legend(frameon=False, fontsize=8)
    aged = [(tick.began - start, 1e3 * tick.age) for tick in record.ticks if tick.age is not None]
    if aged:
        age.plot(*np.array(aged).T, color=BLUE, linewidth=0.7)
    age.set(xlabel="seconds", ylabel="ms", title="age of the observation behind an action")
    age.set_ylim(bottom=0)
    return svg_of(figure)


def commands(record: Record, embodiment: Embodiment) -> str:
    """Draw the last commands of a run, chunk boundaries as ticks below, and where the robot held."""
    ticks = [tick for tick in record.ticks if tick.command is not None][-MAX_TICKS:]
    names = [dimension.name for dimension in embodiment.actions][:MAX_JOINTS]
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    figure, axes = new_figure(rows, columns, size=(3.7 * columns, 0.5 + 1.7 * rows))
    for ax in list(axes.flat)[len(names) :]:
        ax.remove()
    if not ticks:
        return svg_of(figure)
    start = record.ticks[0].began
    moments = np.array([tick.began - start for tick in ticks])
    values = np.stack([tick.command for tick in ticks if tick.command is not None])
    seams = [
        moment
        for before, after, moment in zip(ticks, ticks[1:], moments[1:], strict=False)
        if after.source != before.source
    ]
    still = np.array([not tick.planned for tick in ticks])
    for place, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
        ax.plot(moments, values[:, place], color=BLUE, linewidth=1)
        ax.plot(
            moments,
            np.where(still, values[:, place], np.nan),
            color=ORANGE,
            linewidth=2,
            solid_capstyle="butt",
        )
        ax.plot(seams, [0.02] * len(seams), "|", color=GRAY, markersize=4, transform=ax.get_xaxis_transform())
        ax.set_title(f"{name} [{embodiment.actions[place].unit}]", parse_math=False, fontsize=9)
        if place >= len(names) - columns:
            ax.set_xlabel("seconds")
    return svg_of(figure)


def seams(figures: ControlFigures) -> str:
    """Draw the largest change between ticks where chunks meet, beside the largest within chunks."""
    shown = [joint for joint in figures.joints if joint.within is not None]
    figure, axes = new_figure(size=(9, 0.9 + 0.3 * len(shown)))
    ax: Axes = axes[0, 0]
    for place, joint in enumerate(shown):
        within = joint.within or 0.0
        base = max(within, joint.splice or 0.0, 1e-12)
        ax.plot([0, within / base], [place, place], color=GRAY, linewidth=5, solid_capstyle="butt")
        if joint.splice is not None:
            ax.plot(joint.splice / base, place, "D", color=ORANGE, markersize=5)
    ax.set(
        yticks=range(len(shown)),
        yticklabels=[joint.name for joint in shown],
        ylim=(len(shown) - 0.5, -0.5),
        xlim=(0, 1.05),
        xlabel="largest change from tick to tick, as a share of the larger one",
    )
    ax.plot([], [], color=GRAY, linewidth=5, label="within chunks")
    ax.plot([], [], "D", color=ORANGE, markersize=5, label="where chunks meet")
    ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return svg_of(figure)
