"""openpi's files and requests in our words: `norm_stats.json`, and what its clients send for each robot."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

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

STATES: dict[str, dict[str, int]] = {
    "aloha": {"state": 14},
    "droid": {"observation/joint_position": 7, "observation/gripper_position": 1},
    "libero": {"observation/state": 8},
}
"""The keys whose numbers, one after the other, are a robot's state, and how many numbers each has."""

OPTIONAL = {"aloha": {"images/cam_left_wrist", "images/cam_right_wrist", "images/cam_low"}}
"""What may be missing; `cam_low` is accepted and used by no model."""


def observation_from_openpi(robot: str, request: Mapping[str, Any]) -> Observation:
    """Return the observation of a request to openpi's policy.

    Pictures may be `uint8` or float in [0, 1], rows or channels first, as openpi takes them; a number may
    stand for a list of one. ValueError lists missing and unknown keys with the nearest name, or says which
    value is not what its key holds. Source: openpi's `policies/{aloha,droid,libero}_policy.py`.
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
    state = np.concatenate([_numbers(flat[key], key, count) for key, count in states.items()])
    return Observation(
        images={name: picture_of(flat[key], key) for name, key in cameras.items() if key in flat},
        state=state,
        instruction=_text(flat.get(PROMPT, ""), PROMPT),
    )


def picture_of(value: Any, key: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture as `uint8 [height, width, 3]`: floats times 255, truncated; channels moved last.

    ValueError if it is of another shape, or its floats leave [0, 1]: openpi would let them wrap around.
    """
    picture = np.asarray(value)
    if np.issubdtype(picture.dtype, np.floating):
        scaled = 255 * picture
        if not ((scaled > -1) & (scaled < 256)).all():
            raise ValueError(
                f"{key}: expected floats in [0, 1], found {picture.min()} … {picture.max()}; send uint8 for "
                f"0 … 255"
            )
        picture = scaled.astype(np.uint8)
    if picture.ndim == 3 and picture.shape[0] == 3:
        picture = picture.transpose(1, 2, 0)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"{key}: expected a picture, found {picture.dtype} {list(picture.shape)}")
    return np.ascontiguousarray(picture)


def read_norm_stats(path: Path) -> tuple[FieldStatistics, FieldStatistics]:
    """Return the statistics of states and of actions in openpi's `norm_stats.json`.

    ValueError if the file is not of that form, or holds numbers that are not finite. `q01` and `q99` may be
    null or absent. Source: openpi's `shared/normalize.py`.
    """
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
        entries = {label: stats[label] for label in ("state", "actions")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
        if not isinstance(values, list) or not all(_is_finite(value) for value in values):
            raise ValueError(
                f"{where}: expected {name} as a list of finite numbers, found {str(values)[:80]}"
            )
        if name == "std" and any(value < 0 for value in values):
            raise ValueError(f"{where}: expected a std that is not negative, found {min(values)}")
        numbers[name] = tuple(float(value) for value in values)
    needed = ("mean", "std")
    lengths = {name: len(values) for name, values in numbers.items() if values or name in needed}
    if len(set(lengths.values())) != 1 or not lengths["mean"]:
        raise ValueError(f"{where}: expected lists of one length, found {lengths}")
    return FieldStatistics(**numbers)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _numbers(value: Any, key: str, count: int) -> Float32[np.ndarray, "number"]:
    try:
        numbers = np.atleast_1d(np.asarray(value))
    except ValueError:  # lists of different lengths
        numbers = np.array([None])
    if numbers.dtype.kind not in "biuf" or numbers.shape != (count,):
        raise ValueError(
            f"{key}: expected {count} numbers, found {numbers.dtype} of shape {list(numbers.shape)}"
        )
    return numbers.astype(np.float32)


def _text(value: Any, key: str) -> str:
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        text = None
    if not isinstance(text, str):
        raise ValueError(f"{key}: expected a text, or one as UTF-8 bytes, found {str(value)[:80]!r}")
    return text


def _flattened(request: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in request.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": item for inner, item in value.items()}
        else:
            flat[f"{key}"] = value
    return flat
