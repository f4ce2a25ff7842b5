"""`pizero stats`: normalisation statistics of a dataset."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.contract import FieldStatistics
from pizero.data.lerobot import LeRobotDataset
from pizero.data.statistics import compute_statistics, degenerate_dimensions
from pizero.records import to_data, write_record


def stats(dataset: Path, /, *, output: Path | None = None, as_json: Json = False) -> None:
    """Compute exact statistics of a dataset's states and actions from its columns alone, in seconds.

    Args:
        dataset: Folder of a LeRobot v3.0 dataset.
        output: File to write; by default `statistics.json` beside the dataset's folder.
        as_json: Print the statistics as JSON.
    """
    opened = LeRobotDataset.open(dataset)
    statistics = compute_statistics(opened)
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
