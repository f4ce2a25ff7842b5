"""What a robot must offer so that an executor can drive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment
from pizero.types import Observation


@dataclass(frozen=True, kw_only=True)
class Stamped:
    """An observation, and when it was made: seconds of the monotonic clock (`time.monotonic`)."""

    observation: Observation
    time: float


@runtime_checkable
class Robot(Protocol):
    """One robot, told what to do at every tick; all its calls return within a small part of a tick."""

    embodiment: Embodiment

    def observe(self) -> Stamped:
        """Return the newest observation there is, without waiting for another."""
        ...

    def command(self, action: Float32[np.ndarray, "action_dim"]) -> None:
        """Be told the next action, in robot units."""
        ...

    def hold(self) -> None:
        """Stay where it is: called before the first action, and when a run is over."""
        ...

    def stop(self) -> None:
        """Come to a safe stop: called once, and nothing is called after it."""
        ...
