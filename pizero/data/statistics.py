"""Statistics of states and actions, exact, from the dataset's columns alone: no picture is ever decoded."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pizero.contract import ActionForm, Convention, FieldStatistics, Statistics
from pizero.data.actions import ActionTransform
from pizero.data.conventions import find_convention
from pizero.data.dataset import action_windows
from pizero.data.lerobot import LeRobotDataset
from pizero.robots import Embodiment


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


def compute_statistics(
    dataset: LeRobotDataset,
    embodiment: Embodiment,
    *,
    action_form: ActionForm = "recorded",
    horizon: int = 1,
    convention: Convention = "native",
) -> Statistics:
    """Return statistics of a dataset's states and actions as a model sees them.

    They are written in `convention`, and the actions in `action_form`, relative to the state of each
    window's first frame. Shapes: those of the dataset's columns.
    """
    written = find_convention(convention)
    actions, valid = action_windows(dataset, np.arange(dataset.num_frames), horizon)
    states = written.encode_state(dataset.states)
    transformed = ActionTransform(action_form, embodiment).encode(written.encode_actions(actions), states)
    return Statistics(
        state=field_statistics(states),
        actions=field_statistics(transformed[valid]),
        action_form=action_form,
        horizon=horizon,
    )


def degenerate_dimensions(statistics: FieldStatistics) -> list[int]:
    """Return the dimensions that hardly move (standard deviation below 1e-4)."""
    return [index for index, deviation in enumerate(statistics.std) if deviation < 1e-4]
