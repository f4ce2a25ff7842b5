"""Statistics of states and actions, exact, from the dataset's columns alone: no picture is ever decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from jaxtyping import Float

from pizero.contract import ActionForm, Convention, FieldStatistics, Normalization, Statistics
from pizero.data.actions import ActionTransform
from pizero.data.conventions import find_convention
from pizero.data.lerobot import LeRobotDataset, as_vectors
from pizero.data.lerobot_features import ACTION, STATE
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.data.order_statistics import Moments, Quantiles
from pizero.data.processor import Normalizer
from pizero.embodiment import Dimension, Embodiment

SHARES = (0.01, 0.99)
VALUES_AT_A_TIME = 4_000_000
"""How many numbers of action windows are in memory at a time."""

LEAST_SPREAD = 0.01
"""A dimension's spread is at least this share of its limits' range; see `FieldStatistics.floor`."""


class FieldCounter:
    """Exact statistics of a stream of vectors, which has to be given twice: see `Quantiles`."""

    def __init__(self, num_dimensions: int) -> None:
        self.moments, self.quantiles = Moments(num_dimensions), Quantiles(num_dimensions, SHARES)
        self.is_second_pass = False

    def count(self, values: Float[np.ndarray, "frame dimension"]) -> None:
        """Count some vectors; their quantiles are of the nearest float32 numbers."""
        if not self.is_second_pass:
            self.moments.count(values)
        self.quantiles.count(values.astype(np.float32, copy=False))

    def narrow(self) -> None:
        """End the first pass; ValueError if it had nothing."""
        if self.moments.total == 0:
            raise ValueError("expected at least one frame to take statistics of, found none")
        self.quantiles.narrow()
        self.is_second_pass = True

    def result(self) -> FieldStatistics:
        """Return the statistics, without a floor."""
        low, high = self.quantiles.values()
        return FieldStatistics(
            mean=tuple(self.moments.mean.tolist()),
            std=tuple(self.moments.std.tolist()),
            minimum=tuple(self.moments.minimum.tolist()),
            maximum=tuple(self.moments.maximum.tolist()),
            q01=tuple(low.tolist()),
            q99=tuple(high.tolist()),
            count=self.moments.total,
        )


def field_statistics(values: Float[np.ndarray, "frame dimension"]) -> FieldStatistics:
    """Return exact statistics per dimension; ValueError on a value that is not finite."""
    check_finite(values, "values")
    counter = FieldCounter(values.shape[1])
    counter.count(values)
    counter.narrow()
    counter.count(values)
    return counter.result()


def compute_statistics(
    datasets: LeRobotDataset | Sequence[LeRobotDataset],
    embodiment: Embodiment,
    *,
    action_form: ActionForm = "recorded",
    absolute: Sequence[str] = (),
    horizon: int = 1,
    convention: Convention = "native",
    visit: Callable[[int], None] = lambda _: None,
) -> Statistics:
    """Return statistics of one dataset's states and actions, or of several, as a model sees them.

    They are written in `convention`, and the actions in `action_form` but for those named in `absolute`,
    relative to the state of each window's first frame. Memory is bounded: the columns are read twice, block
    after block, and `visit` is told how many frames are new.
    """
    given = (datasets,) if isinstance(datasets, LeRobotDataset) else tuple(datasets)
    written = find_convention(convention)
    transform = ActionTransform(action_form, embodiment, absolute)
    states = FieldCounter(embodiment.state_dim)
    actions = FieldCounter(embodiment.action_dim)
    for last in (False, True):
        for episodes, columns in chain.from_iterable(each.blocks([STATE, ACTION]) for each in given):
            raw = {key: as_vectors(columns[key]) for key in (STATE, ACTION)}
            if not last:
                for key, values in raw.items():
                    check_finite(values, key, episodes[0].start)
            shown = written.encode_state(raw[STATE])
            states.count(shown)
            told = written.encode_actions(raw[ACTION])
            for window, valid in _windows(episodes, told, shown, horizon, transform):
                actions.count(window[valid])
            visit(len(shown))
        if not last:
            states.narrow()
            actions.narrow()
    return Statistics(
        state=replace(states.result(), floor=floors(embodiment.state)),
        actions=replace(actions.result(), floor=floors(embodiment.actions)),
        convention=convention,
        action_form=action_form,
        absolute=tuple(absolute),
        horizon=horizon,
    )


def _windows(
    episodes: Sequence[EpisodeInfo],
    actions: np.ndarray,
    states: np.ndarray,
    horizon: int,
    transform: ActionTransform,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the chunks that begin at successive frames, written for the model, and which steps are real."""
    first = episodes[0].start
    lengths = [episode.length for episode in episodes]
    ends = np.repeat([episode.end - first for episode in episodes], lengths)
    count = max(1, VALUES_AT_A_TIME // (horizon * actions.shape[1]))
    for start in range(0, len(actions), count):
        frames = np.arange(start, min(start + count, len(actions)))
        wanted = frames[:, None] + np.arange(horizon)
        valid = wanted < ends[frames, None]
        chunks = actions[np.minimum(wanted, ends[frames, None] - 1)]
        yield transform.encode(chunks, states[frames]), valid


def check_finite(values: Float[np.ndarray, "frame dimension"], name: str, first_frame: int = 0) -> None:
    """Raise ValueError that names the first number that is not finite."""
    if np.isfinite(values).all():
        return
    bad = np.argwhere(~np.isfinite(values))
    frame, dimension = bad[0]
    raise ValueError(
        f"{name}: expected finite numbers, found {len(bad)} that are not, first "
        f"{values[frame, dimension]} in frame {first_frame + frame}, dimension {dimension}; remove or "
        f"repair these frames"
    )


def floors(dimensions: Sequence[Dimension]) -> tuple[float, ...]:
    """Return the least spread (q99 - q01) of each dimension."""
    return tuple(LEAST_SPREAD * (dimension.high - dimension.low) for dimension in dimensions)


def degenerate_dimensions(statistics: FieldStatistics) -> list[int]:
    """Return the dimensions that hardly move: a spread or deviation below its floor, or below 1e-4."""
    floor = np.array(statistics.floor or 0.0)
    narrow = np.array(statistics.std) < np.maximum(floor / 4.0, 1e-4)
    if statistics.q01 and statistics.q99:
        narrow |= np.array(statistics.q99) - np.array(statistics.q01) < np.maximum(floor, 1e-4)
    return np.flatnonzero(narrow).tolist()


def reach(statistics: FieldStatistics, normalization: Normalization) -> Float[np.ndarray, "dimension"]:
    """Return the largest number, either way, that each dimension becomes when it is normalised."""
    normalizer = Normalizer(statistics, normalization)
    ends = np.array([statistics.minimum, statistics.maximum])
    return np.abs((ends - normalizer.center) / normalizer.scale).max(axis=0)
