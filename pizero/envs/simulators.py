"""Which simulator runs a policy: the one of the robot that its contract names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from pizero.contract import Contract
from pizero.embodiment import Embodiment
from pizero.envs.environment import Environment
from pizero.envs.metaworld import TASKS, MetaWorld
from pizero.envs.navigation2d import COLORS, Navigation2D
from pizero.envs.positions import MetaWorldPositions
from pizero.robots import METAWORLD, METAWORLD_POSITIONS, NAVIGATION2D

FIVE_TASKS = ("button-press-topdown", "drawer-open", "door-open", "reach", "window-open")
"""The tasks of `pizero demo`."""


@runtime_checkable
class FilmedEnvironment(Environment, Protocol):
    """An environment that knows its task and can be filmed."""

    task: str

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture for people."""
        ...


@dataclass(frozen=True, kw_only=True)
class Simulator:
    """A robot's simulator: its tasks, those that are run unless others are named, and how one is made."""

    embodiment: Embodiment
    tasks: tuple[str, ...]
    default_tasks: tuple[str, ...]
    make: Callable[[str, int], FilmedEnvironment]


def _navigation(task: str, max_steps: int) -> Navigation2D:
    return Navigation2D(task, max_steps=max_steps)


def _metaworld(task: str, max_steps: int) -> MetaWorld:
    return MetaWorld(task, max_steps=max_steps)


def _positions(task: str, max_steps: int) -> MetaWorldPositions:
    return MetaWorldPositions(task, max_steps=max_steps)


SIMULATORS: Mapping[str, Simulator] = {
    simulator.embodiment.name: simulator
    for simulator in (
        Simulator(embodiment=METAWORLD, tasks=tuple(TASKS), default_tasks=FIVE_TASKS, make=_metaworld),
        Simulator(
            embodiment=METAWORLD_POSITIONS, tasks=tuple(TASKS), default_tasks=FIVE_TASKS, make=_positions
        ),
        Simulator(
            embodiment=NAVIGATION2D, tasks=tuple(COLORS), default_tasks=tuple(COLORS), make=_navigation
        ),
    )
}


def find_simulator(contract: Contract) -> Simulator:
    """Return the simulator of a policy's robot; ValueError if there is none, or its robot is another one."""
    found = SIMULATORS.get(contract.embodiment.name)
    if found is None:
        raise ValueError(
            f"the policy was made for {contract.embodiment.name!r}, for which there is no simulator; there "
            f"are {', '.join(SIMULATORS)}"
        )
    different = found.embodiment.diff(contract.embodiment)
    if different:
        raise ValueError(
            f"the policy was made for another robot (simulator ≠ policy): {'; '.join(different[:5])}"
        )
    return found
