"""What a request may hold: checked by name, before anything of it reaches the model."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from pizero.contract import Contract
from pizero.data.processor import Processor
from pizero.data.text import prompt_tokens
from pizero.names import nearest
from pizero.serving.envelope import ServerError
from pizero.serving.messages import unpack
from pizero.serving.server.settings import Limits
from pizero.serving.structure import check_structure
from pizero.types import Continuation, ContinuationMethod, Observation

ACT_FIELDS = {"type", "seq", "observation", "age", "deadline", "continuation", "num_steps", "report"}
OBSERVATION_FIELDS = {"images", "state", "instruction"}
CONTINUATION_FIELDS = {"actions", "delay", "execution", "method"}
LAST_SEQ = 2**53
SEEDS = 2**63
NUMBERS = "fiu"
"""Kinds of dtypes that a state may be of; it becomes float32."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request asks for; `deadline` is in seconds from when it came, `seed` begins a new episode."""

    observation: Observation
    seq: int | None = None
    continuation: Continuation | None = None
    num_steps: int | None = None
    deadline: float | None = None
    report: Mapping[str, Any] | None = None
    seed: int | None = None


def decode(data: bytes | str) -> dict[str, Any]:
    """Return the map that a frame holds; ServerError BAD_MESSAGE if it holds none."""
    if isinstance(data, str):
        raise ServerError("BAD_MESSAGE", "expected a binary frame, found a text frame")
    try:
        check_structure(data)
        message = unpack(data)
    except ValueError as error:
        raise ServerError("BAD_MESSAGE", str(error)) from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise ServerError("BAD_MESSAGE", f"expected a map with keys of text, found {type(message).__name__}")
    return message


def whole(value: Any, name: str, *, low: int, high: int, code: str = "BAD_MESSAGE") -> int:
    """Return a whole number from `low` to below `high`; ServerError otherwise."""
    number = value.item() if isinstance(value, np.integer) else value
    if type(number) is not int or not low <= number < high:
        raise ServerError(
            code, f"{name}: expected a whole number from {low} to {high - 1}, found {shown(value)}"
        )
    return number


def shown(value: Any) -> str:
    """Return what a value is, in few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} {text[:60]}..."


class Validator:
    """Reads requests to a policy: what comes out of it the policy can answer."""

    def __init__(self, contract: Contract, processor: Processor, limits: Limits) -> None:
        self.contract, self.processor, self.limits = contract, processor, limits
        self.cameras = {camera.name: camera for camera in contract.embodiment.cameras}

    def act(self, message: Mapping[str, Any]) -> Ask:
        """Return what a message of type `act` asks for; ServerError says which field is wrong."""
        known_fields(message, ACT_FIELDS, needed=("seq", "observation"))
        observation = message["observation"]
        if not isinstance(observation, dict):
            raise ServerError("BAD_MESSAGE", f"observation: expected a map, found {shown(observation)}")
        known_fields(observation, OBSERVATION_FIELDS, needed=("images", "state"), where="observation")
        report = message.get("report")
        if report is not None and not isinstance(report, dict):
            raise ServerError("BAD_MESSAGE", f"report: expected a map, found {shown(report)}")
        return Ask(
            seq=whole(message["seq"], "seq", low=0, high=LAST_SEQ),
            observation=self.observation(
                observation["images"], observation["state"], observation.get("instruction", "")
            ),
            continuation=self._continuation(message.get("continuation")),
            num_steps=self._num_steps(message.get("num_steps")),
            deadline=_deadline(message.get("age"), message.get("deadline")),
            report=report,
        )

    def observation(self, images: Any, state: Any, instruction: Any) -> Observation:
        """Return a checked observation; ServerError BAD_IMAGE, BAD_STATE or BAD_PROMPT."""
        numbers = self._state(state)
        pictures = self._images(images)
        return Observation(images=pictures, state=numbers, instruction=self._prompt(instruction, numbers))

    def _images(self, images: Any) -> dict[str, np.ndarray]:
        names = ", ".join(self.cameras) or "none"
        if not isinstance(images, dict):
            raise ServerError(
                "BAD_IMAGE", f"images: expected a map of the cameras {names}, found {shown(images)}"
            )
        required = [name for name, camera in self.cameras.items() if camera.required]
        missing = [name for name in required if name not in images]
        unknown = [str(name)[:60] for name in images if name not in self.cameras]
        if missing or unknown:
            hints = f" ({nearest(unknown[0], self.cameras)})" if unknown and self.cameras else ""
            raise ServerError(
                "BAD_IMAGE",
                f"images: expected the cameras {names}, found {', '.join(map(str, images))[:200] or 'none'}; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}{hints}",
            )
        return {name: self._picture(picture, name) for name, picture in images.items()}

    def _picture(self, picture: Any, name: str) -> np.ndarray:
        where = f"images.{name}: expected uint8 [height, width, 3], RGB"
        if not isinstance(picture, np.ndarray):
            raise ServerError("BAD_IMAGE", f"{where}, found {shown(picture)}")
        shape, side = picture.shape, self.limits.image_side
        if picture.ndim != 3 or shape[2] != 3:
            first = " (channels first: move them last)" if picture.ndim == 3 and shape[0] == 3 else ""
            raise ServerError("BAD_IMAGE", f"{where}, found {shown(picture)}{first}")
        if picture.dtype != np.uint8:
            floats = " (floats: multiply those in [0, 1] by 255)" if picture.dtype.kind == "f" else ""
            raise ServerError("BAD_IMAGE", f"{where}, found {shown(picture)}{floats}")
        if not (0 < shape[0] <= side and 0 < shape[1] <= side):
            raise ServerError("BAD_IMAGE", f"{where}, of 1 to {side} pixels a side, found {list(shape)}")
        return picture

    def _state(self, state: Any) -> np.ndarray:
        dimensions = self.contract.embodiment.state
        names = ", ".join(dimension.name for dimension in dimensions)
        expected = f"state: expected {len(dimensions)} numbers ({names})"
        if not isinstance(state, np.ndarray) or state.dtype.kind not in NUMBERS:
            raise ServerError("BAD_STATE", f"{expected}, found {shown(state)}")
        if state.shape != (len(dimensions),):
            raise ServerError("BAD_STATE", f"{expected}, found shape {list(state.shape)}")
        bad = ~(np.abs(state.astype(np.float64)) <= self.limits.state_magnitude)
        if bad.any():
            found = [f"{dimensions[i].name} (number {i}) is {state[i]}" for i in np.flatnonzero(bad)]
            raise ServerError(
                "BAD_STATE",
                f"state: expected finite numbers of at most {self.limits.state_magnitude:g}: "
                f"{'; '.join(found)}",
            )
        return state.astype(np.float32)

    def _prompt(self, instruction: Any, state: np.ndarray) -> str:
        most = self.limits.prompt_characters
        if not isinstance(instruction, str):
            raise ServerError("BAD_PROMPT", f"instruction: expected a text, found {shown(instruction)}")
        if len(instruction) > most:
            raise ServerError(
                "BAD_PROMPT", f"instruction: expected at most {most} characters, found {len(instruction)}"
            )
        wrong = [
            sign for sign in instruction if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t"
        ]
        if wrong:
            raise ServerError("BAD_PROMPT", f"instruction: expected text, found the sign {wrong[0]!r} in it")
        text, processor = instruction or self.contract.instruction, self.processor
        numbers = processor.state.encode(processor.convention.encode_state(state))
        if self.contract.padded_prompt_state:
            numbers = np.pad(numbers, (0, max(self.contract.width - len(numbers), 0)))
        try:
            prompt_tokens(self.contract.prompt, text, numbers, processor.tokenizer, self.contract.max_tokens)
        except ValueError as error:
            raise ServerError("BAD_PROMPT", f"instruction: {error}") from None
        return instruction

    def _continuation(self, value: Any) -> Continuation | None:
        if value is None:
            return None
        code, horizon = "BAD_CONTINUATION", self.contract.horizon
        if not isinstance(value, dict):
            raise ServerError(code, f"continuation: expected a map, found {shown(value)}")
        known_fields(
            value, CONTINUATION_FIELDS, needed=("actions", "delay", "execution"), where="continuation"
        )
        actions, width = value["actions"], self.contract.embodiment.action_dim
        if (
            not isinstance(actions, np.ndarray)
            or actions.dtype.kind not in NUMBERS
            or actions.ndim != 2
            or actions.shape[1] != width
            or not 1 <= len(actions) <= horizon
            or not np.isfinite(actions).all()
        ):
            raise ServerError(
                code,
                f"continuation.actions: expected finite numbers of shape [1 to {horizon}, {width}], "
                f"found {shown(actions)}",
            )
        delay = whole(value["delay"], "continuation.delay", low=0, high=horizon + 1, code=code)
        execution = whole(value["execution"], "continuation.execution", low=1, high=horizon + 1, code=code)
        if not delay <= execution <= horizon - delay:
            raise ServerError(
                code,
                f"continuation: expected delay ≤ execution ≤ horizon - delay with a horizon of {horizon}, "
                f"found delay {delay} and execution {execution}",
            )
        method = value.get("method", "guided")
        if method not in get_args(ContinuationMethod):
            raise ServerError(
                code, f"continuation.method: {nearest(shown(method), get_args(ContinuationMethod))}"
            )
        return Continuation(
            actions=actions.astype(np.float32), delay=delay, execution=execution, method=method
        )

    def _num_steps(self, value: Any) -> int | None:
        if value is None:
            return None
        return whole(value, "num_steps", low=1, high=self.limits.num_steps + 1, code="BAD_STEPS")


def known_fields(
    message: Mapping[str, Any], known: set[str], *, needed: tuple[str, ...], where: str = "message"
) -> None:
    """Raise ServerError BAD_MESSAGE unless a map has the needed fields and no unknown ones."""
    missing = [name for name in needed if name not in message]
    unknown = [str(name)[:60] for name in message if name not in known]
    if missing:
        raise ServerError("BAD_MESSAGE", f"{where}: expected the fields {', '.join(missing)}, found none")
    if unknown:
        raise ServerError("BAD_MESSAGE", f"{where}: {unknown[0]!r} is unknown: {nearest(unknown[0], known)}")


def _deadline(age: Any, deadline: Any) -> float | None:
    seconds = []
    for name, value in (("age", age), ("deadline", deadline)):
        number = 0.0 if value is None else value.item() if isinstance(value, np.number) else value
        if type(number) not in (int, float) or not (math.isfinite(number) and 0 <= number <= 1e6):
            raise ServerError("BAD_MESSAGE", f"{name}: expected seconds from 0 to 1e6, found {shown(value)}")
        seconds.append(float(number))
    return None if deadline is None else seconds[1] - seconds[0]
