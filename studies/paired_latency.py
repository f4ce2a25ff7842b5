"""Ways of going on from a chunk, scene by scene, against naive execution.

    python -m studies.paired_latency OUTPUT

OUTPUT is that of `studies.real_time_chunking`. A scene's success is averaged over latencies of 4 control
steps and more; the interval of the mean difference is by resampling scenes (percentiles, scipy).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from studies.real_time_chunking import WAYS, Outcome, read_outcomes

LATENCIES = (4, 6, 8, 10)
REFERENCE = "naive"
LEVELS = (0.95, 0.99)


def against(
    ours: Mapping[int, Sequence[Outcome]], theirs: Mapping[int, Sequence[Outcome]], *, seed: int = 0
) -> dict[str, Any]:
    """Return the mean difference of success over the scenes that both have at every latency."""

    def solved(rows: Mapping[int, Sequence[Outcome]]) -> dict[tuple[str, int], list[bool]]:
        found: dict[tuple[str, int], list[bool]] = {}
        for latency in rows:
            for each in rows[latency]:
                found.setdefault((each.task, each.index), []).append(each.success)
        return {scene: row for scene, row in found.items() if len(row) == len(rows)}

    first, second = solved(ours), solved(theirs)
    scenes = sorted(first.keys() & second.keys())
    gaps = np.array([np.mean(first[scene]) - np.mean(second[scene]) for scene in scenes])
    intervals = {
        f"interval_{level:.0%}": list(
            scipy.stats.bootstrap(
                (gaps,), np.mean, confidence_level=level, method="percentile", rng=np.random.default_rng(seed)
            ).confidence_interval
        )
        for level in LEVELS
    }
    return {"difference": float(gaps.mean()), "scenes": len(scenes), **intervals}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    folder = parser.parse_args(argv).output / "episodes"

    def of(way: str) -> dict[int, list[Outcome]]:
        name = way.replace(" ", "_")
        return {latency: read_outcomes(folder / f"{name}-{latency}.jsonl") for latency in LATENCIES}

    reference = of(REFERENCE)
    if not all(reference.values()):
        raise SystemExit(f"expected episodes of {REFERENCE!r} in {folder}: run studies.real_time_chunking")
    found = {
        way: against(rows, reference) for way in WAYS if way != REFERENCE and all((rows := of(way)).values())
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
