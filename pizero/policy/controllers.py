"""From chunks of actions to one action per control tick."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pizero.policy.policy import Policy
from pizero.types import ActionChunk, Observation


class RecedingHorizon:
    """Execute the first `num_executed` actions of a chunk, then look again.

    Rendering or reading a camera costs time, so the observation is a function, called only when it is needed.
    """

    def __init__(self, policy: Policy, num_executed: int) -> None:
        horizon = policy.contract.horizon
        if not 1 <= num_executed <= horizon:
            raise ValueError(
                f"expected to execute 1 to {horizon} actions of a chunk of {horizon}, found {num_executed}"
            )
        self.policy, self.num_executed = policy, num_executed
        self.reset(seed=0)

    def reset(self, *, seed: int) -> None:
        """Start a new episode: forget the chunk."""
        self.policy.reset(seed=seed)
        self.chunk: ActionChunk | None = None
        self.used = 0

    def step(self, observe: Callable[[], Observation]) -> Float[np.ndarray, "action_dim"]:
        """Return the action of this tick."""
        if self.chunk is None or self.used == self.num_executed:
            self.chunk, self.used = self.policy.act(observe()), 0
        self.used += 1
        return self.chunk[self.used - 1]
