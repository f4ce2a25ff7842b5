"""What drives a robot tick by tick, and the ways of making it from a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pizero.embodiment import Embodiment
from pizero.policy.controllers.chunks import ChunkPlayer
from pizero.policy.controllers.ensemble import EnsemblePlayer
from pizero.policy.controllers.player import Action, Player
from pizero.policy.controllers.splicer import Splicer
from pizero.types import Observation

Kind = Literal["receding", "synchronous", "ensemble", "naive", "guided", "guided_identity", "trained"]
"""How chunks become actions: the first three wait for a policy, or mean over its chunks; the other four let
it compute while the robot moves."""


@runtime_checkable
class Controller(Protocol):
    """One action a tick, in robot units."""

    def reset(self, *, seed: int) -> None:
        """Start a new episode."""
        ...

    def step(self, observe: Callable[[], Observation]) -> Action:
        """Return the action of this tick.

        Rendering or reading a camera costs time, so the observation is a function, called where it is needed.
        """
        ...

    def replan(self) -> None:
        """Drop what is planned, but for what is committed already, and ask again at once."""
        ...


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """How chunks become actions.

    `num_executed` actions of a chunk are executed before the policy looks again: exactly so many by
    `receding`, at least so many by the asynchronous kinds. These expect answers after `delay` control periods
    until they have measured it. `decay` is the ensemble's m.
    """

    kind: Kind = "receding"
    num_executed: int = 5
    delay: int = 0
    decay: float = 0.01


def make_player(config: ControllerConfig, *, horizon: int, embodiment: Embodiment) -> Player:
    """Return what plays chunks of `horizon` actions; ValueError if the chunks do not allow it."""
    if config.kind == "ensemble":
        return EnsemblePlayer(horizon=horizon, embodiment=embodiment, decay=config.decay)
    if config.kind == "synchronous":
        return ChunkPlayer(horizon=horizon, num_executed=horizon)
    if config.kind == "receding":
        return ChunkPlayer(horizon=horizon, num_executed=config.num_executed)
    return Splicer(
        horizon=horizon,
        action_dim=embodiment.action_dim,
        num_executed=config.num_executed,
        expected_delay=config.delay,
        method=config.kind,
    )
