"""A policy's answers beside the recorded actions, dimension by dimension, in robot units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pizero.contract import Contract
from pizero.diagnose.explain.replay import MIN_DEVIATION, Chunks
from pizero.diagnose.explain.samples import Sample
from pizero.embodiment import Dimension


@dataclass(frozen=True, kw_only=True)
class DimensionError:
    """Root mean squared errors of one action dimension, in its unit.

    `spread` is the standard deviation of the recorded actions and `relative` the error over it; `start`,
    `middle` and `end` are of the chunk's first, middle and last action. Of the baselines, `mean` answers the
    mean of the data in the form of the contract's actions, `hold` the state of the dimension of the same
    name, and `last` the action before. None where something has no meaning.
    """

    name: str
    unit: str
    error: float
    spread: float
    relative: float | None
    correlation: float | None
    start: float
    middle: float
    end: float
    mean: float
    hold: float | None
    last: float


def dimension_errors(
    predicted: Chunks, mean: Chunks, samples: Sequence[Sample], contract: Contract
) -> list[DimensionError]:
    """Return one row for each action dimension; `mean` are the chunks of the mean's baseline."""
    recorded = np.stack([sample.actions for sample in samples])
    valid = np.stack([sample.valid for sample in samples])
    last = np.stack([np.broadcast_to(sample.previous, sample.actions.shape) for sample in samples])
    states = np.stack([sample.observation.state for sample in samples])
    rows = []
    for index, dimension in enumerate(contract.embodiment.actions):
        there, ours = recorded[..., index], predicted[..., index]
        deviation = float(there[valid].std())
        moves = deviation >= MIN_DEVIATION
        correlates = moves and float(ours[valid].std()) > 0.0
        held = _same(dimension, contract.embodiment.state)
        steps = {"start": 0, "middle": contract.horizon // 2, "end": contract.horizon - 1}
        error = _root(ours, there, valid)
        rows.append(
            DimensionError(
                name=dimension.name,
                unit=dimension.unit,
                error=error,
                spread=deviation,
                relative=error / deviation if moves else None,
                correlation=float(np.corrcoef(ours[valid], there[valid])[0, 1]) if correlates else None,
                **{name: _at_step(ours, there, valid, step) for name, step in steps.items()},
                mean=_root(mean[..., index], there, valid),
                hold=None
                if held is None
                else _root(np.broadcast_to(states[:, held, None], there.shape), there, valid),
                last=_root(last[..., index], there, valid),
            )
        )
    return rows


def _same(dimension: Dimension, state: Sequence[Dimension]) -> int | None:
    """Return the place in the state of what an action sets; None if it sets something else."""
    key = (dimension.name, dimension.unit, dimension.kind)
    places = [place for place, other in enumerate(state) if (other.name, other.unit, other.kind) == key]
    return places[0] if places and dimension.kind != "velocity" else None


def _root(
    ours: Float[np.ndarray, "sample horizon"],
    theirs: Float[np.ndarray, "sample horizon"],
    valid: Bool[np.ndarray, "sample horizon"],
) -> float:
    return float(np.sqrt(np.square(ours - theirs)[valid].mean()))


def _at_step(
    ours: Float[np.ndarray, "sample horizon"],
    theirs: Float[np.ndarray, "sample horizon"],
    valid: Bool[np.ndarray, "sample horizon"],
    step: int,
) -> float:
    """Return the error at a step, or at the last that some episode still has."""
    reached = min(step, int(np.flatnonzero(valid.any(axis=0))[-1]))
    here = valid[:, reached]
    return float(np.sqrt(np.square(ours[here, reached] - theirs[here, reached]).mean()))
