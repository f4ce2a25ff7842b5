"""The dataset's own statistics beside its columns: we do not use them, but other programs do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from pizero.diagnose.doctor.columns import Numbers
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source


def check_statistics(source: Source, numbers: Numbers, findings: Findings) -> None:
    """Compare minimum and maximum with the columns, where every row of these could be read."""
    if numbers.count != sum(episode.length for episode in source.episodes):
        return
    wrong: list[str] = []
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    try:
        for key, name, values in _written(source):
            if key in numbers.sample:
                found.setdefault((key, name), []).append(values)
    except (ValueError, TypeError, AttributeError) as error:
        wrong.append(f"what cannot be read ({error})")
    for (key, name), parts in found.items():
        rows = [one.low[key] if name == "min" else one.high[key] for one in numbers.episodes]
        merge = np.min if name == "min" else np.max
        expected = merge(rows, axis=0)
        told = merge(parts, axis=0) if len({part.shape for part in parts}) == 1 else np.empty(0)
        if told.shape != expected.shape or not np.allclose(told, expected, rtol=1e-4, atol=1e-6):
            wrong.append(f"{name} of {key}")
    if wrong:
        findings.add(
            "statistics-stale",
            source.folder / "meta",
            f"the statistics differ from the columns: {several(wrong)}",
            "pizero computes its own; other programs may need them written anew",
        )


def _written(source: Source) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield key, `min` or `max`, and numbers, of the whole dataset or of each episode (v2.1)."""
    path = source.folder / "meta" / "stats.json"
    records: list[Any] = []
    if source.version == "v2.1":
        path = source.folder / "meta" / "episodes_stats.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            records = [json.loads(line)["stats"] for line in lines if line.strip()]
    elif path.is_file():
        records = [json.loads(path.read_text(encoding="utf-8"))]
    for record in records:
        for key, entry in record.items():
            feature = source.features.get(key)
            if feature is not None and feature.is_numeric:
                for name in ("min", "max"):
                    if entry.get(name) is not None:
                        yield key, name, np.asarray(entry[name], np.float64).reshape(-1)
