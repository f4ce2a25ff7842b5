"""Embodiments: what each number that a robot sends or takes means, and a catalog of known robots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pizero.names import nearest

DimensionKind = Literal["position", "orientation", "joint", "velocity", "gripper"]


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One number of a state or an action: its name, unit, kind and limits (in that unit)."""

    name: str
    unit: str
    kind: DimensionKind
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera as the policy sees it: its name and its picture's size in pixels."""

    name: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """A robot as a policy sees it: state and action dimensions, cameras, and the control rate in Hz."""

    name: str
    state: tuple[Dimension, ...]
    actions: tuple[Dimension, ...]
    cameras: tuple[Camera, ...]
    rate: float

    @property
    def state_dim(self) -> int:
        """Return how many numbers a state has."""
        return len(self.state)

    @property
    def action_dim(self) -> int:
        """Return how many numbers an action has."""
        return len(self.actions)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Return the cameras, in the order in which a policy sees them."""
        return tuple(camera.name for camera in self.cameras)


METAWORLD = Embodiment(
    name="metaworld",
    state=(
        Dimension(name="hand_x", unit="m", kind="position", low=-0.525, high=0.525),
        Dimension(name="hand_y", unit="m", kind="position", low=0.348, high=1.025),
        Dimension(name="hand_z", unit="m", kind="position", low=-0.0525, high=0.7),
        Dimension(name="gripper_opening", unit="fraction", kind="gripper", low=0.0, high=1.0),
    ),
    actions=(
        Dimension(name="hand_dx", unit="cm per physics tick", kind="velocity", low=-1.0, high=1.0),
        Dimension(name="hand_dy", unit="cm per physics tick", kind="velocity", low=-1.0, high=1.0),
        Dimension(name="hand_dz", unit="cm per physics tick", kind="velocity", low=-1.0, high=1.0),
        Dimension(name="gripper_effort", unit="fraction", kind="gripper", low=-1.0, high=1.0),
    ),
    cameras=(Camera(name="right", height=96, width=96), Camera(name="left", height=96, width=96)),
    rate=20.0,
)
"""Meta-World's simulated Sawyer arm: the hand is moved by position increments, at a quarter of the native 80
Hz.
"""

NAVIGATION2D = Embodiment(
    name="navigation2d",
    state=(
        Dimension(name="x", unit="fraction", kind="position", low=0.0, high=1.0),
        Dimension(name="y", unit="fraction", kind="position", low=0.0, high=1.0),
    ),
    actions=(
        Dimension(name="dx", unit="tenth", kind="velocity", low=-1.0, high=1.0),
        Dimension(name="dy", unit="tenth", kind="velocity", low=-1.0, high=1.0),
    ),
    cameras=(Camera(name="top", height=32, width=32),),
    rate=10.0,
)
"""A point on the unit square, seen from above: small enough for tests and for drawing."""

CATALOG = {embodiment.name: embodiment for embodiment in (METAWORLD, NAVIGATION2D)}


def find_embodiment(name: str) -> Embodiment:
    """Return the catalog's embodiment of that name; ValueError with the nearest name if there is none."""
    if name not in CATALOG:
        raise ValueError(f"unknown embodiment {name!r}: {nearest(name, CATALOG)}")
    return CATALOG[name]
