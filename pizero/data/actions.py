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
    among them. `relative` subtracts the current state from every dimension but grippers, at all steps alike
    (openpi's delta actions); dimension i of an action then has to be where dimension i of the state is.
    """

    def __init__(self, form: ActionForm, embodiment: Embodiment) -> None:
        kinds = [dimension.kind for dimension in embodiment.actions]
        self.summed = np.array([kind == "velocity" for kind in kinds]) & (form == "displacement")
        self.relative = np.array([kind != "gripper" for kind in kinds]) & (form == "relative")
        if form == "relative" and embodiment.state_dim < embodiment.action_dim:
            raise ValueError(
                f"actions relative to the state need one number of the state for each of theirs; "
                f"{embodiment.name} has {embodiment.action_dim} and {embodiment.state_dim}"
            )

    def encode(
        self,
        actions: Float[np.ndarray, "*batch horizon action_dim"],
        state: Float[np.ndarray, "*batch state_dim"],
    ) -> Float[np.ndarray, "*batch horizon action_dim"]:
        """Return the chunk in its form for the model; `state` is the one at which it begins."""
        written = np.where(self.summed, np.cumsum(actions, axis=-2), actions)
        return written - self._base(state)

    def decode(
        self,
        actions: Float[np.ndarray, "*batch horizon action_dim"],
        state: Float[np.ndarray, "*batch state_dim"],
    ) -> Float[np.ndarray, "*batch horizon action_dim"]:
        """Return the chunk as it is executed, from the same state on."""
        before = np.zeros_like(actions[..., :1, :])
        steps = np.where(self.summed, np.diff(actions, axis=-2, prepend=before), actions)
        return steps + self._base(state)

    def _base(self, state: np.ndarray) -> np.ndarray:
        if not self.relative.any():
            return np.zeros(len(self.relative), dtype=state.dtype)
        return np.where(self.relative, state[..., : len(self.relative)], 0.0)[..., None, :]
