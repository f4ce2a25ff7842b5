"""The numbers themselves: dimensions that stand still, values far outside, and episodes that occur twice."""

from __future__ import annotations

import numpy as np

from pizero.diagnose.doctor.columns import Numbers, sampled
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source
from pizero.diagnose.doctor.units import meanings

OUTLYING = 10.0
"""How many times the 1 % … 99 % range a value may lie beyond it: for a bell curve that is 46 deviations."""
STILL = 1e-6
"""A range below a millionth of the number's size is what rounding to float32 makes of a constant."""


def check_values(source: Source, numbers: Numbers, findings: Findings) -> None:
    """Look at each dimension over the whole dataset, and at episodes beside one another."""
    for key in numbers.sample:
        rows = sampled(numbers, key)
        low = np.min([one.low[key] for one in numbers.episodes], axis=0)
        high = np.max([one.high[key] for one in numbers.episodes], axis=0)
        below, above = np.quantile(rows, (0.01, 0.99), axis=0)
        place = f"{source.folder}, {key}"
        for index, meaning in enumerate(meanings(source, key)):
            size = max(abs(low[index]), abs(high[index]), 1e-12)
            if high[index] - low[index] <= STILL * size:
                code = "gripper-still" if meaning.is_gripper else "constant-dimension"
                findings.add(
                    code,
                    place,
                    f"{meaning.name} is {low[index]:.4g} in every frame",
                    "see that the sensor was connected; a model learns nothing from this number",
                )
            elif above[index] - below[index] <= STILL * size:
                findings.add(
                    "narrow-quantiles",
                    place,
                    f"{meaning.name} is {below[index]:.4g} in 98 % of the frames, between {low[index]:.4g} "
                    f"and {high[index]:.4g} in the others",
                    "normalise by mean and deviation, not by quantiles",
                )
            else:
                _check_outliers(
                    numbers, key, index, meaning.name, (below[index], above[index]), place, findings
                )
    _check_duplicates(source, numbers, findings)
    short = [one.episode.index for one in numbers.episodes if one.episode.length < 2]
    if short:
        findings.add(
            "episode-short",
            source.folder,
            f"episodes of a single frame: {several(short)}",
            "remove them: there is nothing that follows to learn from",
        )


def _check_outliers(
    numbers: Numbers,
    key: str,
    index: int,
    name: str,
    usual: tuple[float, float],
    place: str,
    findings: Findings,
) -> None:
    width = OUTLYING * (usual[1] - usual[0])
    odd = [
        f"{value:.4g} in episode {one.episode.index}"
        for one in numbers.episodes
        for value in (one.low[key][index], one.high[key][index])
        if not usual[0] - width <= value <= usual[1] + width
    ]
    if odd:
        findings.add(
            "outlier",
            place,
            f"{name}: {several(odd, shown=3)}, where 98 % lie between {usual[0]:.4g} and {usual[1]:.4g}",
            "remove or repair these frames: they spoil mean, deviation and limits",
        )


def _check_duplicates(source: Source, numbers: Numbers, findings: Findings) -> None:
    first: dict[str, int] = {}
    twins: list[str] = []
    for one in numbers.episodes:
        if one.episode.length >= 5 and one.digest in first:
            twins.append(f"{one.episode.index} is {first[one.digest]}")
        first.setdefault(one.digest, one.episode.index)
    if twins:
        findings.add(
            "episode-duplicate",
            source.folder,
            f"episodes that occur twice: {several(twins)}",
            "remove one of each: held-out episodes must not be trained on",
        )
