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
    """One camera as the policy sees it: its name and its picture's size in pixels.

    A policy acts without a camera that is not `required`.
    """

    name: str
    height: int
    width: int
    required: bool = True


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

_VIPERX_JOINTS = (
    ("waist", -3.1416, 3.1416),
    ("shoulder", -1.8500, 1.2566),
    ("elbow", -1.7628, 1.6057),
    ("forearm_roll", -3.1416, 3.1416),
    ("wrist_angle", -1.8675, 2.2340),
    ("wrist_rotate", -3.1416, 3.1416),
)
"""Trossen's limits of a ViperX 300 6DOF, in radians (`vx300s.urdf.xacro`: ±180°, -106° … 72°, -101° … 92°,
±180°, -107° … 128°, ±180°).
"""


def _viperx(arm: str) -> tuple[Dimension, ...]:
    joints = tuple(
        Dimension(name=f"{arm}_{name}", unit="rad", kind="joint", low=low, high=high)
        for name, low, high in _VIPERX_JOINTS
    )
    gripper = Dimension(name=f"{arm}_gripper", unit="fraction", kind="gripper", low=0.0, high=1.0)
    return (*joints, gripper)


ALOHA = Embodiment(
    name="aloha",
    state=(*_viperx("left"), *_viperx("right")),
    actions=(*_viperx("left"), *_viperx("right")),
    cameras=(
        Camera(name="cam_high", height=480, width=640),
        Camera(name="cam_left_wrist", height=480, width=640, required=False),
        Camera(name="cam_right_wrist", height=480, width=640, required=False),
    ),
    rate=50.0,
)
"""Two ViperX arms (Zhao et al. 2023): joint positions and grippers, left arm first."""

_PANDA_JOINTS = (
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
"""Franka's limits of a Panda's joints, in radians (Franka Control Interface documentation, robot limits)."""

_DROID_GRIPPER = Dimension(name="gripper", unit="fraction", kind="gripper", low=0.0, high=1.0)

DROID = Embodiment(
    name="droid",
    state=(
        *(
            Dimension(name=f"joint_{index + 1}", unit="rad", kind="joint", low=low, high=high)
            for index, (low, high) in enumerate(_PANDA_JOINTS)
        ),
        _DROID_GRIPPER,
    ),
    actions=(
        *(
            Dimension(
                name=f"joint_velocity_{index + 1}",
                unit="fraction of full speed",
                kind="velocity",
                low=-1.0,
                high=1.0,
            )
            for index in range(7)
        ),
        _DROID_GRIPPER,
    ),
    cameras=(
        Camera(name="exterior_image_1_left", height=180, width=320),
        Camera(name="wrist_image_left", height=180, width=320),
    ),
    rate=15.0,
)
"""A Franka Panda as DROID records it (Khazatsky et al. 2024): joint velocities; closed grippers are 1.

Full speed is 0.2 rad per tick (DROID's `robot_ik_solver.py`); pictures are of the size in its RLDS release.
"""

_HAND = ("x", "y", "z")

LIBERO = Embodiment(
    name="libero",
    state=(
        *(Dimension(name=f"hand_{axis}", unit="m", kind="position", low=-1.5, high=1.5) for axis in _HAND),
        *(
            Dimension(name=f"rotation_{axis}", unit="rad", kind="orientation", low=-6.2832, high=6.2832)
            for axis in _HAND
        ),
        Dimension(name="left_finger", unit="m", kind="gripper", low=0.0, high=0.04),
        Dimension(name="right_finger", unit="m", kind="gripper", low=-0.04, high=0.0),
    ),
    actions=(
        *(
            Dimension(name=f"hand_d{axis}", unit="5 cm", kind="velocity", low=-1.0, high=1.0)
            for axis in _HAND
        ),
        *(
            Dimension(name=f"rotation_d{axis}", unit="0.5 rad", kind="velocity", low=-1.0, high=1.0)
            for axis in _HAND
        ),
        Dimension(name="gripper", unit="fraction", kind="gripper", low=-1.0, high=1.0),
    ),
    cameras=(
        Camera(name="image", height=256, width=256),
        Camera(name="wrist_image", height=256, width=256),
    ),
    rate=20.0,
)
"""LIBERO's simulated Panda (Liu et al. 2023): the hand's pose, driven by increments; -1 opens the gripper.

Units of the increments are those of robosuite's `osc_pose.json`, the fingers' limits those of its gripper.
Rotation vectors reach a whole turn; positions lie about the origin of the table, within the arm's reach.
"""

CATALOG = {embodiment.name: embodiment for embodiment in (METAWORLD, NAVIGATION2D, ALOHA, DROID, LIBERO)}


def find_embodiment(name: str) -> Embodiment:
    """Return the catalog's embodiment of that name; ValueError with the nearest name if there is none."""
    if name not in CATALOG:
        raise ValueError(f"unknown embodiment {name!r}: {nearest(name, CATALOG)}")
    return CATALOG[name]
