"""How a chunk of actions is written for the model: as recorded, where it leads, or relative to the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float

from pizero.contract import ActionForm
from pizero.data.rotations import (
    ROTATION_KINDS,
    RotationKind,
    absolute_rotation,
    relative_rotation,
    wrapped,
)
from pizero.embodiment import ROTATION_LENGTHS, Embodiment
from pizero.names import nearest


@dataclass(frozen=True, kw_only=True)
class _RelativeRotation:
    kind: RotationKind
    action: slice
    state: slice


class ActionTransform:
    """An exact, invertible rewriting of a chunk `[…, horizon, action_dim]`, before normalisation.

    `recorded` leaves it as it is. `displacement` sums the dimensions of kind `velocity` along the chunk: each
    step says how far from now the robot will have moved, as π0 writes joint positions relative to the current
    state. A slow approach to a goal then weighs as much as a fast one, where as velocities it would drown
    among them. `relative` writes every dimension as seen from the current state, at all steps alike (openpi's
    delta actions): numbers are subtracted, angles within half a turn, rotations turned back (`rotations.py`).

    Grippers stay as they are in every form, and so do the dimensions named in `absolute`. The state's number
    that belongs to an action's is the one of its name, or else the one at its place.
    """

    def __init__(self, form: ActionForm, embodiment: Embodiment, absolute: Sequence[str] = ()) -> None:
        names = [dimension.name for dimension in embodiment.actions]
        unknown = [name for name in absolute if name not in names]
        if unknown:
            raise ValueError(f"{embodiment.name} has no action {unknown[0]!r}: {nearest(unknown[0], names)}")
        kinds = np.array([dimension.kind for dimension in embodiment.actions])
        changed = np.array([name not in absolute for name in names]) & (kinds != "gripper")
        self.summed = changed & (kinds == "velocity") & (form == "displacement")
        relative = changed & (form == "relative")
        self.partner = _partners(embodiment, relative)
        self.rotations = _rotations(embodiment, relative, self.partner)
        turned = np.zeros(len(names), dtype=bool)
        for rotation in self.rotations:
            turned[rotation.action] = True
        self.angles = relative & (kinds == "angle")
        self.subtracted = relative & ~turned & ~self.angles

    def encode(
        self,
        actions: Float[np.ndarray, "*batch horizon action_dim"],
        state: Float[np.ndarray, "*batch state_dim"],
    ) -> Float[np.ndarray, "*batch horizon action_dim"]:
        """Return the chunk in its form for the model; `state` is the one at which it begins."""
        base = self._base(state)
        written = (
            np.where(self.summed, np.cumsum(actions, axis=-2), actions) if self.summed.any() else actions
        )
        if self.subtracted.any():
            written = written - np.where(self.subtracted, base, 0.0).astype(base.dtype)
        if self.angles.any():
            written = np.where(self.angles, wrapped(actions - base), written)
        for rotation in self.rotations:
            written = np.array(written)
            written[..., rotation.action] = relative_rotation(
                rotation.kind, actions[..., rotation.action], state[..., None, rotation.state]
            )
        return written

    def decode(
        self,
        actions: Float[np.ndarray, "*batch horizon action_dim"],
        state: Float[np.ndarray, "*batch state_dim"],
    ) -> Float[np.ndarray, "*batch horizon action_dim"]:
        """Return the chunk as it is executed, from the same state on."""
        before = np.zeros_like(actions[..., :1, :])
        steps = np.where(self.summed, np.diff(actions, axis=-2, prepend=before), actions)
        if self.subtracted.any() or self.angles.any():
            base = self._base(state)
            steps = steps + np.where(self.subtracted | self.angles, base, 0.0).astype(base.dtype)
        for rotation in self.rotations:
            steps[..., rotation.action] = absolute_rotation(
                rotation.kind, actions[..., rotation.action], state[..., None, rotation.state]
            )
        return steps

    def _base(self, state: Float[np.ndarray, "*batch state_dim"]) -> Float[np.ndarray, "*batch 1 action_dim"]:
        return state[..., None, self.partner]


def _partners(embodiment: Embodiment, relative: np.ndarray) -> np.ndarray:
    """Return, for each dimension of an action, that of the state that it is relative to."""
    places = {dimension.name: place for place, dimension in enumerate(embodiment.state)}
    partners = [places.get(dimension.name, place) for place, dimension in enumerate(embodiment.actions)]
    missing = [
        dimension.name
        for dimension, partner, is_relative in zip(embodiment.actions, partners, relative, strict=True)
        if is_relative and partner >= embodiment.state_dim
    ]
    if missing:
        raise ValueError(
            f"actions relative to the state need one number of the state for each of theirs; "
            f"{embodiment.name} has {embodiment.action_dim} and {embodiment.state_dim}, none for "
            f"{', '.join(missing)}: name them as absolute"
        )
    return np.minimum(partners, embodiment.state_dim - 1)


def _rotations(
    embodiment: Embodiment, relative: np.ndarray, partner: np.ndarray
) -> tuple[_RelativeRotation, ...]:
    found = []
    place = 0
    while place < embodiment.action_dim:
        name = embodiment.actions[place].kind
        if name not in ROTATION_KINDS:
            place += 1
            continue
        kind = cast(RotationKind, name)
        action = slice(place, place + ROTATION_LENGTHS[kind])
        place = action.stop
        if not relative[action].any():
            continue
        first = int(partner[action.start])
        state = slice(first, first + ROTATION_LENGTHS[kind])
        kinds = {dimension.kind for dimension in embodiment.state[state]}
        if (
            not relative[action].all()
            or kinds != {kind}
            or list(partner[action]) != list(range(first, state.stop))
        ):
            names = ", ".join(dimension.name for dimension in embodiment.actions[action])
            raise ValueError(
                f"a rotation relative to the state needs a rotation of the same kind ({kind}) there, and is "
                f"absolute as a whole or not at all: look at {names} of {embodiment.name}"
            )
        found.append(_RelativeRotation(kind=kind, action=action, state=state))
    return tuple(found)
