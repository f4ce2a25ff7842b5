"""The statistics that LeRobot's format keeps of each episode and of the whole.

Ours are exact, but for quantiles: those of the whole are the count-weighted mean of the episodes', which is
what LeRobot 0.4 writes. What a policy is normalised with never comes from here (see
`pizero/data/statistics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pizero.data.lerobot_features import Pictures, WrittenVersion

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
LARGE_PICTURE, SAMPLED_SIDE = 300, 150
"""Of pictures with a side from the first on, so many pixels a side are looked at as the second says."""


def values_statistics(values: np.ndarray, version: WrittenVersion) -> dict[str, Any]:
    """Return min, max, mean, std, count and quantiles (v3.0) of a feature's values `[frame, *shape]`.

    They have the feature's shape in v2.1; v3.0 keeps its last axis alone. Numbers that are not finite make
    statistics that are not finite.
    """
    exact = values.astype(np.float64)
    if version == "v3.0" and exact.ndim > 2:
        exact = exact.reshape(-1, exact.shape[-1])
    statistics = {
        "min": exact.min(axis=0).tolist(),
        "max": exact.max(axis=0).tolist(),
        "mean": exact.mean(axis=0).tolist(),
        "std": exact.std(axis=0).tolist(),
        "count": [len(values)],
    }
    if version == "v3.0":
        quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0)
        statistics |= {name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)}
    return statistics


def picture_statistics(frames: Pictures, version: WrittenVersion) -> dict[str, Any]:
    """Return the statistics of some of an episode's pictures, 0…1 per channel, of shape [3, 1, 1].

    As many frames as LeRobot takes, evenly spaced; large pictures are looked at every few pixels.
    """
    count = max(min(100, len(frames)), min(int(len(frames) ** 0.75), 10_000))
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    histogram = np.zeros((256, 3), dtype=np.int64)
    for index in chosen.tolist():
        frame = frames[index]
        longer = max(frame.shape)
        stride = longer // SAMPLED_SIDE if longer >= LARGE_PICTURE else 1
        for channel in range(3):
            looked_at = frame[::stride, ::stride, channel].ravel()
            histogram[:, channel] += np.bincount(looked_at, minlength=256)
    flat = _from_histogram(histogram)
    wanted = flat if version == "v3.0" else {name: flat[name] for name in flat if name not in QUANTILES}
    return {name: [[[value]] for value in values] for name, values in wanted.items()} | {
        "count": [len(chosen)]
    }


def _from_histogram(histogram: np.ndarray) -> dict[str, list[float]]:
    """Return exact statistics of values 0…255, scaled to 0…1, from how often each occurs, per column."""
    values = np.arange(256)[:, None] / 255.0
    total = histogram.sum(axis=0)
    mean = (histogram * values).sum(axis=0) / total
    variance = (histogram * (values - mean) ** 2).sum(axis=0) / total
    cumulative = np.cumsum(histogram, axis=0)
    there = histogram > 0

    def at(places: np.ndarray) -> np.ndarray:
        return np.array([np.searchsorted(cumulative[:, c], places[c], side="right") for c in range(3)]) / 255

    statistics = {
        "min": there.argmax(axis=0) / 255,
        "max": (255 - there[::-1].argmax(axis=0)) / 255,
        "mean": mean,
        "std": np.sqrt(variance),
    }
    for name, share in QUANTILES.items():
        place = share * (total - 1)
        low, high = at(np.floor(place)), at(np.ceil(place))
        statistics[name] = low + (high - low) * (place - np.floor(place))
    return {name: row.tolist() for name, row in statistics.items()}


def merge_statistics(episodes: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the statistics of all episodes together."""
    merged = {}
    for feature in episodes[0]:
        parts = {
            name: np.array([episode[feature][name] for episode in episodes]) for name in episodes[0][feature]
        }
        counts = parts["count"].reshape(-1, *[1] * (parts["mean"].ndim - 1)).astype(np.float64)
        share = counts / counts.sum()
        mean = (share * parts["mean"]).sum(axis=0)
        variance = (share * (parts["std"] ** 2 + (parts["mean"] - mean) ** 2)).sum(axis=0)
        merged[feature] = {
            "min": parts["min"].min(axis=0).tolist(),
            "max": parts["max"].max(axis=0).tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt(variance).tolist(),
            "count": [int(counts.sum())],
            **{name: (share * parts[name]).sum(axis=0).tolist() for name in QUANTILES if name in parts},
        }
    return merged
