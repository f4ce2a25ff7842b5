"""A recording of what a server was asked and what it answered: a line of JSON and arrays for each request.

    requests.jsonl    one request a line: who asked, what, what came of it
    000042.npz        its arrays: state, image/CAMERA, noise, planned (actions to go on from), actions
    recording.json    the policy: hash of its manifest and of its contract

Nothing in it can run, and a recording that was cut off is whole up to its last line.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pizero.records import from_data, read_record, write_record
from pizero.types import Continuation, Observation

REQUESTS, RECORDING = "requests.jsonl", "recording.json"
IMAGE = "image/"


@dataclass(frozen=True, kw_only=True)
class RecordedPolicy:
    """Which policy answered."""

    name: str
    manifest: str
    contract: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One request; `outcome` is OK or the code of an error, `delay` -1 where nothing was planned."""

    number: int
    client: str
    instruction: str
    outcome: str
    seq: int | None = None
    num_steps: int | None = None
    delay: int = -1
    execution: int = 0
    method: str = "guided"
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RecordedRequest:
    """A request as it was asked and answered; `actions` is None if the answer was an error."""

    line: Line
    observation: Observation
    noise: np.ndarray | None
    continuation: Continuation | None
    actions: np.ndarray | None


def begin_recording(folder: Path, policy: RecordedPolicy) -> None:
    """Make the folder of a recording; ValueError if it holds one already."""
    if (folder / RECORDING).exists():
        raise ValueError(f"{folder} holds a recording already; name another folder, nothing was overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / RECORDING, policy)


def write_request(folder: Path, request: RecordedRequest) -> int:
    """Add a request to a recording, and return how many bytes it took."""
    arrays: dict[str, np.ndarray] = {"state": np.asarray(request.observation.state)}
    for name, picture in request.observation.images.items():
        arrays[f"{IMAGE}{name}"] = np.asarray(picture)
    optional = {"noise": request.noise, "actions": request.actions}
    if request.continuation is not None:
        optional["planned"] = request.continuation.actions
    arrays |= {name: array for name, array in optional.items() if array is not None}
    path = folder / f"{request.line.number:06d}.npz"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    partial.replace(path)
    text = json.dumps(asdict(request.line), allow_nan=False) + "\n"
    with (folder / REQUESTS).open("a", encoding="utf-8") as file:
        file.write(text)
    return path.stat().st_size + len(text)


def is_recording(folder: Path) -> bool:
    """Return whether a folder holds a recording of a server."""
    return (folder / RECORDING).is_file()


def read_recording(folder: Path) -> tuple[RecordedPolicy, Iterator[RecordedRequest]]:
    """Return which policy answered, and the requests in their order; ValueError if something is damaged."""
    return read_record(RecordedPolicy, folder / RECORDING), _requests(folder)


def _requests(folder: Path) -> Iterator[RecordedRequest]:
    path = folder / REQUESTS
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = from_data(Line, json.loads(text))
                with np.load(folder / f"{line.number:06d}.npz", allow_pickle=False) as arrays:
                    yield _request(line, arrays)
            except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
                raise ValueError(f"{folder}: the request {text[:60]!r} cannot be read: {error}") from None


def _request(line: Line, arrays: Mapping[str, Any]) -> RecordedRequest:
    images = {name.removeprefix(IMAGE): arrays[name] for name in arrays if name.startswith(IMAGE)}
    continuation = None
    if line.delay >= 0:
        continuation = Continuation(
            actions=arrays["planned"],
            delay=line.delay,
            execution=line.execution,
            method=line.method,  # pyright: ignore[reportArgumentType]
        )
    return RecordedRequest(
        line=line,
        observation=Observation(images=images, state=arrays["state"], instruction=line.instruction),
        noise=arrays.get("noise"),
        continuation=continuation,
        actions=arrays.get("actions"),
    )
