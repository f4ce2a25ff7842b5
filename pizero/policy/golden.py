"""A policy against actions that the reference implementation computed for the same observation and noise."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pizero.data.openpi import observation_from_openpi
from pizero.policy.policy import Policy


def distance_to_golden(folder: Path, golden: Path) -> float:
    """Return the largest difference, in robot units, between a policy's actions and golden ones.

    `golden` is an `.npz` with one request to openpi's policy under `obs/…`, the `noise` that it was given and
    the `actions` that it returned. ValueError if something is missing or of another shape.
    """
    try:
        with np.load(golden, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{golden} is not an .npz file of plain arrays: {error}") from None
    missing = {"noise", "actions"} - set(arrays)
    if missing or not any(name.startswith("obs/") for name in arrays):
        raise ValueError(
            f"{golden}: expected obs/…, noise and actions, found {', '.join(sorted(arrays)) or 'nothing'}"
        )
    policy = Policy.load(folder)
    request = request_of(arrays)
    observation = observation_from_openpi(policy.contract.embodiment.name, request)
    ours = policy.act(observation, noise=arrays["noise"].astype(np.float32))
    if ours.shape != arrays["actions"].shape:
        raise ValueError(
            f"{golden}: expected actions of shape {list(ours.shape)}, found {list(arrays['actions'].shape)}"
        )
    return float(np.abs(ours - arrays["actions"]).max())


def request_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the request under `obs/…` as a client sends it: cameras nested under `images`."""
    request: dict[str, Any] = {}
    for name, array in arrays.items():
        key = name.removeprefix("obs/")
        if key == name:
            continue
        value = array.item() if array.dtype.kind in "US" else array
        if key.startswith("images/"):
            request.setdefault("images", {})[key.removeprefix("images/")] = value
        else:
            request[key] = value
    return request
