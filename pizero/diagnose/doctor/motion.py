"""What leads and what follows: actions beside the states that they cause, and grippers beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from pizero.data.lerobot_features import ACTION, STATE
from pizero.diagnose.doctor.columns import MAX_EXCERPTS, Numbers, sampled
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source
from pizero.diagnose.doctor.units import Meaning, meanings

SAME = 1e-6
"""Residuals below a millionth of the spread are copies, not measurements."""
FOLLOWS = 0.9
"""A correlation above which an action is a target for the state of the same name."""
LONG_LAG = 0.5
"""Seconds. Arms that follow a leader or a target are behind it by tenths of a second."""
OFFSET = 0.25
"""A constant difference of a quarter of the 1 % … 99 % range is no steady-state error of a controller."""
CLEARER = 0.8
"""Another lag must leave less than this share of the residual at lag 0 or above to be believed."""
FEWEST = 10
"""Frames that must be left, when those within the reach of an episode's ends are taken off."""
COURSE = 20
"""Points at which the course of a gripper over an episode is compared."""
ALIKE = 0.6
"""Correlation of two courses above which they are the same, and below its negative mirrored."""


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How far a state is behind its action, in frames, and what is left of their difference then."""

    frames: int
    residual: float
    residuals: dict[int, float]
    offset: Float64[np.ndarray, "dimension"]
    correlation: Float64[np.ndarray, "dimension"]


def check_motion(source: Source, numbers: Numbers, findings: Findings) -> None:
    """Compare actions with states where both are of the same names, and courses of grippers by task."""
    if STATE in source.features and ACTION in source.features and numbers.excerpts:
        states, actions = meanings(source, STATE), meanings(source, ACTION)
        if [one.name for one in states] == [one.name for one in actions]:
            _check_lag(source, numbers, states, findings)
    for key in numbers.sample:
        _check_grippers(source, numbers, key, findings)


def _check_lag(source: Source, numbers: Numbers, dimensions: Sequence[Meaning], findings: Findings) -> None:
    excerpts = [one for one in numbers.excerpts if {STATE, ACTION} <= one.vectors.keys()]
    spread = np.ptp(np.quantile(sampled(numbers, STATE), (0.01, 0.99), axis=0), axis=0)
    used = np.array([spread[i] > 0 and not one.is_gripper for i, one in enumerate(dimensions)])
    if not used.any() or not excerpts or not source.fps:
        return
    names = [one.name for one, use in zip(dimensions, used, strict=True) if use]
    rate = source.fps
    pairs = [
        (one.vectors[STATE][:, used].astype(np.float64), one.vectors[ACTION][:, used].astype(np.float64))
        for one in excerpts[: 2 * MAX_EXCERPTS]
    ]
    lag = find_lag(pairs, spread[used], reach=max(10, round(2 * rate)))
    if lag is None:
        return
    place = f"{source.folder}, {ACTION}"
    correlation = lag.correlation
    if lag.residual < SAME:
        if lag.frames == 1:
            findings.add(
                "action-is-next-state",
                place,
                "each action is the state one frame later",
                "fine for imitation; on the robot, actions are then targets that were reached exactly",
            )
        elif lag.frames <= 0:
            what = "the same frame" if lag.frames == 0 else f"{-lag.frames} frames earlier"
            findings.add(
                "action-is-state",
                place,
                f"each action is the state of {what}",
                "record what was commanded, or take the state one frame later as the action",
            )
        return
    reversed_ones = [name for name, value in zip(names, correlation, strict=True) if value < -FOLLOWS]
    if reversed_ones and np.median(correlation) > 0:
        findings.add(
            "action-reversed",
            place,
            f"{several(reversed_ones)} of the actions runs against that of the states",
            "correct the sign of one of them",
        )
    if np.median(correlation) < FOLLOWS:
        return
    earlier = min(value for frames, value in lag.residuals.items() if frames >= 0)
    if lag.frames < 0 and lag.residual < CLEARER * earlier:
        findings.add(
            "action-late",
            place,
            f"actions fit best to the states {-lag.frames} frames earlier, as if they came after the motion",
            "shift the actions, or see how frames were put together",
        )
    elif lag.frames > LONG_LAG * rate and lag.residual < CLEARER * lag.residuals[0]:
        findings.add(
            "action-lag",
            place,
            f"states follow the actions by {lag.frames} frames ({lag.frames / rate:.2f} s)",
            "see that clocks of the recorder agree; a policy must plan that far ahead",
        )
    away = [
        f"{name} by {offset:.4g}"
        for name, offset, size, value in zip(names, lag.offset, spread[used], correlation, strict=True)
        if value > FOLLOWS and abs(offset) > OFFSET * size
    ]
    if away and not findings.has("unit-mixed"):
        findings.add(
            "action-offset",
            place,
            f"actions differ from the states that follow them: {several(away)}",
            "calibrate leader and follower alike, or see that both are in one unit",
        )


def find_lag(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], spread: Float64[np.ndarray, "dimension"], *, reach: int
) -> Lag | None:
    """Return the shift k for which `action[t]` is nearest to `state[t + k]`, but for a constant.

    Residuals are root mean squares over frames and dimensions, in units of `spread`; offset and correlation
    are those of each dimension at that shift. Episodes no longer than twice the reach are left out; if all
    are, the reach becomes a third of their median length. None if too few frames are left to judge.
    """
    long = [(states, actions) for states, actions in pairs if len(states) > 2 * reach]
    if not long:
        reach = int(np.median([len(states) for states, _ in pairs] or [0])) // 3
        long = [(states, actions) for states, actions in pairs if reach and len(states) > 2 * reach]
    if sum(len(states) - 2 * reach for states, _ in long) < FEWEST:
        return None
    inner = slice(reach, -reach)
    actions = np.concatenate([own[inner] for _, own in long]) / spread
    residuals: dict[int, float] = {}
    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    for shift in sorted(range(-reach, reach + 1), key=abs):
        moved = np.concatenate([own[reach + shift : len(own) - reach + shift] for own, _ in long]) / spread
        difference = actions - moved
        offset = np.median(difference, axis=0)
        residual = float(np.sqrt(np.mean((difference - offset) ** 2)))
        residuals[shift] = residual
        if best is None or residual < best[0]:
            best = (residual, shift, offset, moved)
    if best is None:
        return None
    residual, shift, offset, moved = best
    deviations = actions.std(axis=0) * moved.std(axis=0)
    products = ((actions - actions.mean(axis=0)) * (moved - moved.mean(axis=0))).mean(axis=0)
    correlation = np.divide(products, deviations, out=np.zeros_like(products), where=deviations > 1e-12)
    return Lag(
        frames=shift,
        residual=residual if np.abs(offset).max() < SAME else max(residual, SAME),
        residuals=residuals,
        offset=offset * spread,
        correlation=correlation,
    )


def _check_grippers(source: Source, numbers: Numbers, key: str, findings: Findings) -> None:
    for index, meaning in enumerate(meanings(source, key)):
        if not meaning.is_gripper:
            continue
        groups: dict[tuple[str, ...], list[tuple[int, np.ndarray]]] = {}
        for one in numbers.excerpts:
            values = one.vectors[key][:, index]
            if len(values) >= COURSE and np.ptp(values) > 0:
                groups.setdefault(tuple(sorted(one.episode.tasks)), []).append(
                    (one.episode.index, _course(values))
                )
        odd = [number for group in groups.values() for number in mirrored(group)]
        if odd:
            findings.add(
                "gripper-reversed",
                f"{source.folder}, {key}",
                f"{meaning.name} opens in episodes {several(odd)} where it closes in the others of the task",
                "turn it round in these episodes: 1 must mean the same everywhere",
            )


def mirrored(courses: Sequence[tuple[int, np.ndarray]]) -> list[int]:
    """Return the episodes whose course is the mirror image of that of most of them.

    At least four episodes are needed, of which three in four have one course; otherwise a task has none.
    """
    if len(courses) < 4:
        return []
    stack = np.stack([course for _, course in courses])
    usual = np.median(stack, axis=0)
    if np.ptp(usual) == 0:
        return []
    agreement = np.array([_correlation(course, usual) for course in stack])
    if np.mean(agreement > ALIKE) < 0.75:
        return []
    return [number for (number, _), value in zip(courses, agreement, strict=True) if value < -ALIKE]


def _course(values: Float32[np.ndarray, "frame"]) -> Float64[np.ndarray, "point"]:
    points = np.linspace(0, len(values) - 1, COURSE)
    return np.interp(points, np.arange(len(values)), values)


def _correlation(ours: np.ndarray, others: np.ndarray) -> float:
    ours, others = ours - ours.mean(), others - others.mean()
    size = float(np.linalg.norm(ours) * np.linalg.norm(others))
    return float(ours @ others) / size if size > 1e-12 else 0.0
