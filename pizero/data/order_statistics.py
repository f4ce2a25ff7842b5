"""Exact quantiles of any number of float32 values in bounded memory: two passes of counting, no sorting.

Non-negative floats compare as their bits do; with the bits of negative ones turned round, all do. So the
first pass counts each value's upper 16 bits, which tells the 65,536th part of the number line that holds the
wanted rank, and the second counts the lower 16 bits there. No range has to be known, and outliers cost
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt32

HALF = 1 << 16


class Quantiles:
    """Quantiles of each column of a stream of values, `[dimension]` each, as `np.quantile` has them.

    Give every value to `count`, call `narrow`, give every value to `count` again, and read `values`.
    """

    def __init__(self, num_dimensions: int, shares: Sequence[float]) -> None:
        self.shares = tuple(shares)
        self.upper: Int64[np.ndarray, "dimension half"] = np.zeros((num_dimensions, HALF), dtype=np.int64)
        self.lower: list[dict[int, np.ndarray]] | None = None

    def count(self, values: Float32[np.ndarray, "value dimension"]) -> None:
        """Count some values; ValueError if one is not finite."""
        keys = _keys(values)
        upper = keys >> np.uint32(16)
        if self.lower is None:
            offsets = np.arange(len(keys), dtype=np.int64)[:, None] * HALF
            places = (upper + offsets).ravel()
            self.upper += np.bincount(places, minlength=self.upper.size).reshape(self.upper.shape)
            return
        for dimension, counts in enumerate(self.lower):
            for prefix, below in counts.items():
                chosen = keys[dimension][upper[dimension] == prefix] & np.uint32(HALF - 1)
                below += np.bincount(chosen, minlength=HALF)

    def narrow(self) -> None:
        """End the first pass."""
        self.lower = []
        for counts in self.upper:
            cumulative = np.cumsum(counts)
            prefixes = {int(np.searchsorted(cumulative, rank, side="right")) for rank in self._ranks(counts)}
            self.lower.append({prefix: np.zeros(HALF, dtype=np.int64) for prefix in sorted(prefixes)})

    def values(self) -> Float[np.ndarray, "share dimension"]:
        """Return the quantiles, interpolated linearly between the two values next to each."""
        if self.lower is None:
            raise ValueError("expected a second pass: call narrow, and count every value again")
        result = np.empty((len(self.shares), len(self.upper)))
        for dimension, counts in enumerate(self.upper):
            total = int(counts.sum())
            for row, share in enumerate(self.shares):
                place = share * (total - 1)
                low, high = (
                    self._value(dimension, rank) for rank in (int(np.floor(place)), int(np.ceil(place)))
                )
                result[row, dimension] = low + (high - low) * (place - np.floor(place))
        return result

    def _ranks(self, counts: np.ndarray) -> list[int]:
        last = int(counts.sum()) - 1
        return [int(end(share * last)) for share in self.shares for end in (np.floor, np.ceil)]

    def _value(self, dimension: int, rank: int) -> float:
        assert self.lower is not None
        cumulative = np.cumsum(self.upper[dimension])
        prefix = int(np.searchsorted(cumulative, rank, side="right"))
        rest = rank - (int(cumulative[prefix - 1]) if prefix else 0)
        below = np.cumsum(self.lower[dimension][prefix])
        key = np.uint32((prefix << 16) | int(np.searchsorted(below, rest, side="right")))
        bits = key ^ np.uint32(1 << 31) if key >> np.uint32(31) else ~key
        return float(np.array(bits, dtype=np.uint32).view(np.float32))


def _keys(values: Float32[np.ndarray, "value dimension"]) -> UInt32[np.ndarray, "dimension value"]:
    """Return integers that are in the order of the values."""
    bits = np.ascontiguousarray(values.T).view(np.uint32)
    negative = (bits.view(np.int32) >> 31).view(np.uint32)
    return bits ^ (negative | np.uint32(1 << 31))


class Moments:
    """Count, mean, spread and range of each column of a stream of values, in float64."""

    def __init__(self, num_dimensions: int) -> None:
        self.total = 0
        self.mean, self.squares = np.zeros(num_dimensions), np.zeros(num_dimensions)
        self.minimum = np.full(num_dimensions, np.inf)
        self.maximum = np.full(num_dimensions, -np.inf)

    def count(self, values: Float[np.ndarray, "value dimension"]) -> None:
        """Add some values (pairwise merging of means and squares: Chan, Golub and LeVeque 1979)."""
        if len(values) == 0:
            return
        mean = values.mean(axis=0, dtype=np.float64)
        squares = np.einsum("ij,ij->j", values, values, dtype=np.float64) - len(values) * mean**2
        if (squares < 1e-6 * len(values) * mean**2).any():  # cancellation: take the slow way
            squares = ((values - mean) ** 2).sum(axis=0)
        total = self.total + len(values)
        difference = mean - self.mean
        self.squares += squares + difference**2 * (self.total * len(values) / total)
        self.mean += difference * (len(values) / total)
        self.total = total
        self.minimum = np.minimum(self.minimum, values.min(axis=0))
        self.maximum = np.maximum(self.maximum, values.max(axis=0))

    @property
    def std(self) -> Float[np.ndarray, "dimension"]:
        """Return the population's standard deviation."""
        return np.sqrt(np.maximum(self.squares, 0.0) / self.total)
