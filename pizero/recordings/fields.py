"""From the fields of one recorded episode to an episode of a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from pizero.data.lerobot_features import (
    ACTION,
    STATE,
    Codec,
    DatasetLayout,
    Feature,
    Pictures,
    WrittenVersion,
    image_key,
)
from pizero.data.lerobot_writer import Episode
from pizero.recordings.layouts import RecordingLayout, parse_field
from pizero.recordings.source import LeftOutError, RecordingError


@runtime_checkable
class Fields(Protocol):
    """One episode's fields by path; RecordingError if there is no such field, or if it is damaged."""

    def values(self, path: str) -> np.ndarray:
        """Return numbers, or texts as an array of strings, `[step, …]`."""
        ...

    def pictures(self, path: str) -> Pictures:
        """Return the pictures of a camera."""
        ...

    def texts(self, path: str) -> list[str]:
        """Return a text for each step, or one for all; an empty list if the episode has no such field."""
        ...


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What episodes without words are told: `task` for all of them, or else they may be left out."""

    task: str | None = None
    skip_unlabelled: bool = False


def assemble(layout: RecordingLayout, fields: Fields, wording: Wording, where: str) -> Episode:
    """Return the episode that the fields make; `where` names it in errors.

    RecordingError if something is missing or damaged, LeftOutError if the layout's rules leave it out.
    """
    for path, pattern in layout.only.items():
        texts = fields.texts(path)
        if not any(re.search(pattern, text) for text in texts):
            found = repr(texts[0]) if texts else "nothing"
            raise LeftOutError(f"{where}: {path} does not contain {pattern!r} ({found})")
    state = _vector(layout.state, fields, where)
    if layout.action:
        action = _vector(layout.action, fields, where)
    else:
        action = np.concatenate([state[1:], state[-1:]])
    columns = {STATE: state, ACTION: action}
    for key, path in layout.columns.items():
        columns[key] = _part(path, fields, where)
    length = len(state)
    images: dict[str, Pictures] = {
        image_key(camera): fields.pictures(path) for camera, path in layout.cameras.items()
    }
    for key, rows in (*columns.items(), *images.items()):
        if len(rows) != length:
            raise RecordingError(f"{where}: {key!r} has {len(rows)} steps, the state has {length}")
    if length == 0:
        raise RecordingError(f"{where}: expected at least one step, found none")
    return Episode(columns=columns, images=images, tasks=_tasks(layout, fields, wording, length, where))


def _part(field_path: str, fields: Fields, where: str) -> np.ndarray:
    path, wanted = parse_field(field_path)
    values = fields.values(path)
    if wanted == slice(None):
        return values if values.ndim > 1 else values[:, None]
    if values.ndim < 2:
        raise RecordingError(f"{where}: {path} has no axis of which {field_path} could be a part")
    part = values[..., wanted]
    if part.shape[-1] == 0:
        raise RecordingError(
            f"{where}: {field_path} is empty: the last axis of {path} has {values.shape[-1]}"
        )
    return part


def _vector(paths: tuple[str, ...], fields: Fields, where: str) -> np.ndarray:
    parts = []
    for path in paths:
        part = _part(path, fields, where)
        if part.dtype.kind not in "fiub":
            raise RecordingError(f"{where}: expected numbers in {path}, found {part.dtype}")
        parts.append(part.reshape(len(part), int(np.prod(part.shape[1:]))).astype(np.float32))
    lengths = {path: len(part) for path, part in zip(paths, parts, strict=True)}
    if len(set(lengths.values())) > 1:
        raise RecordingError(f"{where}: fields of different numbers of steps: {lengths}")
    return np.concatenate(parts, axis=1)


def _tasks(
    layout: RecordingLayout, fields: Fields, wording: Wording, length: int, where: str
) -> str | tuple[str, ...]:
    words = [""] * length
    for path in layout.instructions:
        texts = [text.strip() for text in fields.texts(path)]
        if len(texts) not in (0, 1, length):
            raise RecordingError(f"{where}: {path} has {len(texts)} texts for {length} steps")
        said = texts * length if len(texts) == 1 else texts
        words = [word or text for word, text in zip(words, said or words, strict=True)]
    last = next((word for word in words if word), wording.task)
    if last is None:
        message = f"{where}: no instruction" + (
            f" in {', '.join(layout.instructions)}" if layout.instructions else ""
        )
        if wording.skip_unlabelled:
            raise LeftOutError(message)
        raise RecordingError(
            f"{message}; --task gives one to episodes without, --skip-unlabelled leaves them out"
        )
    filled: list[str] = []
    for word in words:
        last = word or last
        filled.append(last)
    return filled[0] if len(set(filled)) == 1 else tuple(filled)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How the dataset is written; None leaves rate and robot to the recording's layout.

    `pictures` are video files, or PNG files inside the columns, which lose nothing and are many times larger.
    """

    fps: float | None = None
    robot: str | None = None
    version: WrittenVersion = "v3.0"
    pictures: Literal["video", "image"] = "video"
    codec: Codec = "h264"
    quality: int = 18


def dataset_layout(layout: RecordingLayout, sample: Episode, writing: Writing) -> DatasetLayout:
    """Return the layout of a dataset of episodes like `sample`; ValueError if it cannot be written."""
    fps = layout.fps if writing.fps is None else writing.fps
    if fps is None:
        raise ValueError(
            f"expected the rate of layout {layout.name!r}, which its recordings do not tell; --fps gives it"
        )
    names = {STATE: layout.state_names, ACTION: layout.action_names or _action_names(layout)}
    features: dict[str, Feature] = {}
    for key, values in sample.columns.items():
        dtype = "string" if values.dtype.kind in "UO" else values.dtype.name
        shape = tuple(values.shape[1:]) or (1,)
        known = names.get(key)
        if known is not None and len(known) != shape[0]:
            raise ValueError(
                f"layout {layout.name!r} names {len(known)} numbers of {key!r}, the recording has "
                f"{shape[0]}; copy the layout into a JSON file and correct it"
            )
        features[key] = Feature(dtype=dtype, shape=shape, names=known)
    for key, frames in sample.images.items():
        feature = Feature(dtype=writing.pictures, shape=frames[0].shape)
        if writing.pictures == "video" and (feature.shape[0] % 2 or feature.shape[1] % 2):
            raise ValueError(
                f"{key!r} has pictures of {feature.shape[1]}×{feature.shape[0]}, and video needs even sides; "
                f"--pictures image keeps them as they are"
            )
        features[key] = feature
    return DatasetLayout(
        features=features,
        fps=fps,
        robot_type=writing.robot or layout.robot,
        version=writing.version,
        codec=writing.codec,
        quality=writing.quality,
    )


def _action_names(layout: RecordingLayout) -> tuple[str, ...] | None:
    return None if layout.action else layout.state_names


def with_names(
    layout: RecordingLayout, dimensions: Mapping[str, int], names: tuple[str, ...]
) -> RecordingLayout:
    """Return the layout with names for the state and the action that have as many numbers."""
    fits = {f"{what}_names": names for what, count in dimensions.items() if count == len(names)}
    return replace(layout, **fits)
