"""The statistics that LeRobot's format keeps of each episode and of the whole; ours are exact, but for
quantiles.

Quantiles of the whole are the count-weighted mean of the episodes', which is what LeRobot 0.4 writes. What a
policy is normalised with never comes from here (see `pizero/data/statistics.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pizero.data.lerobot_features import ACTION, STATE, image_key

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def episode_statistics(
    states: np.ndarray, actions: np.ndarray, images: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Return min, max, mean, std, count and quantiles of each feature; pictures in 0…1, per channel."""
    features = {STATE: _statistics(states), ACTION: _statistics(actions)}
    for camera, frames in images.items():
        count = max(min(100, len(frames)), min(int(len(frames) ** 0.75), 10_000))
        chosen = frames[
            np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
        ]
        flat = _statistics(chosen.reshape(-1, 3).astype(np.float64) / 255.0)
        shaped = {name: [[[value]] for value in values] for name, values in flat.items() if name != "count"}
        features[image_key(camera)] = shaped | {"count": [len(chosen)]}
    return features


def _statistics(values: np.ndarray) -> dict[str, Any]:
    exact = values.astype(np.float64)
    quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0)
    return {
        "min": exact.min(axis=0).tolist(),
        "max": exact.max(axis=0).tolist(),
        "mean": exact.mean(axis=0).tolist(),
        "std": exact.std(axis=0).tolist(),
        "count": [len(exact)],
        **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
    }


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
            **{name: (share * parts[name]).sum(axis=0).tolist() for name in QUANTILES},
        }
    return merged
