"""How a chunk of actions is written for the model: as recorded, or as where it leads."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pizero.contract import ActionForm
from pizero.robots import Embodiment


class ActionTransform:
    """An exact, invertible rewriting of a chunk `[…, horizon, action_dim]`, before normalisation.

    `recorded` leaves it as it is. `displacement` sums the dimensions of kind `velocity` along the chunk: each
    step says how far from now the robot will have moved, as π0 writes joint positions relative to the current
    state. A slow approach to a goal then weighs as much as a fast one, where as velocities it would drown
    among them.
    """

    def __init__(self, form: ActionForm, embodiment: Embodiment) -> None:
        moving = [dimension.kind == "velocity" for dimension in embodiment.actions]
        self.summed = np.array(moving) & (form == "displacement")

    def encode(
        self, actions: Float[np.ndarray, "*batch horizon action_dim"]
    ) -> Float[np.ndarray, "*batch horizon action_dim"]:
        """Return the chunk in its form for the model."""
        return np.where(self.summed, np.cumsum(actions, axis=-2), actions)

    def decode(
        self, actions: Float[np.ndarray, "*batch horizon action_dim"]
    ) -> Float[np.ndarray, "*batch horizon action_dim"]:
        """Return the chunk as it is executed."""
        before = np.zeros_like(actions[..., :1, :])
        return np.where(self.summed, np.diff(actions, axis=-2, prepend=before), actions)
