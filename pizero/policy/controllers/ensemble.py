"""Temporal ensembling: every action is a mean of what all chunks that reach it say (Zhao et al. 2023)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pizero.embodiment import Embodiment
from pizero.policy.controllers.player import Action, Pending, Player
from pizero.policy.groups import groups_of
from pizero.types import ActionChunk

DECAY = 0.01
"""ACT's m: the i-th oldest chunk has the weight exp(-m i), so that old ones count more."""


class EnsemblePlayer(Player):
    """Asks at every tick, or as soon as the last answer is there, and executes weighted means.

    Angles are averaged the short way round, and rotations as the writings next to the newest chunk's.
    """

    def __init__(self, *, horizon: int, embodiment: Embodiment, decay: float = DECAY) -> None:
        self.decay, self.groups = decay, groups_of(embodiment.actions)
        super().__init__(horizon=horizon)

    @property
    def num_planned(self) -> int:
        """Return how many actions some chunk has left."""
        return max((first + len(chunk) - self.executed for first, chunk in self.chunks), default=0)

    def _due(self) -> bool:
        return True

    def _accept(self, chunk: ActionChunk, pending: Pending, consumed: int) -> None:
        self.chunks.append((pending.executed, chunk))
        self.newest = pending.request.sequence

    def upcoming(self) -> Action | None:
        """Return the mean of the chunks that reach the next action."""
        self.chunks = [(first, chunk) for first, chunk in self.chunks if first + len(chunk) > self.executed]
        if not self.chunks:
            return None
        rows = np.stack([chunk[self.executed - first] for first, chunk in self.chunks]).astype(np.float64)
        weights = np.exp(-self.decay * np.arange(len(rows)))
        return self._mean(rows, weights / weights.sum()).astype(np.float32)

    def _next(self) -> tuple[Action, int] | None:
        found = self.upcoming()
        return None if found is None else (found, self.newest)

    def _mean(
        self, rows: Float[np.ndarray, "chunk action_dim"], weights: Float[np.ndarray, "chunk"]
    ) -> Float[np.ndarray, "action_dim"]:
        found = np.empty(rows.shape[1])
        for group in self.groups:
            numbers = group.next_to(rows[:, group.slice], rows[-1:, group.slice])
            found[group.slice] = group.proper(weights @ numbers)
        return found

    def _forget_plan(self) -> None:
        self.chunks: list[tuple[int, ActionChunk]] = []
        self.newest = 0
