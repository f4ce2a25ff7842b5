"""openpi's files and requests in our words: `norm_stats.json`, and what its clients send for each robot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pizero.contract import FieldStatistics
from pizero.names import nearest
from pizero.types import Observation

PROMPT = "prompt"

CAMERAS: dict[str, dict[str, str]] = {
    "aloha": {name: f"images/{name}" for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")},
    "droid": {
        "exterior_image_1_left": "observation/exterior_image_1_left",
        "wrist_image_left": "observation/wrist_image_left",
    },
    "libero": {"image": "observation/image", "wrist_image": "observation/wrist_image"},
}
"""The key of each camera in a request, for each robot."""

STATES: dict[str, tuple[str, ...]] = {
    "aloha": ("state",),
    "droid": ("observation/joint_position", "observation/gripper_position"),
    "libero": ("observation/state",),
}
"""The keys whose numbers, one after the other, are a robot's state."""

OPTIONAL = {"aloha": {"images/cam_left_wrist", "images/cam_right_wrist", "images/cam_low"}}
"""What may be missing; `cam_low` is accepted and used by no model."""


def observation_from_openpi(robot: str, request: Mapping[str, Any]) -> Observation:
    """Return the observation of a request to openpi's policy.

    Pictures may be `uint8` or float in [0, 1], rows or channels first, as openpi takes them. ValueError lists
    missing and unknown keys with the nearest name.
    """
    if robot not in STATES:
        raise ValueError(f"openpi's requests are not known for {robot!r}: {nearest(robot, STATES)}")
    flat = _flattened(request)
    cameras, states, optional = CAMERAS[robot], STATES[robot], OPTIONAL.get(robot, set())
    known = {*cameras.values(), *states, *optional, PROMPT}
    missing = sorted(known - optional - {PROMPT} - set(flat))
    unknown = sorted(set(flat) - known)
    if missing or unknown:
        hints = [f"{key!r} is unknown ({nearest(key, known)})" for key in unknown]
        raise ValueError(
            f"this is not a request for {robot}: "
            + "; ".join([*(f"{key!r} is missing" for key in missing), *hints])
        )
    state = np.concatenate([np.atleast_1d(np.asarray(flat[key], dtype=np.float32)) for key in states])
    prompt = flat.get(PROMPT, "")
    if isinstance(prompt, np.ndarray | np.generic):
        prompt = prompt.item()
    return Observation(
        images={name: picture_of(flat[key], key) for name, key in cameras.items() if key in flat},
        state=state,
        instruction=prompt.decode("utf-8") if isinstance(prompt, bytes) else str(prompt),
    )


def picture_of(value: Any, key: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture as `uint8 [height, width, 3]`: floats times 255, truncated; channels moved last."""
    picture = np.asarray(value)
    if np.issubdtype(picture.dtype, np.floating):
        picture = (255 * picture).astype(np.uint8)
    if picture.ndim == 3 and picture.shape[0] == 3:
        picture = picture.transpose(1, 2, 0)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"{key}: expected a picture, found {picture.dtype} {list(picture.shape)}")
    return np.ascontiguousarray(picture)


def read_norm_stats(path: Path) -> tuple[FieldStatistics, FieldStatistics]:
    """Return the statistics of states and of actions in openpi's `norm_stats.json`.

    ValueError if the file is not of that form, or holds numbers that are not finite.
    """
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
        entries = {label: stats[label] for label in ("state", "actions")}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected openpi's JSON with norm_stats of state and actions; {error!r}"
        ) from None
    state, actions = (_field(entry, f"{path}: {label}") for label, entry in entries.items())
    return state, actions


def fit_statistics(field: FieldStatistics, dim: int) -> FieldStatistics:
    """Return the statistics of the first `dim` dimensions; ValueError if there are fewer.

    Those of openpi's bases are padded to the width of the model.
    """
    known = {each.name: getattr(field, each.name) for each in fields(field) if each.name != "count"}
    narrow = {name: len(numbers) for name, numbers in known.items() if numbers and len(numbers) < dim}
    if narrow:
        raise ValueError(
            f"expected statistics of {dim} dimensions, found {narrow}: they are of another robot"
        )
    return replace(field, **{name: numbers[:dim] for name, numbers in known.items()})


def _field(entry: Any, where: str) -> FieldStatistics:
    numbers = {}
    for name in ("mean", "std", "q01", "q99"):
        values = entry.get(name) if isinstance(entry, dict) else None
        if values is None and name in ("q01", "q99"):
            values = []
        if not isinstance(values, list) or not all(
            isinstance(value, int | float) and math.isfinite(value) for value in values
        ):
            raise ValueError(
                f"{where}: expected {name} as a list of finite numbers, found {str(values)[:80]}"
            )
        numbers[name] = tuple(float(value) for value in values)
    lengths = {name: len(values) for name, values in numbers.items() if values}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{where}: expected lists of one length, found {lengths}")
    return FieldStatistics(**numbers)


def _flattened(request: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in request.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
