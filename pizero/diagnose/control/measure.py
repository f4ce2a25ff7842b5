"""What a run of the executor says about a machine and a policy: times, delays, waits, seams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pizero.embodiment import Embodiment
from pizero.policy.executor import LATE
from pizero.policy.record import Record, TickRecord
from pizero.policy.smoothness import changes


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How some numbers are spread: the median, rare ones, and the worst."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True)
class JointMotion:
    """How the commands of one number of an action move, in its unit.

    The largest change from tick to tick where one chunk follows another (`splice`) and elsewhere (`within`),
    and the root mean square and maximum of the third derivative of positions, or the second of velocities,
    per second cubed or squared.
    """

    name: str
    unit: str
    splice: float | None
    within: float | None
    jerk_rms: float | None
    jerk_max: float | None


@dataclass(frozen=True, kw_only=True)
class ControlFigures:
    """Everything that is measured of a run; times are in ms, delays in control ticks.

    `period` is from one tick's beginning to the next one's, `lateness` from a deadline to the beginning;
    `drift` is how much later ticks begin at the end of the run than at its beginning. A deadline is missed by
    a tick that begins more than a tenth of a period late, or not at all. `age` is that of an action's
    observation when it is executed. `held` counts ticks after the first action without one.
    """

    ticks: int
    seconds: float
    period: Spread
    lateness: Spread
    drift: float
    missed: int
    longest_miss: int
    skipped: int
    stages: dict[str, Spread]
    age: Spread | None
    delay: Spread | None
    estimate: Spread | None
    underestimated: int
    answers: int
    used: int
    dropped: int
    errors: dict[str, int]
    first_answer: float | None
    held: int
    longest_hold: float
    joints: tuple[JointMotion, ...]
    interventions: dict[str, int]
    transitions: tuple[str, ...]


def measure(record: Record, embodiment: Embodiment) -> ControlFigures:
    """Return the figures of a run; ValueError if it was too short to say anything."""
    ticks = list(record.ticks)
    if len(ticks) < 3:
        raise ValueError(f"expected a run of at least 3 control ticks, found {len(ticks)}: drive for longer")
    began = np.array([tick.began for tick in ticks])
    lateness = began - np.array([tick.deadline for tick in ticks])
    period = 1.0 / embodiment.rate
    answered = [answer for answer in record.answers if not answer.error]
    told = [answer for answer in answered if answer.delay is not None][1:]
    expected = [answer for answer in told if answer.estimate is not None]
    errors: dict[str, int] = {}
    for answer in record.answers:
        if answer.error:
            errors[answer.error] = errors.get(answer.error, 0) + 1
    stages = {
        name: [tick.seconds[name] for tick in ticks] for name in ("observe", "plan", "guard", "tell")
    } | {
        "wait for policy": [answer.waited for answer in answered],
        "policy": [answer.seconds for answer in answered],
    }
    for answer in answered:
        for name, seconds in answer.stages.items():
            stages.setdefault(f"server: {name}", []).append(seconds)
    holds = _holds(ticks)
    ages = [tick.age for tick in ticks if tick.age is not None]
    start = ticks[0].deadline
    return ControlFigures(
        ticks=len(ticks),
        seconds=float(began[-1] - began[0]),
        period=spread(1e3 * np.diff(began)),
        lateness=spread(1e3 * lateness),
        drift=1e3 * drift_of(lateness),
        missed=sum(_missed(tick, period) for tick in ticks),
        longest_miss=_longest_miss(ticks, period),
        skipped=sum(tick.skipped for tick in ticks),
        stages={name: spread(1e3 * np.array(seconds)) for name, seconds in stages.items() if seconds},
        age=spread(1e3 * np.array(ages)) if ages else None,
        delay=spread(np.array([answer.delay for answer in told])) if told else None,
        estimate=spread(np.array([answer.estimate for answer in expected])) if expected else None,
        underestimated=sum((answer.delay or 0) > (answer.estimate or 0) for answer in expected),
        answers=len(record.answers),
        used=sum(answer.used for answer in answered),
        dropped=sum(not answer.used for answer in answered),
        errors=errors,
        first_answer=1e3 * answered[0].seconds if answered else None,
        held=sum(holds),
        longest_hold=1e3 * period * max(holds, default=0),
        joints=_joints(ticks, embodiment),
        interventions=dict(record.interventions),
        transitions=tuple(
            f"{change.time - start:.3f} s: {change.state}" + (f" ({change.reason})" if change.reason else "")
            for change in record.transitions
        ),
    )


def spread(values: Float[np.ndarray, "value"] | np.ndarray) -> Spread:
    """Return the spread of some numbers."""
    p50, p95, p99 = np.quantile(values.astype(np.float64), [0.5, 0.95, 0.99])
    return Spread(p50=float(p50), p95=float(p95), p99=float(p99), max=float(values.max()))


def drift_of(lateness: Float[np.ndarray, "tick"]) -> float:
    """Return how much later ticks begin at the end than at the beginning: medians of a tenth of them each."""
    part = max(1, len(lateness) // 10)
    return float(np.median(lateness[-part:]) - np.median(lateness[:part]))


def _missed(tick: TickRecord, period: float) -> int:
    return tick.skipped + (tick.began - tick.deadline > LATE * period)


def _longest_miss(ticks: Sequence[TickRecord], period: float) -> int:
    longest = run = 0
    for tick in ticks:
        run = run + tick.skipped if tick.skipped else run
        late = tick.began - tick.deadline > LATE * period
        longest = max(longest, run + late)
        run = run + 1 if late else 0
    return longest


def _holds(ticks: Sequence[TickRecord]) -> list[int]:
    """Return the lengths of all waits after the first action, in ticks."""
    found, run, moved = [], 0, False
    for tick in ticks:
        moved = moved or tick.planned
        if tick.planned and run:
            found.append(run)
        run = 0 if tick.planned or not moved else run + 1
    return [*found, run] if run else found


def _joints(ticks: Sequence[TickRecord], embodiment: Embodiment) -> tuple[JointMotion, ...]:
    told = [tick for tick in ticks if tick.command is not None and tick.planned]
    if len(told) < 4:
        return ()
    commands = np.stack([tick.command for tick in told if tick.command is not None])
    spans = np.array([dimension.high - dimension.low for dimension in embodiment.actions])
    steps = changes(commands, embodiment) * spans
    pairs = list(itertools.pairwise(told))
    follows = np.array([after.index == before.index + 1 for before, after in pairs])
    seams = np.array([after.source != before.source for before, after in pairs])
    sizes = np.abs(steps)
    found = []
    for place, dimension in enumerate(embodiment.actions):
        order = 1 if dimension.kind == "velocity" else 2
        jerk = np.diff(steps[:, place], n=order) * embodiment.rate ** (order + 1)
        whole = np.convolve(follows, np.ones(order + 1), mode="valid") > order
        smooth = np.abs(jerk[whole])
        found.append(
            JointMotion(
                name=dimension.name,
                unit=dimension.unit,
                splice=_largest(sizes[follows & seams, place]),
                within=_largest(sizes[follows & ~seams, place]),
                jerk_rms=float(np.sqrt(np.mean(smooth**2))) if len(smooth) else None,
                jerk_max=_largest(smooth),
            )
        )
    return tuple(found)


def _largest(values: np.ndarray) -> float | None:
    return float(values.max()) if len(values) else None
