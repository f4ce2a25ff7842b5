"""Asynchronous execution: the next chunk is made while the last one is executed, and spliced in."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32

from pizero.policy.controllers.delay import DelayEstimator, check_delay
from pizero.policy.controllers.player import Action, Pending, Player
from pizero.types import ActionChunk, Continuation, ContinuationMethod

SplicingMethod = Literal["naive"] | ContinuationMethod


class Splicer(Player):
    """Asks for the next chunk after s = max(d, `num_executed`) actions of the last one, d being the estimate.

    But for `naive`, the policy is told what is planned, and the first d of it, which are committed, are
    executed exactly, whatever the new chunk says about them. Then the new chunk goes on from the row of the
    *measured* number of actions executed since its observation. An estimate that does not fit the chunks any
    more (`check_delay`) is no error while a robot moves: it plays the chunk to its end, stands still, and
    gets a chunk made from there. A single delay of that kind is taken for a stall and not expected again, a
    second one in a row of its kind, at a standstill or while moving, is.
    """

    def __init__(
        self,
        *,
        horizon: int,
        action_dim: int,
        num_executed: int,
        expected_delay: int,
        method: SplicingMethod,
    ) -> None:
        if num_executed < 1:
            raise ValueError(f"expected at least one action between two requests, found {num_executed}")
        self.delays = DelayEstimator(expected_delay)
        check_delay(horizon=horizon, execution=max(num_executed, expected_delay), delay=expected_delay)
        self.action_dim, self.num_executed = action_dim, num_executed
        self.method: SplicingMethod = method
        super().__init__(horizon=horizon)

    @property
    def estimate(self) -> int:
        """Return d: the longest of the last measured delays."""
        return self.delays.estimate

    @property
    def execution(self) -> int:
        """Return s: actions between the observations of two chunks."""
        return max(self.estimate, self.num_executed)

    @property
    def num_planned(self) -> int:
        """Return how many actions are planned."""
        return len(self.plan)

    def replan(self) -> None:
        """Ask again as soon as no answer is on its way; all but the committed actions are dropped then."""
        self.impatient = True

    def _due(self) -> bool:
        if not len(self.plan):
            return True
        since = self.executed - self.observed
        return self.impatient or (since >= self.execution and len(self.plan) >= self.estimate)

    def _continuation(self) -> Continuation | None:
        if self.impatient:
            self.plan = self.plan[: self.estimate]
            self.impatient = False
        self.committed = 0
        if self.method == "naive" or not len(self.plan):
            return None
        self.committed = min(self.estimate, len(self.plan))
        return Continuation(
            actions=self.plan.copy(), delay=self.committed, execution=self.execution, method=self.method
        )

    def _accept(self, chunk: ActionChunk, pending: Pending, consumed: int) -> None:
        kept = self.plan[: max(0, self.committed - consumed)]
        self.plan = np.concatenate([kept, chunk[max(self.committed, consumed) :]])
        self.sources = [
            *self.sources[: len(kept)],
            *[pending.request.sequence] * (len(self.plan) - len(kept)),
        ]
        self.observed = pending.executed

    def upcoming(self) -> Action | None:
        """Return the next planned action."""
        return self.plan[0] if len(self.plan) else None

    def _next(self) -> tuple[Action, int] | None:
        if not len(self.plan):
            return None
        found, self.plan = self.plan[0], self.plan[1:]
        return found, self.sources.pop(0)

    def _forget_plan(self) -> None:
        self.plan: Float32[np.ndarray, "planned action_dim"] = np.zeros((0, self.action_dim), np.float32)
        self.sources: list[int] = []
        self.observed, self.committed, self.impatient = self.executed, 0, False

    def _forget(self) -> None:
        super()._forget()
        self.delays.reset()
        self.stalled: set[bool] = set()

    def _note_delay(self, delay: int, *, moving: bool) -> None:
        bearable = delay <= min(self.horizon // 2, self.horizon - self.num_executed)
        if bearable or moving in self.stalled:
            self.delays.add(delay)
        (self.stalled.discard if bearable else self.stalled.add)(moving)
