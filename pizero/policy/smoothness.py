"""How smooth commands are, in shares of each dimension's range."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from pizero.embodiment import Embodiment
from pizero.policy.groups import groups_of


def changes(
    commands: Float32[np.ndarray, "tick action_dim"], embodiment: Embodiment
) -> Float[np.ndarray, "step action_dim"]:
    """Return by how much each number changes from tick to tick, as a share of its range.

    Angles change the short way round, and rotations are compared in the writings next to each other.
    """
    written = commands.astype(np.float64)
    spans = np.array([dimension.high - dimension.low for dimension in embodiment.actions])
    found = np.diff(written, axis=0)
    for group in groups_of(embodiment.actions):
        before, after = written[:-1, group.slice], written[1:, group.slice]
        found[:, group.slice] = group.next_to(after, before) - before
    return found / spans


def roughness(commands: Float32[np.ndarray, "tick action_dim"], embodiment: Embodiment) -> float:
    """Return the root mean square of second differences of commands, in shares of each dimension's range.

    0 for commands that change steadily, whatever their speed, and for fewer than three.
    """
    second = np.diff(changes(commands, embodiment), axis=0)
    return float(np.sqrt(np.mean(second**2))) if second.size else 0.0
