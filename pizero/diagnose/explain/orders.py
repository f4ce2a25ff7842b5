"""In which order a dataset's dimensions would fit a contract best."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from scipy.optimize import linear_sum_assignment

from pizero.contract import Contract, FieldStatistics, Statistics
from pizero.data.lerobot import LeRobotDataset
from pizero.data.processor import Normalizer
from pizero.embodiment import Dimension

Order = Int64[np.ndarray, "dimension"]
"""For each dimension of the contract, the place in the dataset at which it is thought to be."""


def proposed_orders(
    contract: Contract, dataset: LeRobotDataset, own: Statistics
) -> tuple[Order | None, Order | None]:
    """Return orders of state and actions that are worth trying; None where the present one is.

    If the names are the contract's in another order, that one; else the one in which each dimension's
    centre, spread and ends are nearest to the contract's. It is only a proposal: replaying decides.
    """
    embodiment, given = contract.embodiment, contract.statistics
    return (
        _order(embodiment.state, dataset.state_names, contract, given.state, own.state),
        _order(embodiment.actions, dataset.action_names, contract, given.actions, own.actions),
    )


def _order(
    dimensions: tuple[Dimension, ...],
    names: tuple[str, ...],
    contract: Contract,
    given: FieldStatistics,
    own: FieldStatistics,
) -> Order | None:
    wanted = [dimension.name for dimension in dimensions]
    if len(set(names)) == len(wanted) and sorted(names) == sorted(wanted) and list(names) != wanted:
        return np.array([names.index(name) for name in wanted], dtype=np.int64)
    _, order = linear_sum_assignment(_distances(contract, given, own))
    order = order.astype(np.int64)
    return None if (order == np.arange(len(order))).all() else order


def _distances(contract: Contract, given: FieldStatistics, own: FieldStatistics) -> np.ndarray:
    """Return how unlike each dimension of the contract (rows) and of the dataset (columns) are."""
    theirs = Normalizer(given, contract.normalization, contract.epsilon)
    ours = Normalizer(own, contract.normalization, contract.epsilon)
    spreads = np.square(theirs.scale[:, None]) + np.square(ours.scale)
    apart = np.square(np.log(theirs.scale[:, None] / ours.scale))
    for name in ("mean", "minimum", "q01", "q99", "maximum"):
        there, here = np.array(getattr(given, name)), np.array(getattr(own, name))
        if len(there) == len(theirs.scale):
            apart = apart + np.square(there[:, None] - here) / spreads
    return apart
