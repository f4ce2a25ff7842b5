"""What a robot's numbers are meant to be: kinds and limits, from the catalog or from the names alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from pizero.data.lerobot_features import ACTION, STATE
from pizero.diagnose.doctor.columns import Numbers, sampled
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source
from pizero.robots import CATALOG, Dimension

FAR = 3.0
"""Numbers three times beyond a limit are no calibration error: the next unit is 57, 100 or 1000 away."""
SCALES = {"rad": {"degrees": 57.29578}, "m": {"millimetres": 1000.0, "centimetres": 100.0}}
MIXED = 0.25
"""How far, in natural logarithms, a ratio may be from 57.3 or 1000 to be that of two units."""
MARGIN = 0.05
"""A limit may be passed by 5 % of its range, which encoders and calibrations do."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """A dimension's name, whether it is a gripper or a joint, and its entry in the catalog if it has one."""

    name: str
    is_gripper: bool
    is_joint: bool
    known: Dimension | None


def meanings(source: Source, key: str) -> list[Meaning]:
    """Return what each dimension of a vector is; a robot of the catalog must have as many of them."""
    feature = source.features[key]
    names = feature.names or tuple(f"dimension {index}" for index in range(feature.shape[-1]))
    robot = CATALOG.get(str(source.info.get("robot_type") or ""))
    dimensions = () if robot is None else robot.state if key == STATE else robot.actions
    known = list(dimensions) if len(dimensions) == len(names) else [None] * len(names)
    return [
        Meaning(
            name=name,
            is_gripper=entry.kind == "gripper" if entry else _has(name, "gripper", "finger", "claw"),
            is_joint=entry.kind == "joint" if entry else _has(name, *JOINT_WORDS),
            known=entry,
        )
        for name, entry in zip(names, known, strict=True)
    ]


JOINT_WORDS = ("joint", "shoulder", "elbow", "waist", "wrist", "forearm")


def check_units(source: Source, numbers: Numbers, findings: Findings) -> None:
    """Compare quantiles with limits, episodes with one another, and states with actions."""
    quantiles = {key: np.quantile(sampled(numbers, key), (0.01, 0.99), axis=0) for key in numbers.sample}
    _check_episodes(source, numbers, findings)
    if {STATE, ACTION} <= quantiles.keys() and not findings.has("unit-mixed"):
        _check_vectors(source, quantiles, findings)
    if findings.has("unit-mixed"):
        return
    for key, (low, high) in quantiles.items():
        _check_limits(source, key, low, high, findings)


def _check_limits(
    source: Source,
    key: str,
    low: Float64[np.ndarray, "dimension"],
    high: Float64[np.ndarray, "dimension"],
    findings: Findings,
) -> None:
    beyond: dict[str, list[str]] = {}
    outside: list[str] = []
    joints: list[tuple[str, float]] = []
    for place, meaning in enumerate(meanings(source, key)):
        reach = max(abs(low[place]), abs(high[place]))
        if meaning.known is None:
            if meaning.is_joint and not meaning.is_gripper:
                joints.append((meaning.name, reach))
            continue
        limit = max(abs(meaning.known.low), abs(meaning.known.high))
        margin = MARGIN * (meaning.known.high - meaning.known.low)
        if reach > FAR * limit:
            fits = [
                unit for unit, scale in SCALES.get(meaning.known.unit, {}).items() if reach <= scale * limit
            ]
            guess = " or ".join(fits) if fits else "another unit or scale"
            beyond.setdefault(guess, []).append(f"{meaning.name} reaches {reach:.4g} ({meaning.known.unit})")
        elif low[place] < meaning.known.low - margin or high[place] > meaning.known.high + margin:
            outside.append(f"{meaning.name}: {low[place]:.4g} … {high[place]:.4g}")
    for guess, dimensions in beyond.items():
        findings.add(
            "unit-suspect",
            f"{source.folder}, {key}",
            f"{several(dimensions, shown=3)}, far beyond the robot's limits: {guess}?",
            "write the numbers in the catalog's units, or describe the robot in a file of its own",
        )
    if outside:
        findings.add(
            "limits-exceeded",
            f"{source.folder}, {key}",
            f"outside of the limits for {source.info.get('robot_type')}: {several(outside, shown=3)}",
            "see that this is the robot that the name says",
        )
    if joints and np.median([reach for _, reach in joints]) > 4 * np.pi:
        names = [f"{name} reaches {reach:.4g}" for name, reach in joints]
        findings.add(
            "unit-unsure",
            f"{source.folder}, {key}",
            f"{several(names, shown=3)}: more than two turns if these are radians",
            "give the unit in the robot's file; a model does not mind, a robot of the catalog does",
        )


def _check_episodes(source: Source, numbers: Numbers, findings: Findings) -> None:
    """Find episodes whose typical size in most dimensions is 57.3 or 1000 times that of the others."""
    for key in numbers.sample:
        own = [numbers_of for numbers_of in numbers.episodes if numbers_of.episode.length > 1]
        if len(own) < 3:
            continue
        sizes = np.stack([np.maximum(abs(one.low[key]), abs(one.high[key])) for one in own])
        usual = np.median(sizes, axis=0)
        used = [
            i for i, meaning in enumerate(meanings(source, key)) if usual[i] > 0 and not meaning.is_gripper
        ]
        if not used:
            continue
        ratios = np.median(np.log(np.maximum(sizes[:, used], 1e-12) / usual[used]), axis=1)
        scales = {"degrees and radians": np.log(57.29578), "metres and millimetres": np.log(1000.0)}
        for units, scale in scales.items():
            odd = np.flatnonzero(np.abs(np.abs(ratios) - scale) < MIXED)
            if len(odd):
                findings.add(
                    "unit-mixed",
                    f"{source.folder}, {key}",
                    f"{len(odd)} episodes are about {np.exp(scale):.4g} times larger or smaller "
                    f"than the others ({several([own[i].episode.index for i in odd])}): {units} mixed?",
                    "write all episodes in one unit",
                )


def _check_vectors(
    source: Source, quantiles: Mapping[str, Float64[np.ndarray, "2 dimension"]], findings: Findings
) -> None:
    """Compare the spread of states and actions with the same names."""
    states, actions = meanings(source, STATE), meanings(source, ACTION)
    if [one.name for one in states] != [one.name for one in actions]:
        return
    spreads = [quantiles[key][1] - quantiles[key][0] for key in (STATE, ACTION)]
    used = [
        i for i, one in enumerate(states) if not one.is_gripper and spreads[0][i] > 0 and spreads[1][i] > 0
    ]
    if not used:
        return
    ratio = float(np.median(np.log(spreads[1][used] / spreads[0][used])))
    if abs(abs(ratio) - np.log(57.29578)) < MIXED or abs(abs(ratio) - np.log(1000.0)) < MIXED:
        findings.add(
            "unit-mixed",
            source.folder,
            f"actions are {np.exp(ratio):.4g} times as large as the states of the same names",
            "write states and actions in one unit",
        )


def _has(name: str, *words: str) -> bool:
    return any(word in name.lower() for word in words)
