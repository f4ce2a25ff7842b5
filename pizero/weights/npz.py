"""Tensors in a numpy archive, as PaliGemma's weights are published."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pizero.names import nearest
from pizero.weights.tensors import TensorInfo


class NpzFile:
    """An `.npz` archive; shapes are read from its headers, and a leading `params/` is dropped from names.

    ValueError if it is no archive, or if an array holds Python objects: those are pickles.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.description = path, f"numpy archive {path}"
        self.members: dict[str, str] = {}
        self._infos: dict[str, TensorInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    self._add(archive, member)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise ValueError(f"{path} is not a whole .npz archive: {error}") from None

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every array."""
        return self._infos

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return an array, or the part of it at `index`; the whole array is decompressed either way."""
        if name not in self._infos:
            raise ValueError(f"{self.description}: no array {name!r}: {nearest(name, self._infos)}")
        with zipfile.ZipFile(self.path) as archive, archive.open(self.members[name]) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        return torch.from_numpy(np.ascontiguousarray(array[index]).copy())

    def _add(self, archive: zipfile.ZipFile, member: str) -> None:
        with archive.open(member) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, _, dtype = read(file)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{self.path}: {member} is not a numpy array: {error}") from None
        if dtype.hasobject:
            raise ValueError(
                f"{self.path}: {member} holds Python objects, which are a pickle and could run any code; "
                f"the archive is not read"
            )
        name = member.removesuffix(".npy").removeprefix("params/")
        self.members[name] = member
        self._infos[name] = TensorInfo(shape=shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
