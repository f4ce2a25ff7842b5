"""Which kind of checkpoint something is: from its content, never from its name, and never by executing it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pizero.weights.npz import NpzFile
from pizero.weights.orbax import OrbaxFolder, find_orbax
from pizero.weights.safetensors_files import SafetensorsFile, ShardedSafetensors
from pizero.weights.tensors import TensorSource

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
EXPECTED = (
    "expected a safetensors file, a folder with model.safetensors or its shards, an Orbax checkpoint of "
    "openpi, or a PaliGemma .npz"
)


def open_tensors(path: Path) -> TensorSource:
    """Open a checkpoint; ValueError says what was expected if it is none, and refuses pickles by name."""
    if path.is_dir():
        orbax = find_orbax(path)
        if orbax is not None:
            return OrbaxFolder(orbax)
        if (path / "model.safetensors.index.json").is_file():
            return ShardedSafetensors(path / "model.safetensors.index.json")
        if (path / "model.safetensors").is_file():
            return SafetensorsFile(path / "model.safetensors")
        pickles = [each.name for each in sorted(path.iterdir()) if each.suffix in PICKLES]
        if pickles:
            raise ValueError(_refused(path / pickles[0]))
        found = ", ".join(sorted(each.name for each in path.iterdir())[:10]) or "an empty folder"
        raise ValueError(f"{EXPECTED}; {path} holds {found}")
    if not path.is_file():
        raise ValueError(f"{EXPECTED}; there is nothing at {path}")
    if is_pickle(path):
        raise ValueError(_refused(path))
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return NpzFile(path)
    return SafetensorsFile(path)


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle or an archive that holds one; only its first bytes are read."""
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80" and len(start) == 2 and start[1] <= 5:
        with path.open("rb") as file:
            head = file.read(8)
        # A safetensors header of this length would be followed by zeros and a brace.
        return head[2:8] != b"\0" * 6
    if start == b"PK" and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            return False  # whoever opens it says what is wrong with it
    return False


def _refused(path: Path) -> str:
    return f"{path} is a pickle, which could run any code; it is not read. Save its tensors as safetensors"
