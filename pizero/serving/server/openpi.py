"""openpi's requests and answers, and the same form for robots that openpi does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pizero.data.openpi import CAMERAS, PROMPT, STATES, observation_from_openpi, picture_of
from pizero.serving.envelope import ServerError
from pizero.serving.server.validation import SEEDS, Ask, Validator, shown, whole
from pizero.types import ActionChunk

SEED = "seed"
"""A key that openpi does not have: the request begins a new episode, whose noise follows from this number."""

IMAGES, STATE = "images", "state"
PLAIN_KEYS = {IMAGES, STATE, PROMPT}


def read_request(message: Mapping[str, Any], validator: Validator) -> Ask:
    """Return what a request of openpi's form asks for; ServerError says what is wrong with it.

    For a robot that openpi knows, its keys are openpi's. For any other they are `images` (a map of cameras,
    or `images/CAMERA`), `state` and `prompt`.
    """
    request = dict(message)
    seed = request.pop(SEED, None)
    if seed is not None:
        seed = whole(seed, SEED, low=0, high=SEEDS)
    robot = validator.contract.embodiment.name
    if robot in STATES:
        try:
            found = observation_from_openpi(robot, request)
        except ValueError as error:
            raise ServerError(_code(str(error), robot), str(error)) from None
        observation = validator.observation(dict(found.images), found.state, found.instruction)
    else:
        observation = validator.observation(*_plain(request))
    return Ask(observation=observation, seed=seed)


def result(chunk: ActionChunk, infer: float, previous_total: float | None) -> dict[str, Any]:
    """Return openpi's answer; times in seconds become its milliseconds."""
    timing = {"infer_ms": 1e3 * infer}
    if previous_total is not None:
        timing["prev_total_ms"] = 1e3 * previous_total
    return {"actions": chunk, "policy_timing": {"infer_ms": 1e3 * infer}, "server_timing": timing}


def error_text(error: ServerError) -> str:
    """Return the text frame at which openpi's client raises RuntimeError; the connection stays open."""
    return f"{error.code}: {error.message}"


def _plain(request: dict[str, Any]) -> tuple[Any, Any, Any]:
    images = request.pop(IMAGES, {})
    for key in [key for key in request if key.startswith(f"{IMAGES}/")]:
        if not isinstance(images, dict):
            break
        images = {**images, key.removeprefix(f"{IMAGES}/"): request.pop(key)}
    unknown = [key for key in request if key not in PLAIN_KEYS]
    if unknown or STATE not in request:
        raise ServerError(
            "BAD_MESSAGE",
            f"expected the keys {IMAGES}, {STATE} and {PROMPT}, "
            f"found {', '.join(sorted([IMAGES, *request]))[:200]}",
        )
    if not isinstance(images, dict):
        raise ServerError("BAD_IMAGE", f"{IMAGES}: expected a map of cameras, found {shown(images)}")
    try:
        pictures = {name: picture_of(picture, f"{IMAGES}/{name}") for name, picture in images.items()}
    except ValueError as error:
        raise ServerError("BAD_IMAGE", str(error)) from None
    prompt = request.get(PROMPT, "")
    if isinstance(prompt, np.ndarray) and prompt.size == 1:
        prompt = prompt.item()
    state = request[STATE]
    return pictures, np.asarray(state) if _is_numbers(state) else state, prompt


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) for item in value)


def _code(text: str, robot: str) -> str:
    """Return the code of an error that begins with the key it is about."""
    key = text.partition(":")[0]
    if key in CAMERAS[robot].values():
        return "BAD_IMAGE"
    return "BAD_STATE" if key in STATES[robot] else "BAD_PROMPT" if key == PROMPT else "BAD_MESSAGE"
