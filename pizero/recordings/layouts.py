"""Which fields of a recording make state, action, pictures and instruction: a record, or a JSON file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pizero.names import nearest
from pizero.records import read_record
from pizero.robots import DROID, DROID_JOINT_POSITION, Embodiment


@dataclass(frozen=True, kw_only=True)
class RecordingLayout:
    """How one kind of recording becomes a dataset.

    A field is a path as the recording has it, with a slice of its last axis if only some numbers are wanted:
    `observation/state[:7]`. Fields of state and action are flattened and put one behind the other, as
    float32. Without fields of its own an action is the state one step later (the last step keeps its own).

    `cameras` and `columns` are by their names in the dataset. The first of `instructions` that has words
    counts, for each step; a step without words has those of the step before. `only` keeps episodes in which
    each text field contains its pattern (a regular expression). `fps` is in Hz; None if only the user knows.
    """

    name: str
    state: tuple[str, ...]
    action: tuple[str, ...] = ()
    cameras: dict[str, str] = field(default_factory=dict)
    instructions: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    only: dict[str, str] = field(default_factory=dict)
    fps: float | None = None
    robot: str | None = None
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.state:
            raise ValueError(f"layout {self.name!r}: expected at least one field that makes the state")
        for path in (*self.state, *self.action, *self.columns.values()):
            parse_field(path)
        for pattern in self.only.values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"layout {self.name!r}: {pattern!r} is no pattern ({error})") from None
        wrong = [name for name in (*self.cameras, *self.columns) if "/" in name or not name]
        if wrong:
            raise ValueError(
                f"layout {self.name!r}: expected names without '/', found {', '.join(map(repr, wrong))}"
            )


_FIELD = re.compile(r"(?P<path>[^\[\]]+)(\[(?P<start>-?\d*):(?P<stop>-?\d*)\])?")


def parse_field(field_path: str) -> tuple[str, slice]:
    """Return the path and the slice of `path[start:stop]`; ValueError if it is written another way."""
    match = _FIELD.fullmatch(field_path)
    if match is None:
        raise ValueError(f"expected a field as `path` or `path[start:stop]`, found {field_path!r}")
    start, stop = match["start"], match["stop"]
    return match["path"], slice(int(start) if start else None, int(stop) if stop else None)


def _names(embodiment: Embodiment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        tuple(dimension.name for dimension in embodiment.state),
        tuple(dimension.name for dimension in embodiment.actions),
    )


def _droid(name: str, embodiment: Embodiment, action: str) -> RecordingLayout:
    state_names, action_names = _names(embodiment)
    return RecordingLayout(
        name=name,
        state=("steps/observation/joint_position", "steps/observation/gripper_position"),
        action=(f"steps/action_dict/{action}", "steps/action_dict/gripper_position"),
        cameras={
            "exterior_image_1_left": "steps/observation/exterior_image_1_left",
            "exterior_image_2_left": "steps/observation/exterior_image_2_left",
            "wrist_image_left": "steps/observation/wrist_image_left",
        },
        instructions=(
            "steps/language_instruction",
            "steps/language_instruction_2",
            "steps/language_instruction_3",
        ),
        columns={
            "observation.cartesian_position": "steps/observation/cartesian_position",
            "action.cartesian_position": "steps/action_dict/cartesian_position",
            "action.cartesian_velocity": "steps/action_dict/cartesian_velocity",
            "language_instruction_2": "steps/language_instruction_2",
            "language_instruction_3": "steps/language_instruction_3",
        },
        only={"episode_metadata/file_path": "success"},
        fps=15.0,
        robot=name,
        state_names=state_names,
        action_names=action_names,
    )


DROID_LAYOUT = _droid(DROID.name, DROID, "joint_velocity")
"""DROID 1.0 as RLDS (Khazatsky et al. 2024), 15 Hz; actions as openpi's DROID checkpoints know them.

Episodes whose path does not say `success` are left out, as openpi's training leaves them out.
"""

DROID_JOINT_POSITION_LAYOUT = _droid(DROID_JOINT_POSITION.name, DROID_JOINT_POSITION, "joint_position")

BRIDGE_LAYOUT = RecordingLayout(
    name="bridge",
    state=("steps/observation/state",),
    action=("steps/action",),
    cameras={"image_0": "steps/observation/image_0"},
    instructions=("steps/language_instruction",),
    fps=5.0,
    robot="bridge",
    state_names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    action_names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
)
"""BridgeData V2 as RLDS (Walke et al. 2023), 5 Hz; its further cameras are black in most episodes."""

PUSHT_LAYOUT = RecordingLayout(
    name="pusht",
    state=("data/state",),
    action=("data/action",),
    cameras={"image": "data/img"},
    fps=10.0,
    robot="pusht",
    state_names=("agent_x", "agent_y", "block_x", "block_y", "block_angle"),
    action_names=("x", "y"),
)
"""Push-T of Diffusion Policy (Chi et al. 2023), 10 Hz."""

LAYOUTS = {
    layout.name: layout for layout in (DROID_LAYOUT, DROID_JOINT_POSITION_LAYOUT, BRIDGE_LAYOUT, PUSHT_LAYOUT)
}
"""Layouts that cannot be told from the recording alone, or that are worth a name."""


def find_layout(name: str) -> RecordingLayout:
    """Return a layout of the catalog, or that of a JSON file; ValueError names the nearest."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    path = Path(name)
    if path.suffix == ".json" or path.exists():
        return read_record(RecordingLayout, path)
    raise ValueError(f"unknown layout {name!r}: {nearest(name, LAYOUTS)} Or name a JSON file of your own")
