"""`pizero stats`: normalisation statistics of datasets, and what two of them differ in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.contract import ActionForm, Contract, Convention, FieldStatistics, Statistics
from pizero.data.dataset import check_robot
from pizero.data.hub import open_dataset
from pizero.data.statistics import compute_statistics, degenerate_dimensions, reach
from pizero.embodiment import Dimension
from pizero.progress import counting
from pizero.recipes import find_recipe
from pizero.records import differences, read_record, to_data, write_record
from pizero.robots import find_embodiment

FAR = 20.0
"""Normalised numbers beyond this are told: nearly all lie between -5 and 5."""


def stats(
    dataset: tuple[Path, ...],
    /,
    *,
    output: Path | None = None,
    recipe: str = "metaworld",
    robot: str | None = None,
    action_form: ActionForm | None = None,
    absolute: tuple[str, ...] | None = None,
    horizon: int | None = None,
    convention: Convention | None = None,
    as_json: Json = False,
) -> None:
    """Compute exact statistics of states and actions from a dataset's columns alone, in seconds.

    They are of the actions as a model sees them: over whole chunks, after the action transform. `pizero stats
    diff A B` compares two files of statistics, or those inside two policies.

    Args:
        dataset: Folder of a LeRobot dataset, or of several of one robot.
        recipe: Name of the experiment that will use them; it says all that is not given below.
        robot: Name of the robot in the catalog, or its file.
        action_form: How actions are written for the model.
        absolute: Names of actions that stay as recorded in any form; grippers always do.
        horizon: Actions of a chunk.
        convention: In which numbers states and actions are written.
        output: File to write; by default `statistics.json` beside the dataset's folder.
        as_json: Print the statistics as JSON.
    """
    if not dataset:
        raise ValueError("expected at least one dataset: `pizero stats FOLDER`")
    config = find_recipe(recipe)()
    embodiment = find_embodiment(robot or config.embodiments[0])
    opened = [open_dataset(folder) for folder in dataset]
    for each in opened:
        check_robot(each, embodiment)
    total = 2 * sum(each.num_frames for each in opened)
    with counting("counting", total, "frames") as progress:
        statistics = compute_statistics(
            opened,
            embodiment,
            action_form=action_form or config.action_form,
            absolute=config.absolute if absolute is None else absolute,
            horizon=horizon or config.model.horizon,
            convention=convention or config.convention,
            visit=progress.advance,
        )
    target = output or dataset[0].parent / "statistics.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_record(target, statistics)
    if as_json:
        print(json.dumps(to_data(statistics)))
        return
    console = Console()
    for title, dimensions, field in (
        ("state", embodiment.state, statistics.state),
        ("actions", embodiment.actions, statistics.actions),
    ):
        console.print(_table(title, dimensions, field))
        for index in degenerate_dimensions(field):
            spread = field.q99[index] - field.q01[index]
            say(
                f"{title} dimension {dimensions[index].name!r} hardly moves (q99 - q01 is {spread:.2g}): "
                f"normalisation will take {field.floor[index]:.2g} instead"
            )
        for dimension, far in zip(dimensions, reach(field, config.normalization).tolist(), strict=True):
            if far > FAR:
                say(
                    f"{title} dimension {dimension.name!r} reaches {far:.0f} when it is normalised "
                    f"({config.normalization}): an outlier? `pizero doctor` looks for them"
                )
    say(
        f"{target}: {statistics.state.count} frames",
        next_command=f"pizero train --dataset {' '.join(map(str, dataset))} --statistics {target}",
    )


def _table(title: str, dimensions: tuple[Dimension, ...], field: FieldStatistics) -> Table:
    table = Table(title=title)
    columns = ("mean", "std", "minimum", "q01", "q99", "maximum")
    for column in ("dimension", "unit", *columns):
        table.add_column(column, justify="left" if column in ("dimension", "unit") else "right")
    for index, dimension in enumerate(dimensions):
        figures = (f"{getattr(field, column)[index]:.4f}" for column in columns)
        table.add_row(dimension.name, dimension.unit, *figures)
    return table


def stats_diff(one: Path, other: Path, /, *, as_json: Json = False) -> None:
    """Compare two statistics: how far each dimension's middle lies from the other's, and how wide it is.

    Exit status 0 if they are equal, 1 if they differ.

    Args:
        one: File that `pizero stats` wrote, or policy folder.
        other: Another one.
        as_json: Print the comparison as JSON.
    """
    first, second = _read(one), _read(other)
    rows = [
        row
        for title in ("state", "actions")
        for row in _compared(title, getattr(first, title), getattr(second, title))
    ]
    settings = [
        line
        for line in differences(to_data(first), to_data(second))
        if not line.startswith(("state.", "actions."))
    ]
    if as_json:
        print(json.dumps({"settings": settings, "dimensions": rows}))
    else:
        for line in settings:
            print(f"{line}  (the numbers below are of different things)")
        table = Table(title=f"{other} against {one}")
        for column in ("dimension", "shift of the middle", "times as wide"):
            table.add_column(column, justify="left" if column == "dimension" else "right")
        for row in rows:
            mark = " ←" if abs(row["shift"]) > 0.5 or not 0.5 < row["width"] < 2 else ""
            table.add_row(row["dimension"], f"{row['shift']:+.3f}", f"{row['width']:.3f}{mark}")
        Console().print(table)
        say("shifts are in spreads of the first; arrows mark dimensions that a policy would see as foreign")
    if settings or any(row["shift"] != 0 or row["width"] != 1 for row in rows):
        raise SystemExit(1)


def _read(path: Path) -> Statistics:
    if path.is_dir():
        return read_record(Contract, path / "contract.json").statistics
    if not path.is_file():
        raise ValueError(f"expected a file of statistics or a policy folder, found nothing at {path}")
    return read_record(Statistics, path)


def _compared(title: str, one: FieldStatistics, other: FieldStatistics) -> list[dict[str, Any]]:
    """Return, for each dimension, the shift of the mean in spreads of `one`, and the ratio of the spreads."""
    if len(one.mean) != len(other.mean):
        raise ValueError(
            f"the statistics are of different robots: {title} of {len(one.mean)} and {len(other.mean)} "
            f"numbers"
        )
    spread = np.maximum(np.array(one.std), 1e-12)
    shifts = (np.array(other.mean) - np.array(one.mean)) / spread
    widths = np.maximum(np.array(other.std), 1e-12) / spread
    return [
        {"dimension": f"{title}[{index}]", "shift": float(shift), "width": float(width)}
        for index, (shift, width) in enumerate(zip(shifts, widths, strict=True))
    ]
