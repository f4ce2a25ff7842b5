"""The numbers that published checkpoints were trained on, where they are not the robot's own.

ALOHA's are openpi's (`policies/aloha_policy.py`): four joints have another sign, and the grippers' opening
becomes the angle of a linkage, as on the robot that the base models were trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from pizero.contract import Convention

JOINT_SIGNS = np.array([1, -1, -1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1], dtype=np.float64)
"""Left arm's six joints and gripper, then the right arm's."""

GRIPPERS = (6, 13)

CLOSED_WIDTH, OPEN_WIDTH = 0.01844, 0.05800
"""Finger positions of ALOHA's gripper when closed and open, in metres."""

ARM_LENGTH, HORN_RADIUS = 0.036, 0.022
"""The gripper's linkage: rod and servo horn, in metres."""

CLOSED_ANGLE, OPEN_ANGLE = 0.5476, 1.6296
"""Angles of π's own gripper when closed and open, in radians."""

CLOSED_COMMAND, OPEN_COMMAND = -0.6213, 1.4910
"""Angles to which ALOHA's gripper is commanded when closed and open, in radians."""

Numbers = Float[np.ndarray, "*batch dimension"]


@runtime_checkable
class Writing(Protocol):
    """How states and actions of a robot are written for a model, and how actions are read."""

    def encode_state(self, state: Numbers) -> Numbers:
        """Return a robot's state in the model's convention."""
        ...

    def encode_actions(self, actions: Numbers) -> Numbers:
        """Return a robot's actions in the model's convention."""
        ...

    def decode_actions(self, actions: Numbers) -> Numbers:
        """Return a model's actions as the robot takes them."""
        ...


class Native:
    """States and actions as the robot has them."""

    def encode_state(self, state: Numbers) -> Numbers:
        """Return the state."""
        return state

    def encode_actions(self, actions: Numbers) -> Numbers:
        """Return the actions."""
        return actions

    def decode_actions(self, actions: Numbers) -> Numbers:
        """Return the actions."""
        return actions


class Aloha:
    """openpi's convention for two arms, `[…, 14]`, computed in float64; ValueError for another width."""

    def encode_state(self, state: Numbers) -> Numbers:
        """Return signs flipped and each gripper's opening, 0 … 1, as π's gripper angle, scaled to 0 … 1."""
        return _with_grippers(_flipped(state), gripper_to_angle)

    def encode_actions(self, actions: Numbers) -> Numbers:
        """Return signs flipped and each gripper's command as π's; the inverse of `decode_actions`."""
        return _with_grippers(_flipped(actions), gripper_command_to_angle)

    def decode_actions(self, actions: Numbers) -> Numbers:
        """Return signs flipped back and each of π's gripper angles as ALOHA's command."""
        return _with_grippers(_flipped(actions), angle_to_gripper_command)


def find_convention(name: Convention) -> Writing:
    """Return the convention of that name."""
    return {"native": Native(), "aloha": Aloha()}[name]


def gripper_to_angle(opening: Numbers) -> Numbers:
    """Return π's gripper state of an opening 0 … 1: finger width → horn angle by the law of cosines."""
    width = CLOSED_WIDTH + opening * (OPEN_WIDTH - CLOSED_WIDTH)
    cosine = (HORN_RADIUS**2 + width**2 - ARM_LENGTH**2) / (2.0 * HORN_RADIUS * width)
    angle = np.arcsin(np.clip(cosine, -1.0, 1.0))
    return (angle - CLOSED_ANGLE) / (OPEN_ANGLE - CLOSED_ANGLE)


def angle_to_gripper_command(angle: Numbers) -> Numbers:
    """Return ALOHA's command, about 0 … 1, of π's gripper action."""
    return (angle + CLOSED_ANGLE - CLOSED_COMMAND) / (OPEN_COMMAND - CLOSED_COMMAND)


def gripper_command_to_angle(command: Numbers) -> Numbers:
    """Return π's gripper action of ALOHA's command: the inverse of `angle_to_gripper_command`."""
    return command * (OPEN_COMMAND - CLOSED_COMMAND) + CLOSED_COMMAND - CLOSED_ANGLE


def _flipped(numbers: Numbers) -> Numbers:
    if numbers.shape[-1] != len(JOINT_SIGNS):
        raise ValueError(
            f"the convention 'aloha' is of {len(JOINT_SIGNS)} numbers (6 joints and a gripper for each arm), "
            f"found {numbers.shape[-1]}; other robots' is 'native'"
        )
    return numbers * JOINT_SIGNS


def _with_grippers(numbers: Numbers, change: Callable[[Numbers], Numbers]) -> Numbers:
    changed = np.array(numbers, dtype=np.float64)
    changed[..., GRIPPERS] = change(changed[..., GRIPPERS])
    return changed
