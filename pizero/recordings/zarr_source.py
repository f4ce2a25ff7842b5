"""Replay buffers of Diffusion Policy and UMI (Chi et al. 2023 and 2024); the only file that knows Zarr."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pizero.data.lerobot_writer import Episode
from pizero.names import nearest
from pizero.recordings.fields import Wording, assemble
from pizero.recordings.layouts import PUSHT_LAYOUT, RecordingLayout, parse_field
from pizero.recordings.pictures import RowPictures
from pizero.recordings.source import RecordingError, check_size
from pizero.recordings.zarr_files import FAULTS, ZarrFiles

if TYPE_CHECKING:
    import zarr

ENDS = "meta/episode_ends"
UMI_FPS = 59.94
"""A GoPro's rate, at which UMI's pipeline writes its frames; the recording itself does not tell."""


@dataclass(frozen=True, kw_only=True)
class ZarrSource:
    """A replay buffer: arrays of all steps under `data`, and where each episode ends; a key is a number."""

    path: Path
    layout: RecordingLayout
    wording: Wording

    def episode_keys(self) -> list[str]:
        """Return the episodes' numbers."""
        return [f"{index:06d}" for index in range(len(_buffer(self.path).ends))]

    def field_names(self) -> dict[str, str]:
        """Return the arrays."""
        buffer = _buffer(self.path)
        return {name: _words(buffer.files.metadata(name)) for name in buffer.files.arrays}

    def content_hash(self, key: str) -> str:
        """Return a hash of the episode's rows, packed where a chunk is one row."""
        buffer, digest = _buffer(self.path), hashlib.sha256()
        start, stop = buffer.rows(int(key))
        for name in _arrays_of(self.layout):
            if name not in buffer.files.arrays:
                continue
            array = buffer.array(name)
            digest.update(f"{name} {array.dtype} {array.shape[1:]}".encode())
            if tuple(array.chunks) == (1, *array.shape[1:]):
                for row in range(start, stop):
                    packed = buffer.chunk(name, row)
                    digest.update(b"-" if packed is None else f"{len(packed)} ".encode() + packed)
            else:
                digest.update(np.ascontiguousarray(buffer.read(name, start, stop)).tobytes())
        return digest.hexdigest()

    def read(self, key: str) -> Episode:
        """Return one episode's rows; its pictures are unpacked while they are used."""
        buffer = _buffer(self.path)
        start, stop = buffer.rows(int(key))
        where = f"{self.path}, episode {key}"
        return assemble(self.layout, RowFields(buffer, start, stop, where), self.wording, where)


class ReplayBuffer:
    """An open replay buffer."""

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, ZarrFiles(path)
        self._arrays: dict[str, Any] = {}
        if ENDS not in self.files.arrays:
            raise ValueError(
                f"{path}: expected a replay buffer with {ENDS}, found "
                f"{', '.join(self.files.arrays) or 'no arrays'}"
            )
        shape = self.array(ENDS).shape
        self.ends = (
            self.read(ENDS, 0, shape[0]).astype(np.int64) if len(shape) == 1 else np.zeros(0, np.int64)
        )
        if len(self.ends) == 0 or (np.diff(self.ends, prepend=0) < 0).any():
            raise ValueError(f"{path}: expected {ENDS} to rise, found {self.ends[:10].tolist()} …")

    def rows(self, index: int) -> tuple[int, int]:
        """Return the first row of an episode and the one behind its last."""
        return int(self.ends[index - 1]) if index else 0, int(self.ends[index])

    def array(self, name: str) -> Any:
        """Return an array; ValueError if it is not there or not safe to unpack."""
        if name in self._arrays:
            return self._arrays[name]
        if name not in self.files.arrays:
            raise RecordingError(f"{self.path}: no array {name!r}: {nearest(name, self.files.arrays)}")
        self.files.check_codecs(name)
        try:
            return self._arrays.setdefault(name, _open_array(self._store, name))
        except FAULTS as error:
            raise ValueError(
                f"{self.path}: {name} cannot be opened ({error}); pictures need imagecodecs: pip install "
                f"'pizero[zarr]'"
            ) from None

    @functools.cached_property
    def _store(self) -> Any:
        return _open_store(self.path)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return some rows of an array."""
        array = self.array(name)
        if stop > array.shape[0]:
            raise RecordingError(f"{self.path}: {name} has {array.shape[0]} rows, its episodes need {stop}")
        check_size((stop - start) * array.nbytes // max(array.shape[0], 1), f"{self.path}: {name}")
        try:
            return np.asarray(array[start:stop])
        except FAULTS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise RecordingError(
                f"{self.path}: {name}, rows {start} to {stop - 1} cannot be unpacked ({reason})"
            ) from None

    def chunk(self, name: str, row: int) -> bytes | None:
        """Return the packed bytes of the chunk that has a row; None if none is stored."""
        array = self.array(name)
        place = (row // array.chunks[0], *(0 for _ in array.shape[1:]))
        return self.files.read(f"{name}/{array.metadata.encode_chunk_key(place)}")


class RowFields:
    """The fields of one episode of a replay buffer."""

    def __init__(self, buffer: ReplayBuffer, start: int, stop: int, where: str) -> None:
        self.buffer, self.start, self.stop, self.where = buffer, start, stop, where

    def values(self, path: str) -> np.ndarray:
        """Return the rows of an array."""
        return self.buffer.read(path, self.start, self.stop)

    def pictures(self, path: str) -> RowPictures:
        """Return pictures by chunks."""
        array = self.buffer.array(path)

        def fetch(start: int, stop: int) -> np.ndarray:
            first, behind = self.start + start, self.start + stop
            if any(self.buffer.chunk(path, row) is None for row in range(first, behind)):
                raise RecordingError(
                    f"{self.where}: {path} has no chunk for a row from {first} on: the copy is not complete "
                    f"(or a black picture was not stored; then leave this camera out of the layout)"
                )
            return self.buffer.read(path, first, behind)

        return RowPictures(fetch, self.stop - self.start, f"{self.where}: {path}", block=array.chunks[0])

    def texts(self, path: str) -> list[str]:
        """Return the texts of an array of strings."""
        if path not in self.buffer.files.arrays:
            return []
        return [str(text) for text in self.values(path).reshape(-1)]


def open_zarr(
    source: Path, *, layout: RecordingLayout | None = None, wording: Wording | None = None
) -> ZarrSource:
    """Open a replay buffer; without a layout, UMI's, Push-T's or the plain one is found."""
    buffer = _buffer(source)
    shapes = {name: tuple(buffer.files.metadata(name)["shape"]) for name in buffer.files.arrays}
    chosen = layout or guess_layout(shapes, source)
    return ZarrSource(path=source, layout=chosen, wording=wording or Wording())


def guess_layout(shapes: dict[str, tuple[int, ...]], path: Path) -> RecordingLayout:
    """Return the layout that a replay buffer's arrays suggest; ValueError lists them if they suggest none."""
    robots = sorted({match[1] for name in shapes if (match := re.match(r"data/robot(\d+)_eef_pos$", name))})
    cameras = {
        name.removeprefix("data/"): name
        for name, shape in shapes.items()
        if name.startswith("data/") and len(shape) == 4 and shape[3] == 3
    }
    if robots:
        parts = [
            [f"data/robot{robot}_{part}" for part in ("eef_pos", "eef_rot_axis_angle", "gripper_width")]
            for robot in robots
        ]
        axes = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper_width")
        prefixes = [f"robot{robot}_" if len(robots) > 1 else "" for robot in robots]
        return RecordingLayout(
            name="umi",
            state=tuple(name for part in parts for name in part),
            cameras=cameras,
            fps=UMI_FPS,
            robot="umi",
            state_names=tuple(prefix + axis for prefix in prefixes for axis in axes),
        )
    if {"data/img", "data/keypoint", "data/state", "data/action"} <= set(shapes):
        return PUSHT_LAYOUT
    if {"data/state", "data/action"} <= set(shapes):
        return RecordingLayout(
            name="replay-buffer", state=("data/state",), action=("data/action",), cameras=cameras
        )
    listing = "\n".join(f"  {name}: {list(shape)}" for name, shape in sorted(shapes.items()))
    raise ValueError(
        f"cannot tell which arrays of {path} make state and action; write a layout file and name it with "
        f"--layout. The arrays are\n{listing}"
    )


def _buffer(path: Path) -> ReplayBuffer:
    """Return the open replay buffer; it is opened again once it was changed."""
    marks = [path, path / ENDS, path / ENDS / "0", path / ENDS / "c" / "0"]
    return _opened(path, tuple(mark.stat().st_mtime_ns for mark in marks if mark.exists()))


@functools.lru_cache(maxsize=4)
def _opened(path: Path, changed: tuple[int, ...]) -> ReplayBuffer:
    return ReplayBuffer(path)


def _arrays_of(layout: RecordingLayout) -> Sequence[str]:
    fields = (*layout.state, *layout.action, *layout.columns.values())
    paths = [parse_field(path)[0] for path in fields]
    return list(dict.fromkeys([*paths, *layout.cameras.values(), *layout.instructions, *layout.only]))


def _words(metadata: dict[str, Any]) -> str:
    return f"{metadata.get('dtype', metadata.get('data_type'))} {metadata['shape']}"


def _open_store(path: Path) -> Any:
    try:
        from zarr.storage import LocalStore, ZipStore
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading Zarr needs zarr: pip install 'pizero[zarr]'") from None
    if importlib.util.find_spec("imagecodecs") is not None:
        from imagecodecs.numcodecs import register_codecs

        register_codecs(verbose=False)
    return LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")


def _open_array(store: Any, name: str) -> zarr.Array:
    import zarr

    return zarr.open_array(store=store, path=name, mode="r")
