"""How each kind of robot is told to stay where it is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Dimension, Embodiment


def hold_command(
    embodiment: Embodiment,
    *,
    last: Float32[np.ndarray, "action_dim"] | None,
    state: Float32[np.ndarray, "state_dim"],
) -> Float32[np.ndarray, "action_dim"]:
    """Return the action that keeps a robot where it is, in robot units.

    Velocities become 0, or the limit next to it; everything else stays what it was told in `last`. A robot
    that was told nothing yet is told what its `state` says under the same name and kind; a gripper that its
    state does not name so is told the number of its range that is nearest to 0. ValueError if nothing says
    where a position is.
    """
    if last is not None:
        told = [
            _at_rest(dimension) if dimension.kind == "velocity" else value
            for dimension, value in zip(embodiment.actions, last.tolist(), strict=True)
        ]
        return np.array(told, dtype=np.float32)
    shown = {
        (dimension.name, dimension.kind): value
        for dimension, value in zip(embodiment.state, state.tolist(), strict=True)
    }
    return np.array(
        [_at_first(embodiment, dimension, shown) for dimension in embodiment.actions], dtype=np.float32
    )


def _at_rest(dimension: Dimension) -> float:
    return min(max(0.0, dimension.low), dimension.high)


def _at_first(embodiment: Embodiment, dimension: Dimension, shown: dict[tuple[str, str], float]) -> float:
    if dimension.kind == "velocity":
        return _at_rest(dimension)
    if (dimension.name, dimension.kind) in shown:
        return min(max(shown[dimension.name, dimension.kind], dimension.low), dimension.high)
    if dimension.kind == "gripper":
        return _at_rest(dimension)
    raise ValueError(
        f"{embodiment.name} cannot be told to stay where it is before its first action: nothing in its state "
        f"is called {dimension.name!r} and is of kind {dimension.kind!r}; name the state's number like the "
        f"action's, or command a pose first"
    )
