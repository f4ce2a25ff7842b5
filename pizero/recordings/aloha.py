"""ALOHA's recordings (Zhao et al. 2023): one HDF5 file an episode; the only file that knows HDF5."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pizero.data.lerobot_features import Pictures
from pizero.data.lerobot_writer import Episode
from pizero.names import nearest
from pizero.recordings.fields import Wording, assemble, with_names
from pizero.recordings.layouts import RecordingLayout
from pizero.recordings.pictures import EncodedPictures, RowPictures
from pizero.recordings.source import RecordingError, check_size
from pizero.robots import ALOHA

if TYPE_CHECKING:
    import h5py

Channels = Literal["rgb", "bgr"]
IMAGES = "observations/images"
FAULTS = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""What h5py raises for a file that is damaged."""

TEXT_NAMES = ("language_instruction", "instruction", "language_raw", "task", "prompt")
COLUMNS = {"observation.velocity": "observations/qvel", "observation.effort": "observations/effort"}

ALOHA_LAYOUT = RecordingLayout(
    name="aloha",
    state=("observations/qpos",),
    action=("action",),
    instructions=tuple(place + name for name in TEXT_NAMES for place in ("@", "")),
    fps=50.0,
    robot="aloha",
)
"""Joint positions and targets at 50 Hz; cameras and further columns are those that the files have."""


@dataclass(frozen=True, kw_only=True)
class AlohaSource:
    """A folder of HDF5 files; a key is a file's path in it.

    `channels` says what the stored pictures are: files written with OpenCV from RGB arrays are `bgr`.
    """

    folder: Path
    layout: RecordingLayout
    wording: Wording
    channels: Channels = "rgb"

    def episode_keys(self) -> list[str]:
        """Return the files, `episode_2` before `episode_10`."""
        return [path.relative_to(self.folder).as_posix() for path in find_files(self.folder)]

    def field_names(self) -> dict[str, str]:
        """Return the fields of the first file that can be opened."""
        return _first_fields(self.folder)

    def content_hash(self, key: str) -> str:
        """Return the file's sha256."""
        with (self.folder / key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, key: str) -> Episode:
        """Return the episode of one file; its pictures are read while they are used."""
        path = self.folder / key
        return assemble(self.layout, FileFields(path, self.channels), self.wording, str(path))


class FileFields:
    """The fields of one file: paths of datasets, and attributes of the file as `@name`."""

    def __init__(self, path: Path, channels: Channels) -> None:
        self.path, self.channels = path, channels
        self.file = _open(path)

    def names(self) -> dict[str, str]:
        """Return every dataset with its type and shape, and every attribute."""
        try:
            found = {f"@{name}": "attribute" for name in self.file.attrs}
            self.file.visititems(lambda name, node: found.update(_described(name, node)))
        except FAULTS as error:
            raise RecordingError(f"{self.path} is damaged ({_first_line(error)})") from None
        return found

    def values(self, path: str) -> np.ndarray:
        """Return a dataset's numbers."""
        values = self._read(path, slice(None))
        return self._texts(path, values) if values.dtype.kind in "OS" else values

    def pictures(self, path: str) -> Pictures:
        """Return raw pictures row by row, or compressed ones as files; padding behind a file does no harm."""
        dataset, where = self._dataset(path), f"{self.path}: {path}"
        swapped = self.channels == "bgr"
        if dataset.ndim == 4:
            block = dataset.chunks[0] if dataset.chunks else 1
            return RowPictures(
                lambda start, stop: self._read(path, slice(start, stop)),
                len(dataset),
                where,
                block=block,
                swapped=swapped,
            )
        rows = self._read(path, slice(None))
        if dataset.ndim not in (1, 2) or rows.dtype.kind not in "uOSV" or rows.dtype == np.uint64:
            raise RecordingError(
                f"{where}: expected pictures [step, height, width, 3] or compressed rows, found "
                f"{dataset.dtype} {dataset.shape}"
            )
        return EncodedPictures([_bytes(row, where) for row in rows], where, swapped=swapped)

    def texts(self, path: str) -> list[str]:
        """Return the texts of an attribute or a dataset, none if it is not there."""
        try:
            if path.startswith("@"):
                known = path[1:] in self.file.attrs
                values = np.asarray(self.file.attrs[path[1:]]) if known else np.zeros(0)
            else:
                is_dataset = path in self.file and not hasattr(self.file[path], "keys")
                values = self._read(path, ()) if is_dataset else np.zeros(0)
        except RecordingError:
            raise
        except FAULTS as error:
            raise RecordingError(f"{self.path}: {path} cannot be read ({_first_line(error)})") from None
        return self._texts(path, values).tolist() if values.dtype.kind in "OSU" else []

    def _texts(self, path: str, values: np.ndarray) -> np.ndarray:
        try:
            texts = [
                str(text, "utf-8") if isinstance(text, bytes) else str(text)
                for text in values.reshape(-1).tolist()
            ]
        except UnicodeDecodeError as error:
            raise RecordingError(f"{self.path}: expected texts in UTF-8 in {path} ({error})") from None
        return np.array(texts, dtype=np.str_)

    def _dataset(self, path: str) -> h5py.Dataset:
        import h5py

        try:
            node = self.file.get(path)
        except FAULTS as error:
            raise RecordingError(f"{self.path}: {path} cannot be read ({_first_line(error)})") from None
        if not isinstance(node, h5py.Dataset):
            raise RecordingError(f"{self.path}: no dataset {path!r}: {nearest(path, self.names())}")
        if node.file.filename != self.file.filename or node.external or node.is_virtual:
            raise RecordingError(f"{self.path}: {path!r} lies in another file, which is not followed")
        return node

    def _read(self, path: str, rows: Any) -> np.ndarray:
        dataset = self._dataset(path)
        if not isinstance(rows, slice) or rows == slice(None):
            check_size(dataset.nbytes, f"{self.path}: {path}")
        try:
            return np.asarray(dataset[rows])
        except FAULTS as error:
            raise RecordingError(f"{self.path}: {path} cannot be read ({_first_line(error)})") from None


def open_aloha(
    source: Path,
    *,
    layout: RecordingLayout | None = None,
    wording: Wording | None = None,
    channels: Channels = "rgb",
) -> AlohaSource:
    """Open a folder of ALOHA's files; without a layout, cameras and columns are those of the first file.

    ValueError if there are no files, or none of them can be opened.
    """
    chosen = layout or _layout_of(_first_fields(source))
    return AlohaSource(folder=source, layout=chosen, wording=wording or Wording(), channels=channels)


def find_files(folder: Path) -> list[Path]:
    """Return the HDF5 files below a folder, numbers in their names in their order."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".hdf5", ".h5") and path.is_file()]
    if not paths:
        raise ValueError(f"expected files *.hdf5 or *.h5 in {folder}, found none")
    return sorted(paths, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def _first_fields(folder: Path) -> dict[str, str]:
    faults = []
    for path in find_files(folder):
        try:
            return FileFields(path, "rgb").names()
        except RecordingError as error:
            faults.append(str(error))
    raise ValueError(f"none of {len(faults)} files can be opened: {faults[0]}")


def _layout_of(names: dict[str, str]) -> RecordingLayout:
    cameras = {
        name.removeprefix(f"{IMAGES}/").replace("/", "_"): name
        for name in names
        if name.startswith(f"{IMAGES}/")
    }
    columns = {key: path for key, path in COLUMNS.items() if path in names}
    if "base_action" in names:
        columns["action.base"] = "base_action"
    missing = [path for path in (*ALOHA_LAYOUT.state, *ALOHA_LAYOUT.action) if path not in names]
    if missing:
        raise ValueError(
            f"expected ALOHA's fields, {', '.join(missing)} is not there; write a layout file and name it "
            f"with --layout. The fields are {', '.join(sorted(names))}"
        )
    layout = replace(ALOHA_LAYOUT, cameras=dict(sorted(cameras.items())), columns=columns)
    dimensions = {"state": _width(names["observations/qpos"]), "action": _width(names["action"])}
    return with_names(layout, dimensions, tuple(dimension.name for dimension in ALOHA.state))


def _width(words: str) -> int:
    sizes = re.findall(r"\d+", words.partition(" ")[2])
    return int(sizes[1]) if len(sizes) == 2 else 0


def _described(name: str, node: Any) -> dict[str, str]:
    return {str(name): f"{node.dtype} {list(node.shape)}"} if hasattr(node, "shape") else {}


def _open(path: Path) -> h5py.File:
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading HDF5 needs h5py: pip install 'pizero[hdf5]'") from None
    try:
        return h5py.File(path, "r")
    except FAULTS as error:
        raise RecordingError(f"{path} is no HDF5 file, or a damaged one ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _bytes(row: Any, where: str) -> bytes:
    if isinstance(row, bytes):
        return row
    values = np.asarray(row)
    if values.dtype.kind not in "uiV" or (values.dtype.itemsize != 1 and values.dtype.kind != "V"):
        raise RecordingError(f"{where}: expected rows of bytes, found {values.dtype}")
    return values.tobytes()
