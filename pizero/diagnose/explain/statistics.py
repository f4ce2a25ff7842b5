"""The numbers of a dataset as the policy's contract normalises them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pizero.contract import Contract, FieldStatistics, Statistics
from pizero.data.dataset import action_windows
from pizero.data.lerobot import LeRobotDataset
from pizero.data.processor import Normalizer, Processor

ZSCORE_LIMIT, QUANTILE_LIMIT = 5.0, 1.5
"""Beyond lie fewer than one in a million numbers of a normal distribution, or those that are outside the
range between the 1st and the 99th percentile by a quarter of it.
"""

NUM_FRAMES = 20_000


@dataclass(frozen=True, kw_only=True)
class DimensionFit:
    """One dimension of the dataset under the contract.

    `outside` is the share of normalised values that are out of range. `shift` is how far the data's centre
    lies from the contract's, in spreads of the contract; `ratio` is the data's spread over the contract's.
    """

    field: str
    name: str
    outside: float
    shift: float
    ratio: float


def fit_of(dataset: LeRobotDataset, processor: Processor, own: Statistics) -> list[DimensionFit]:
    """Return how each dimension of state and actions fits; `own` are the dataset's own statistics.

    Shares are of evenly spaced frames, at most NUM_FRAMES of them.
    """
    contract, convention = processor.contract, processor.convention
    frames = np.unique(np.linspace(0, dataset.num_frames - 1, NUM_FRAMES).astype(np.int64))
    states = convention.encode_state(dataset.states[frames])
    actions, valid = action_windows(dataset, frames, contract.horizon)
    written = processor.action_transform.encode(convention.encode_actions(actions), states)[valid]
    state_names = [dimension.name for dimension in contract.embodiment.state]
    action_names = [dimension.name for dimension in contract.embodiment.actions]
    given = contract.statistics
    return [
        *_field("state", state_names, states, contract, given.state, own.state),
        *_field("actions", action_names, written, contract, given.actions, own.actions),
    ]


def _field(
    field: str,
    names: Sequence[str],
    values: Float[np.ndarray, "frame dimension"],
    contract: Contract,
    given: FieldStatistics,
    own: FieldStatistics,
) -> list[DimensionFit]:
    theirs = Normalizer(given, contract.normalization, contract.epsilon)
    ours = Normalizer(own, contract.normalization, contract.epsilon)
    limit = ZSCORE_LIMIT if contract.normalization == "zscore" else QUANTILE_LIMIT
    outside = (np.abs(theirs.encode(values)) > limit).mean(axis=0)
    return [
        DimensionFit(
            field=field,
            name=name,
            outside=float(outside[index]),
            shift=float((ours.center[index] - theirs.center[index]) / theirs.scale[index]),
            ratio=float(ours.scale[index] / theirs.scale[index]),
        )
        for index, name in enumerate(names)
    ]
