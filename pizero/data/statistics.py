"""Statistics of states and actions, exact, from the dataset's columns alone: no picture is ever decoded."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pizero.contract import FieldStatistics, Statistics
from pizero.data.lerobot import LeRobotDataset


def field_statistics(values: Float[np.ndarray, "frame dimension"]) -> FieldStatistics:
    """Return exact statistics per dimension, accumulated in float64; ValueError on a value that is not
    finite.
    """
    if len(values) == 0:
        raise ValueError("expected at least one frame to take statistics of, found none")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        frame, dimension = bad[0]
        raise ValueError(
            f"expected finite numbers, found {len(bad)} that are not, first {values[frame, dimension]} in "
            f"frame {frame}, dimension {dimension}; remove or repair these frames"
        )
    exact = values.astype(np.float64)
    low, high = np.quantile(exact, [0.01, 0.99], axis=0)
    return FieldStatistics(
        mean=tuple(exact.mean(axis=0).tolist()),
        std=tuple(exact.std(axis=0).tolist()),
        minimum=tuple(exact.min(axis=0).tolist()),
        maximum=tuple(exact.max(axis=0).tolist()),
        q01=tuple(low.tolist()),
        q99=tuple(high.tolist()),
        count=len(values),
    )


def compute_statistics(dataset: LeRobotDataset) -> Statistics:
    """Return statistics of all states and actions of a dataset."""
    return Statistics(state=field_statistics(dataset.states), actions=field_statistics(dataset.actions))


def degenerate_dimensions(statistics: FieldStatistics) -> list[int]:
    """Return the dimensions that hardly move (standard deviation below 1e-4)."""
    return [index for index, deviation in enumerate(statistics.std) if deviation < 1e-4]
