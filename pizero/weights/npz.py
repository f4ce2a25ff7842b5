"""Tensors in a numpy archive, as PaliGemma's weights are published."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pizero.weights.tensors import NUMPY_DTYPES, TensorInfo, part_of

DTYPES = NUMPY_DTYPES | {"|V2": torch.bfloat16}
"""numpy has no bfloat16 and stores its two bytes as nameless ones."""
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # encrypted, or packed in an unknown way
)
"""What reading a damaged archive may raise."""


class NpzFile:
    """An `.npz` archive; shapes are read from its headers, and a leading `params/` is dropped from names.

    ValueError lists every problem: arrays of Python objects (those are pickles), unknown dtypes, names that
    occur twice, sizes that do not fit the shape.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.description = path, f"numpy archive {path}"
        self.members: dict[str, str] = {}
        self._infos: dict[str, TensorInfo] = {}
        problems = []
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    problem = self._add(archive, member)
                    problems += [problem] if problem else []
        except UNREADABLE as error:
            raise ValueError(
                f"{path} is not a whole .npz archive: {str(error)[:200]}; copy it again"
            ) from None
        if problems:
            raise ValueError(f"{path} is not read: {'; '.join(problems[:10])}")
        if not self.members:
            raise ValueError(f"{path}: expected arrays in the archive, found none")

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return shape and dtype of every array."""
        return self._infos

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return an array, or the part of it at `index`; the whole array is decompressed either way."""
        part_of(self._infos, name, index, self.description)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[name]) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except UNREADABLE as error:
            raise ValueError(
                f"{self.path} is damaged: {name} cannot be read: {str(error)[:200]}; copy it again"
            ) from None
        tensor = torch.from_numpy(array.view(np.int16) if array.dtype.kind == "V" else array)
        whole = tensor.view(self._infos[name].dtype)
        return whole[index].clone() if index else whole.contiguous()

    def _add(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
        """Take one array of the archive; return what is wrong with it."""
        name = member.filename.removesuffix(".npy").removeprefix("params/")
        try:
            shape, dtype, num_bytes = _read_header(archive, member)
        except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:
            return f"{member.filename} is not a numpy array: {str(error)[:200]}"
        if dtype.hasobject:
            return f"{name} holds Python objects, which are a pickle and could run any code"
        if dtype.str not in DTYPES:
            return f"{name}: the dtype {dtype.str} is not read; known: {', '.join(DTYPES)}"
        if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != num_bytes:
            return f"{name}: {num_bytes} bytes are not an array {list(shape)} of {dtype.str}"
        if name in self.members:
            return f"{name} is there twice, as {self.members[name]} and {member.filename}"
        self.members[name] = member.filename
        self._infos[name] = TensorInfo(shape=tuple(shape), dtype=DTYPES[dtype.str])
        return ""


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return the shape and dtype that an array's header tells, and how many bytes follow it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"expected version 1 or 2 of the format, found {version}")
        return shape, dtype, member.file_size - file.tell()
