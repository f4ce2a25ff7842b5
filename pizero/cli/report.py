"""`pizero report`: a run as one page and one JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from pizero.cli.options import Json, say
from pizero.diagnose.report import write_report


def report(run: Path, /, *, as_json: Json = False) -> None:
    """Write a run's `report.html` and `report.json`: success, films, curves, predicted chunks, time,
    versions.

    Args:
        run: Folder with `dataset`, `training` and `evaluation`, as `pizero demo` lays them out.
        as_json: Print the figures as JSON.
    """
    figures = write_report(run)
    if as_json:
        print(json.dumps(figures))
        return
    rate = figures["success_rate"]
    result = (
        "not evaluated yet" if rate is None else f"success {rate:.2f} over {figures['episodes']} episodes"
    )
    say(f"{run / 'report.html'} and {run / 'report.json'}: {result}")
