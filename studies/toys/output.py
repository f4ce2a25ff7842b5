"""How a 2-D study is called, and what it leaves: a JSON file, a figure as PNG and SVG, and a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from pizero.diagnose.figures import svg_of
from studies.toys.common import QUICK, Size
from studies.toys.drawing import finish, picture_of


def arguments(text: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of a study: where to, how large, which seed."""
    torch.set_num_threads(1)  # networks this small are slower on two, and sums keep their order on one
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the JSON file and of the figures")
    parser.add_argument("--quick", action="store_true", help="a small form, which only shows that it runs")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def size_of(given: argparse.Namespace, full: Size, quick: Size = QUICK) -> Size:
    """Return how large the study is to be."""
    return quick if given.quick else full


def save(given: argparse.Namespace, record: Mapping[str, Any], figure: Figure, *, name: str) -> None:
    """Write `NAME.json`, `NAME.png` and `NAME.svg`."""
    given.output.mkdir(parents=True, exist_ok=True)
    about = {"study": name, "seed": given.seed, "quick": given.quick}
    text = json.dumps(rounded({**about, **record}), indent=1, ensure_ascii=False, allow_nan=False)
    (given.output / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    finish(figure)
    picture_of(figure).save(given.output / f"{name}.png", optimize=True)
    (given.output / f"{name}.svg").write_text(svg_of(figure), encoding="utf-8")


def rounded(value: Any) -> Any:
    """Return numbers with five digits that count."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def around(found: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return `mean ± half the interval` as text, or a dash for what there is not."""
    if found is None:
        return "-"
    return f"{found['mean']:.{digits}f} ± {found['interval'][1] - found['mean']:.{digits}f}"


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
