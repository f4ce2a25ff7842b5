"""The catalog: known robots, with the public source of every number that is not obvious.

Robots of the π0 family's own data (UR5e, ARX, Trossen, Fibocom, Franka) are laid out as its base checkpoints
expect them (openpi's `docs/norm_stats.md`; π0, §V-C): the left arm before the right, seen from behind the
robot; joint angles as the arm's own library gives them, then the arm's gripper; a mobile base last and in the
actions alone. Nobody published names and sizes of their pictures: the names here are openpi's where it has
any, and 480 x 640 is assumed, the size at which ALOHA's cameras run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import pi
from pathlib import Path

from pizero.embodiment import Camera, Dimension, DimensionKind, Embodiment, read_embodiment
from pizero.names import nearest

Limits = tuple[float, float]

_FULL: Limits = (-1.0, 1.0)
_OPENING: Limits = (0.0, 1.0)
_AXES = ("x", "y", "z")


def _dimensions(
    names: Iterable[str], unit: str, kind: DimensionKind, limits: Sequence[Limits]
) -> tuple[Dimension, ...]:
    """Return one dimension for each name, with its limits."""
    return tuple(
        Dimension(name=name, unit=unit, kind=kind, low=low, high=high)
        for name, (low, high) in zip(names, limits, strict=True)
    )


def _arm(prefix: str, joints: dict[str, Limits]) -> tuple[Dimension, ...]:
    """Return an arm's joint angles in radians and its gripper as a fraction."""
    names = [prefix + joint for joint in joints]
    gripper = _dimensions([f"{prefix}gripper"], "fraction", "gripper", [_OPENING])
    return _dimensions(names, "rad", "joint", list(joints.values())) + gripper


def _two_arms(joints: dict[str, Limits]) -> tuple[Dimension, ...]:
    return _arm("left_", joints) + _arm("right_", joints)


def _cameras(*names: str, optional: tuple[str, ...] = ()) -> tuple[Camera, ...]:
    return tuple(Camera(name=name, height=480, width=640, required=name not in optional) for name in names)


METAWORLD = Embodiment(
    name="metaworld",
    state=(
        *_dimensions(
            ("hand_x", "hand_y", "hand_z"),
            "m",
            "position",
            [(-0.525, 0.525), (0.348, 1.025), (-0.0525, 0.7)],
        ),
        *_dimensions(["gripper_opening"], "fraction", "gripper", [_OPENING]),
    ),
    actions=(
        *_dimensions(("hand_dx", "hand_dy", "hand_dz"), "cm per physics tick", "velocity", [_FULL] * 3),
        *_dimensions(["gripper_effort"], "fraction", "gripper", [_FULL]),
    ),
    cameras=(Camera(name="right", height=96, width=96), Camera(name="left", height=96, width=96)),
    rate=20.0,
)
"""Meta-World's simulated Sawyer arm: the hand is moved by position increments, at a quarter of the native 80
Hz.
"""

METAWORLD_POSITIONS = Embodiment(
    name="metaworld_positions",
    state=METAWORLD.state,
    actions=(*METAWORLD.state[:3], METAWORLD.actions[3]),
    cameras=METAWORLD.cameras,
    rate=METAWORLD.rate,
)
"""The same arm told where its hand is to be: positions as most real arms take them."""

NAVIGATION2D = Embodiment(
    name="navigation2d",
    state=_dimensions(("x", "y"), "fraction", "position", [(0.0, 1.0)] * 2),
    actions=_dimensions(("dx", "dy"), "tenth", "velocity", [_FULL] * 2),
    cameras=(Camera(name="top", height=32, width=32),),
    rate=10.0,
)
"""A point on the unit square, seen from above: small enough for tests and for drawing."""

_VIPERX: dict[str, Limits] = {
    "waist": (-3.1416, 3.1416),
    "shoulder": (-1.8500, 1.2566),
    "elbow": (-1.7628, 1.6057),
    "forearm_roll": (-3.1416, 3.1416),
    "wrist_angle": (-1.8675, 2.2340),
    "wrist_rotate": (-3.1416, 3.1416),
}
"""Trossen's limits of a ViperX 300 6DOF, in radians (`vx300s.urdf.xacro`: ±180°, -106° … 72°, -101° … 92°,
±180°, -107° … 128°, ±180°).
"""

_WRISTS = ("cam_left_wrist", "cam_right_wrist")

ALOHA = Embodiment(
    name="aloha",
    state=_two_arms(_VIPERX),
    actions=_two_arms(_VIPERX),
    cameras=_cameras("cam_high", *_WRISTS, optional=_WRISTS),
    rate=50.0,
)
"""Two ViperX arms (Zhao et al. 2023): joint positions and grippers, left arm first; open grippers are 1."""

_DIFFERENTIAL = (
    *_dimensions(["base_linear"], "m/s", "velocity", [_FULL]),
    *_dimensions(["base_angular"], "rad/s", "velocity", [_FULL]),
)
"""The velocity of a base with two driven wheels, at most 1 m/s and 1 rad/s: the limits of Trossen's SLATE
(`trossen_slate`'s `MAX_VEL_X` and `MAX_VEL_Z`), on which openpi says that its mobile robots stand.
"""

MOBILE_ALOHA = Embodiment(
    name="mobile_aloha",
    state=ALOHA.state,
    actions=(*ALOHA.actions, *_DIFFERENTIAL),
    cameras=ALOHA.cameras,
    rate=50.0,
)
"""ALOHA on a base (Fu et al. 2024; π0's mobile Trossen): the actions end in its forward speed and turning
rate, in the order of Mobile ALOHA's `base_action`. openpi's table calls them x and y velocity, which a base
with two driven wheels does not have.
"""

_X5: dict[str, Limits] = {
    "joint_1": (-3.14, 2.618),
    "joint_2": (-0.05, 3.50),
    "joint_3": (-0.1, 3.20),
    "joint_4": (-1.6, 1.55),
    "joint_5": (-1.57, 1.57),
    "joint_6": (-2.0, 2.0),
}
"""Limits of an ARX X5's joints, in radians (`X5` in `include/app/config.h` of real-stanford's `arx5-sdk`).

openpi names the arm ARX-5 and no more; limits of its sibling, the R5, were not found and may differ.
"""

_THREE_VIEWS = _cameras("base_rgb", "left_wrist_rgb", "right_wrist_rgb")

ARX = Embodiment(
    name="arx",
    state=_two_arms(_X5),
    actions=_two_arms(_X5),
    cameras=_THREE_VIEWS,
    rate=50.0,
)
"""Two ARX X5 arms (π0, §V-C, bimanual ARX: 14 numbers, a base camera and two at the wrists); closed grippers
are 1. The arms' own library counts a gripper's opening in metres, 0 … 0.088, closed at 0.
"""

MOBILE_ARX = Embodiment(
    name="mobile_arx",
    state=ARX.state,
    actions=(*ARX.actions, *_DIFFERENTIAL),
    cameras=_THREE_VIEWS,
    rate=50.0,
)
"""Two ARX X5 arms on a SLATE base (π0, §V-C, mobile ARX: a state of 14 numbers, actions of 16)."""

MOBILE_FIBOCOM = Embodiment(
    name="mobile_fibocom",
    state=ARX.state,
    actions=(
        *ARX.actions,
        *_dimensions(("base_x", "base_y"), "m/s", "velocity", [_FULL] * 2),
        *_dimensions(["base_angular"], "rad/s", "velocity", [_FULL]),
    ),
    cameras=_THREE_VIEWS,
    rate=50.0,
)
"""Two ARX arms on a base that drives in any direction (π0, §V-C, mobile Fibocom): a state of 14 numbers, and
actions of 17, of which the base's two translations and its turning are the last.

The base's limits, units and order are not published: 1 m/s and 1 rad/s, forward, left, turning are assumed.
Nor are this robot's cameras: those of the other robots with two arms are assumed.
"""

_UR5E: dict[str, Limits] = {
    "shoulder_pan": (-2 * pi, 2 * pi),
    "shoulder_lift": (-2 * pi, 2 * pi),
    "elbow": (-pi, pi),
    "wrist_1": (-2 * pi, 2 * pi),
    "wrist_2": (-2 * pi, 2 * pi),
    "wrist_3": (-2 * pi, 2 * pi),
}
"""Universal Robots' limits of a UR5e's joints (`ur_description`, `config/ur5e/joint_limits.yaml`): ±360°, and
±180° at the elbow, which the arm itself keeps from turning further. Joints of two turns: none wraps.
"""

UR5E = Embodiment(
    name="ur5e",
    state=_arm("", _UR5E),
    actions=_arm("", _UR5E),
    cameras=_cameras("base_rgb", "wrist_rgb"),
    rate=20.0,
)
"""A UR5e with a Robotiq 2F-85 gripper (π0, §V-C: 7 numbers, a camera over its shoulder and one at the wrist);
a closed gripper is 1. The cameras' names are those of openpi's `examples/ur5`.
"""

DUAL_UR5E = Embodiment(
    name="dual_ur5e",
    state=_two_arms(_UR5E),
    actions=_two_arms(_UR5E),
    cameras=_THREE_VIEWS,
    rate=20.0,
)
"""Two UR5e (π0, §V-C, bimanual UR5e: 14 numbers, three cameras); closed grippers are 1.

The paper does not say where the cameras are: one that sees both arms and two at the wrists are assumed.
"""

_PANDA: dict[str, Limits] = {
    "joint_1": (-2.8973, 2.8973),
    "joint_2": (-1.7628, 1.7628),
    "joint_3": (-2.8973, 2.8973),
    "joint_4": (-3.0718, -0.0698),
    "joint_5": (-2.8973, 2.8973),
    "joint_6": (-0.0175, 3.7525),
    "joint_7": (-2.8973, 2.8973),
}
"""Franka's limits of a Panda's joints, in radians (Franka Control Interface documentation, robot limits)."""

_FR3: dict[str, Limits] = {
    "joint_1": (-2.7437, 2.7437),
    "joint_2": (-1.7837, 1.7837),
    "joint_3": (-2.9007, 2.9007),
    "joint_4": (-3.0421, -0.1518),
    "joint_5": (-2.8065, 2.8065),
    "joint_6": (0.5445, 4.5169),
    "joint_7": (-3.0159, 3.0159),
}
"""Franka's limits of a Research 3's joints, in radians (Franka Control Interface documentation)."""

FRANKA = Embodiment(
    name="franka",
    state=_arm("", _FR3),
    actions=_arm("", _FR3),
    cameras=_cameras("base_rgb", "wrist_rgb"),
    rate=20.0,
)
"""A Franka Research 3 with a Robotiq 2F-85 gripper (π0, §V-C: 8 numbers, two cameras); a closed gripper is 1.

The paper does not say where the cameras are: those of the UR5e are assumed.
"""

DROID = Embodiment(
    name="droid",
    state=_arm("", _PANDA),
    actions=(
        *_dimensions(
            [f"joint_velocity_{index + 1}" for index in range(7)],
            "fraction of full speed",
            "velocity",
            [_FULL] * 7,
        ),
        *_dimensions(["gripper"], "fraction", "gripper", [_OPENING]),
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

DROID_JOINT_POSITION = Embodiment(
    name="droid_joint_position",
    state=DROID.state,
    actions=DROID.state,
    cameras=DROID.cameras,
    rate=15.0,
)
"""DROID's Panda told where its joints shall be: the actions of openpi's checkpoints trained on its joint
positions (`DroidActionSpace.JOINT_POSITION` in `droid_rlds_dataset.py`: `action_dict/joint_position`, then
`action_dict/gripper_position`), which it writes relative to the state, grippers excepted.
"""

LIBERO = Embodiment(
    name="libero",
    state=(
        *_dimensions([f"hand_{axis}" for axis in _AXES], "m", "position", [(-1.5, 1.5)] * 3),
        *_dimensions([f"rotation_{axis}" for axis in _AXES], "rad", "axis_angle", [(-6.2832, 6.2832)] * 3),
        *_dimensions(("left_finger", "right_finger"), "m", "gripper", [(0.0, 0.04), (-0.04, 0.0)]),
    ),
    actions=(
        *_dimensions([f"hand_d{axis}" for axis in _AXES], "5 cm", "velocity", [_FULL] * 3),
        *_dimensions([f"rotation_d{axis}" for axis in _AXES], "0.5 rad", "velocity", [_FULL] * 3),
        *_dimensions(["gripper"], "fraction", "gripper", [_FULL]),
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

CATALOG = {
    embodiment.name: embodiment
    for embodiment in (
        METAWORLD,
        METAWORLD_POSITIONS,
        NAVIGATION2D,
        ALOHA,
        MOBILE_ALOHA,
        ARX,
        MOBILE_ARX,
        MOBILE_FIBOCOM,
        UR5E,
        DUAL_UR5E,
        FRANKA,
        DROID,
        DROID_JOINT_POSITION,
        LIBERO,
    )
}


def find_embodiment(name: str) -> Embodiment:
    """Return the catalog's robot of that name, or the one that the file of that name, `….json`, describes.

    ValueError with the nearest name if there is none, if the file does not describe a robot, or if it takes
    the name of a robot of the catalog for a different one.
    """
    if name in CATALOG:
        return CATALOG[name]
    if not name.endswith(".json"):
        raise ValueError(
            f"unknown embodiment {name!r}: {nearest(name, CATALOG)} A robot that is not among them is "
            f"described by a file: give its path, which ends in .json"
        )
    found = read_embodiment(Path(name))
    known = CATALOG.get(found.name)
    if known is not None and known != found:
        raise ValueError(
            f"{name}: {found.name!r} is the name of another robot of the catalog; choose another name, or "
            f"correct what differs (file ≠ catalog): {'; '.join(found.diff(known))}"
        )
    return found
