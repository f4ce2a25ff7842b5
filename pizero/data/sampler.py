"""Which frames each training step reads: a pure function of seed and step, for one dataset or a mixture."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

MIXTURE_EXPONENT = 0.43
"""Datasets are weighted by their size to this power, unless weights are given (π0, section V-A)."""

LEAST_CYCLE = 4096
"""So many samples, or more, have the shares of the mixture as exactly as whole numbers can."""

Frames = Int64[np.ndarray, "_"]


def mixture_shares(sizes: Sequence[int], weights: Sequence[float] = ()) -> Float[np.ndarray, "source"]:
    """Return each dataset's share of the samples: as weighted, or ∝ size^0.43; ValueError if it cannot be."""
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"expected training frames in every dataset, found {list(sizes)}")
    if weights and (len(weights) != len(sizes) or not all(0 < w < float("inf") for w in weights)):
        raise ValueError(
            f"expected a weight above 0 for each of {len(sizes)} datasets, found {list(weights)}"
        )
    found = np.array(weights or [size**MIXTURE_EXPONENT for size in sizes], dtype=np.float64)
    return found / found.sum()


class Sampler:
    """Epoch after epoch of each source, each in an order of its own, in fixed shares.

    In every cycle of some thousand samples each source has its share rounded to a whole number; the order in
    a cycle is random. So a run that resumes, and every rank of it, knows its samples without counting.
    """

    def __init__(
        self, frames: Sequence[Frames], shares: Float[np.ndarray, "source"], *, batch_size: int, seed: int
    ) -> None:
        self.frames, self.batch_size, self.seed = [np.asarray(part) for part in frames], batch_size, seed
        self.cycle = LEAST_CYCLE if len(frames) == 1 else max(LEAST_CYCLE, int(np.ceil(4 / shares.min())))
        self.counts = _apportioned(shares, self.cycle)
        self.rank, self.world_size = 0, 1
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._cycles: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def share_of(self, rank: int, world_size: int) -> Sampler:
        """Return the sampler of one of several processes: each takes every so-manieth sample of a step."""
        share = copy.copy(self)
        share.rank, share.world_size = rank, world_size
        return share

    def step(self, step: int) -> tuple[Int64[np.ndarray, "batch"], Int64[np.ndarray, "batch"]]:
        """Return the source and the frame of each sample of a step, or of this process's share of them."""
        first = step * self.batch_size
        numbers = np.arange(first, first + self.batch_size)[self.rank :: self.world_size]
        found = [self._sample(int(number)) for number in numbers]
        sources, frames = zip(*found, strict=True)
        return np.array(sources, dtype=np.int64), np.array(frames, dtype=np.int64)

    def num_drawn(self, steps: int) -> list[int]:
        """Return how many samples of each source the first `steps` steps read."""
        cycles, rest = divmod(steps * self.batch_size, self.cycle)
        sources, _ = self._cycle_order(cycles)
        within = np.bincount(sources[:rest], minlength=len(self.frames))
        return (cycles * self.counts + within).tolist()

    def _sample(self, number: int) -> tuple[int, int]:
        cycle, place = divmod(number, self.cycle)
        sources, ranks = self._cycle_order(cycle)
        source = int(sources[place])
        drawn = cycle * int(self.counts[source]) + int(ranks[place])
        epoch, at = divmod(drawn, len(self.frames[source]))
        return source, int(self._epoch_order(source, epoch)[at])

    def _cycle_order(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each sample of a cycle, and how many of that source came before it."""
        if cycle not in self._cycles:
            sources = np.repeat(np.arange(len(self.frames)), self.counts)
            sources = np.random.default_rng((self.seed, 1, cycle)).permutation(sources)
            ranks = np.zeros(len(sources), dtype=np.int64)
            for source, count in enumerate(self.counts):
                ranks[sources == source] = np.arange(count)
            self._cycles = dict(list(self._cycles.items())[-1:]) | {cycle: (sources, ranks)}
        return self._cycles[cycle]

    def _epoch_order(self, source: int, epoch: int) -> np.ndarray:
        key = (source, epoch)
        if key not in self._orders:
            self._orders.pop((source, epoch - 2), None)
            rng = np.random.default_rng((self.seed, 0, source, epoch))
            self._orders[key] = rng.permutation(self.frames[source])
        return self._orders[key]


def _apportioned(shares: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers that sum to `total`, by largest remainders."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    remainders = np.argsort(counts - exact, kind="stable")
    counts[remainders[: total - int(counts.sum())]] += 1
    return counts
