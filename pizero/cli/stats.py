"""`pizero stats`: normalisation statistics of a dataset."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.contract import FieldStatistics
from pizero.data.dataset import check_robot
from pizero.data.lerobot import LeRobotDataset
from pizero.data.statistics import compute_statistics, degenerate_dimensions
from pizero.recipes import find_recipe
from pizero.records import to_data, write_record
from pizero.robots import find_embodiment


def stats(
    dataset: Path, /, *, output: Path | None = None, recipe: str = "metaworld", as_json: Json = False
) -> None:
    """Compute exact statistics of a dataset's states and actions from its columns alone, in seconds.

    They are of the actions as the recipe's model sees them: over whole chunks, after the action transform.

    Args:
        dataset: Folder of a LeRobot v3.0 dataset.
        recipe: Name of the experiment that will use them.
        output: File to write; by default `statistics.json` beside the dataset's folder.
        as_json: Print the statistics as JSON.
    """
    config = find_recipe(recipe)()
    opened = LeRobotDataset.open(dataset)
    embodiment = find_embodiment(config.embodiment)
    check_robot(opened, embodiment)
    statistics = compute_statistics(
        opened, embodiment, action_form=config.action_form, horizon=config.model.horizon
    )
    target = output or dataset.parent / "statistics.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_record(target, statistics)
    if as_json:
        print(json.dumps(to_data(statistics)))
        return
    console = Console()
    for title, names, field in (
        ("state", opened.state_names, statistics.state),
        ("actions", opened.action_names, statistics.actions),
    ):
        console.print(_table(title, names, field))
        for index in degenerate_dimensions(field):
            say(
                f"{title} dimension {names[index]!r} hardly moves (standard deviation {field.std[index]:.2g})"
            )
    say(
        f"{target}: {statistics.state.count} frames",
        next_command=f"pizero train --dataset {dataset} --statistics {target}",
    )


def _table(title: str, names: tuple[str, ...], field: FieldStatistics) -> Table:
    table = Table(title=title)
    columns = ("mean", "std", "minimum", "q01", "q99", "maximum")
    for column in ("dimension", *columns):
        table.add_column(column, justify="left" if column == "dimension" else "right")
    for index, name in enumerate(names):
        table.add_row(name, *(f"{getattr(field, column)[index]:.4f}" for column in columns))
    return table
