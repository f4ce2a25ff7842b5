"""`pizero report`: a run as one page and one JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from pizero.cli.options import Json, say
from pizero.diagnose.report import write_report


def report(run: Path, /, *, measure: bool = True, as_json: Json = False) -> None:
    """Write a run's `report.html` and `report.json`: success, films, curves, predicted chunks, what the model
    saw and how it was trained.

    Any run will do, also one under way or stopped; what is missing is said.

    Args:
        run: Folder that `pizero demo` or `pizero train --output` wrote.
        measure: Run the policies on held-out episodes, on a GPU if there is one; large ones take long.
        as_json: Print the figures as JSON.
    """
    figures = write_report(run, measured=measure)
    if as_json:
        print(json.dumps(figures))
        return
    rate, training = figures["success_rate"], figures["training"]
    result = (
        "not evaluated yet" if rate is None else f"success {rate:.2f} over {figures['episodes']} episodes"
    )
    if not figures["finished"]:
        result = f"{training['steps']} of {training['num_steps']} updates made, {result}"
    say(f"{run / 'report.html'} and {run / 'report.json'}: {result}")
