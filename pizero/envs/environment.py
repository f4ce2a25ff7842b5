"""What a simulator or a robot must offer so that a policy can be run on it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from pizero.robots import Embodiment
from pizero.types import Observation


@dataclass(frozen=True, kw_only=True)
class Step:
    """What followed one control step.

    `observation` is None where the step was not rendered; `success` says that the task was solved within this
    step; `done` that the step limit is reached and only `reset` may follow.
    """

    observation: Observation | None
    success: bool
    done: bool


class Environment(Protocol):
    """One robot in one task, driven in robot units at the embodiment's control rate."""

    embodiment: Embodiment

    def reset(self, seed: int) -> Observation:
        """Start the episode that `seed` alone determines and return its first observation."""
        ...

    def step(self, action: Float32[np.ndarray, "action_dim"], *, render: bool = True) -> Step:
        """Execute one action for one control period.

        Cameras cost more than physics, so a controller that plays several actions between two looks passes
        `render=False` and gets a step without observation.
        """
        ...

    def observe(self) -> Observation:
        """Render and return the present, without moving time."""
        ...

    def close(self) -> None:
        """Free the renderer; calling it twice is harmless."""
        ...
