"""How the 2-D studies draw: what is compared is told apart by colour, line, marker and hatch."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from PIL import Image

from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE

DOTS_PER_INCH, NUM_COLORS = 130, 256
TITLE, LABEL, TICK = 9.5, 9.0, 8.0
"""Sizes of letters in points; a figure is printed about as wide as it is drawn."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """What tells one curve or bar from the others, in colour and without."""

    color: str
    line: str | tuple[int, tuple[int, ...]] = "-"
    marker: str = "o"
    hatch: str = ""


STYLES = (
    Style(color=BLUE),
    Style(color=ORANGE, line="--", marker="s", hatch="///"),
    Style(color=GREEN, line=":", marker="^", hatch="..."),
    Style(color="black", line="-.", marker="D", hatch="xx"),
    Style(color="#CC79A7", line=(0, (5, 1, 1, 1, 1, 1)), marker="v", hatch="oo"),
)


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each of at most five names."""
    return dict(zip(names, STYLES, strict=False))


def curve(
    ax: Axes, rows: Mapping[Any, Any], style: Style, label: str | None = None, least: float = 0.0
) -> None:
    """Draw means over the keys with their 95 % intervals, cut at `least` where the axis is logarithmic."""
    places = [float(key) for key in rows]
    low, high = np.array([row["interval"] for row in rows.values()]).T
    ax.plot(
        places,
        [row["mean"] for row in rows.values()],
        color=style.color,
        linestyle=style.line,
        marker=style.marker,
        markersize=4,
        label=label,
    )
    ax.fill_between(places, np.maximum(low, least), high, color=style.color, alpha=0.15, linewidth=0)


def bars(ax: Axes, rows: Mapping[str, Any], look: Mapping[str, Style], *, sideways: bool = False) -> None:
    """Draw a bar with its 95 % interval for each name; a name may be broken at its spaces."""
    means = [row["mean"] for row in rows.values()]
    half = [row["interval"][1] - row["mean"] for row in rows.values()]
    marks = {
        "color": "white",
        "edgecolor": [look[name].color for name in rows],
        "hatch": [look[name].hatch for name in rows],
        "linewidth": 1.4,
        "error_kw": {"linewidth": 1.2, "capsize": 3},
    }
    names = [name.replace(" of ", "\nof ") for name in rows]
    if sideways:
        ax.barh(names, means, xerr=half, height=0.6, **marks)
        ax.invert_yaxis()
    else:
        ax.bar(names, means, yerr=half, width=0.7, **marks)
    solid = [patch for patch, name in zip(ax.patches, rows, strict=True) if not look[name].hatch]
    for patch in solid:
        patch.set_facecolor(patch.get_edgecolor())


def level(
    ax: Axes, value: float, label: str | None = None, *, line: str | tuple[int, tuple[int, ...]] = "--"
) -> None:
    """Draw a gray line across at a value that others are judged by."""
    ax.axhline(value, color=GRAY, linestyle=line, linewidth=1.2, label=label)


def logarithmic(ax: Axes, *, x: Sequence[float] = (), y: Sequence[float] = ()) -> None:
    """Make axes logarithmic and name these places of theirs, no others; a little more is shown of y."""
    if x:
        ax.set_xscale("log")
        name_places(ax.xaxis, x)
    if y:
        ax.set_yscale("log")
        ax.set_ylim(0.7 * y[0], 1.6 * y[-1])
        name_places(ax.yaxis, y)


def name_places(axis: Axis, places: Sequence[float]) -> None:
    """Write numbers at these places of an axis and nowhere else."""
    axis.set_ticks(list(places))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def finish(figure: Figure) -> Figure:
    """Give all letters of a figure the house's sizes."""
    for ax in figure.axes:
        ax.title.set_fontsize(TITLE)
        ax.xaxis.label.set_fontsize(LABEL)
        ax.yaxis.label.set_fontsize(LABEL)
        ax.tick_params(which="both", labelsize=TICK)
    return figure


def picture_of(figure: Figure, *, dots: int = DOTS_PER_INCH, colors: int = NUM_COLORS) -> Image.Image:
    """Return a figure as a picture of few colours, which is small."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dots)
    return Image.open(drawn).convert("RGB").quantize(colors, dither=Image.Dither.NONE)
