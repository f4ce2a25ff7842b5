"""Meta-World's arm told where its hand is to be instead of how fast to go, as most real arms are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.envs.environment import Step
from pizero.envs.metaworld import MetaWorld
from pizero.robots import METAWORLD_POSITIONS
from pizero.types import Observation

REACH = 0.04
"""Metres from the hand to its target at full speed: a centimetre for each of four physics ticks."""


class MetaWorldPositions:
    """A Meta-World task whose actions are targets of the hand, in m, and the gripper's effort.

    Implements `Environment`: a target is approached at the speed that would reach it within one control step,
    or at full speed.
    """

    def __init__(self, task: str, *, max_steps: int | None = None) -> None:
        self.inner = MetaWorld(task, max_steps=max_steps)
        self.task, self.instruction = task, self.inner.instruction
        self.embodiment = METAWORLD_POSITIONS
        self._hand = np.zeros(3, dtype=np.float32)

    def reset(self, seed: int) -> Observation:
        """Start the episode of that seed and return its first observation."""
        return self._remember(self.inner.reset(seed))

    def step(self, action: Float32[np.ndarray, "action_dim"], *, render: bool = True) -> Step:
        """Execute one action for one control period."""
        step = self.inner.step(velocity_of(action, self._hand), render=render)
        self._hand = self.inner.state()[:3]
        return step

    def observe(self) -> Observation:
        """Render and return the present."""
        return self._remember(self.inner.observe())

    def expert_action(self) -> Float32[np.ndarray, "action_dim"]:
        """Return what the scripted expert does next, as a target."""
        return target_of(self.inner.expert_action(), self._hand)

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture for people."""
        return self.inner.picture()

    def close(self) -> None:
        """Free the renderer."""
        self.inner.close()

    def _remember(self, observation: Observation) -> Observation:
        self._hand = observation.state[:3]
        return observation


def target_of(
    velocity: Float32[np.ndarray, "*batch action_dim"], hand: Float32[np.ndarray, "*batch 3"]
) -> Float32[np.ndarray, "*batch action_dim"]:
    """Return the target that an action of the velocity-driven arm means at a position of the hand."""
    clipped = np.clip(velocity, -1.0, 1.0)
    moved = hand + REACH * clipped[..., :3]
    return np.concatenate([moved, clipped[..., 3:]], axis=-1).astype(np.float32)


def velocity_of(
    target: Float32[np.ndarray, "*batch action_dim"], hand: Float32[np.ndarray, "*batch 3"]
) -> Float32[np.ndarray, "*batch action_dim"]:
    """Return the action of the velocity-driven arm that approaches a target; the inverse of `target_of`."""
    toward = (target[..., :3] - hand) / REACH
    return np.clip(np.concatenate([toward, target[..., 3:]], axis=-1), -1.0, 1.0).astype(np.float32)
