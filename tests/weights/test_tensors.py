"""All kinds of checkpoints are read in the same way, part by part; numpy's archives are checked before."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from pizero.weights.npz import NpzFile
from pizero.weights.sources import open_tensors
from pizero.weights.tensors import TensorInfo, TensorSource, part_of
from tests.orbax_writer import write_orbax

ARRAYS: dict[str, np.ndarray] = {
    "llm/layers/mlp": np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32),
    "llm/half": np.array([[1.5, -2.0]], dtype=np.float16),
    "llm/brain": np.array([[1.0, -3.0], [0.007, 1e30]], dtype=np.float32).astype(ml_dtypes.bfloat16),
    "img/steps": np.array([2**62, -1]),
    "img/valid": np.array([True, False, True]),
    "img/bytes": np.arange(250, 256, dtype=np.uint8).reshape(2, 3),
    "scalar": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "zeros": np.zeros((2, 2), dtype=np.float32),
}


def as_tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, by way of float32 for bfloat16, which holds all of its numbers."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)


TENSORS = {name: as_tensor(array) for name, array in ARRAYS.items()}


def a_file(folder: Path) -> Path:
    save_file(TENSORS, folder / "any name")
    return folder / "any name"


def shards(folder: Path) -> Path:
    names = list(TENSORS)
    for shard, part in (("one", names[::2]), ("two", names[1::2])):
        save_file({name: TENSORS[name] for name in part}, folder / shard)
    weight_map = ", ".join(f'"{name}": "{("one", "two")[i % 2]}"' for i, name in enumerate(names))
    text = '{"metadata": {"total_size": 1}, "weight_map": {' + weight_map + "}}"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return folder


def orbax(folder: Path) -> Path:
    write_orbax(folder / "params", ARRAYS)
    return folder


def archive(folder: Path) -> Path:
    path = folder / "pt_224.npz"
    np.savez(path, **{f"params/{name}": array for name, array in ARRAYS.items()})
    return path


def packed_archive(folder: Path) -> Path:
    path = folder / "weights.safetensors"
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: np.array(array, order="F") for name, array in ARRAYS.items()})
    return path


@pytest.fixture(params=[a_file, shards, orbax, archive, packed_archive], ids=lambda make: make.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> TensorSource:
    return open_tensors(request.param(tmp_path))


def test_every_kind_gives_the_same_tensors(source: TensorSource, tmp_path: Path) -> None:
    assert str(tmp_path) in source.description
    assert dict(source.infos) == {
        name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype) for name, tensor in TENSORS.items()
    }
    for name, tensor in TENSORS.items():
        found = source.read(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor), name
        found.zero_()  # is ours to change: the next read is not touched by it
        assert torch.equal(source.read(name), tensor), name


@pytest.mark.parametrize("index", [(0,), (2,), (1, 3), (2, 0, 4)])
def test_parts(source: TensorSource, index: tuple[int, ...]) -> None:
    part = source.read("llm/layers/mlp", index)
    assert torch.equal(part, TENSORS["llm/layers/mlp"][index])
    assert part.untyped_storage().nbytes() == part.numel() * 4
    assert torch.equal(source.read("llm/brain", (1,)), TENSORS["llm/brain"][1])


@pytest.mark.parametrize("index", [(3,), (-1,), (0, 4), (0, 0, 0, 0)])
def test_a_part_that_is_not_there_is_an_error(source: TensorSource, index: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"llm/layers/mlp of shape \[3, 4, 5\] has no part \["):
        source.read("llm/layers/mlp", index)


def test_a_misspelt_name_is_told_the_nearest(source: TensorSource) -> None:
    with pytest.raises(ValueError, match="has no tensor 'llm/layer/mlp': did you mean 'llm/layers/mlp'"):
        source.read("llm/layer/mlp")


@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.integers(-6, 6), max_size=5))
def test_a_part_is_what_torch_takes_it_for(shape: list[int], index: list[int]) -> None:
    infos = {"a": TensorInfo(shape=tuple(shape), dtype=torch.float32)}
    try:
        expected = tuple(torch.empty(shape)[tuple(index)].shape)
    except IndexError:
        expected = None
    if expected is None or min(index, default=0) < 0:
        with pytest.raises(ValueError, match="has no part"):
            part_of(infos, "a", tuple(index), "a file")
    else:
        assert part_of(infos, "a", tuple(index), "a file").shape == expected


def npy(header: str, data: bytes, *, version: int = 1) -> bytes:
    text = header.encode("latin1")
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(text))
        + text
        + data
    )


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
PAIR = npy(HEADER.format("<f4", "(2,)"), b"0" * 8)
BAD_ARCHIVES: dict[str, tuple[bytes, str]] = {
    "no arrays": (zipped(), "expected arrays in the archive, found none"),
    "text": (zipped(**{"a.npy": b"hello"}), "a.npy is not a numpy array"),
    "an empty member": (zipped(**{"a.npy": b""}), "a.npy is not a numpy array"),
    "a future version": (zipped(**{"a.npy": npy("{}", b"", version=3)}), r"found \(3, 0\)"),
    "code in the header": (
        zipped(**{"a.npy": npy("__import__('os').mkdir('executed')", b"")}),
        "a.npy is not a numpy array",
    ),
    "an open bracket": (zipped(**{"a.npy": npy("{'descr': (", b"")}), "a.npy is not a numpy array"),
    "texts": (
        zipped(**{"a.npy": npy(HEADER.format("<U1", "(2,)"), b"0" * 8)}),
        "a: the dtype <U1 is not read",
    ),
    "the other byte order": (
        zipped(**{"a.npy": npy(HEADER.format(">f4", "(2,)"), b"0" * 8)}),
        "a: the dtype >f4 is not read",
    ),
    "too short": (
        zipped(**{"a.npy": npy(HEADER.format("<f4", "(3,)"), b"0" * 8)}),
        r"a: 8 bytes are not an array \[3\] of <f4",
    ),
    "a terabyte of nothing": (
        zipped(**{"a.npy": npy(HEADER.format("<f4", "(1000000, 1000000)"), b"0" * 8)}),
        "8 bytes are not an array",
    ),
    "too long": (zipped(**{"a.npy": PAIR + b"0"}), r"a: 9 bytes are not an array \[2\]"),
    "a negative size": (zipped(**{"a.npy": npy(HEADER.format("<f4", "(-1, -2)"), b"0" * 8)}), "not an array"),
    "twice": (
        zipped(**{"a.npy": PAIR, "params/a.npy": PAIR}),
        "a is there twice, as a.npy and params/a.npy",
    ),
}


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_a_bad_archive_is_one_clear_error(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, message = BAD_ARCHIVES[what]
    monkeypatch.chdir(tmp_path)
    Path("weights.npz").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        NpzFile(Path("weights.npz"))
    assert str(caught.value).startswith("weights.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


class Trap:
    """A pickle that makes a folder when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_python_objects_are_refused_and_all_problems_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("weights.npz", trap=np.array([Trap()], dtype=object), text=np.array(["a"]), fine=np.ones(2))
    with pytest.raises(ValueError, match=r"trap holds Python objects, which are a pickle.*; text: the dtype"):
        NpzFile(Path("weights.npz"))
    assert not Path("executed").exists()
    np.load("weights.npz", allow_pickle=True)["trap"]
    assert Path("executed").is_dir()  # the trap was set


def test_numbers_damaged_after_opening_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.random.default_rng(0).normal(size=10_000))
    damaged = bytearray(path.read_bytes())
    damaged[50_000] ^= 1
    path.write_bytes(damaged)
    source = NpzFile(path)
    with pytest.raises(
        ValueError, match=r"weights.npz is damaged: a cannot be read: Bad CRC-32.*copy it again"
    ):
        source.read("a")


@given(place=st.floats(0, 1, exclude_max=True), data=st.binary(max_size=6), cut=st.integers(0, 6))
def test_random_damage_gives_the_numbers_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, place: float, data: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("random") / "x.npz"
    np.savez(path, a=np.arange(7.0), b=np.ones((2, 3), dtype=np.float32))
    whole = path.read_bytes()
    start = int(place * len(whole))
    path.write_bytes(whole[:start] + data + whole[start + cut :])
    found, problem = [], ""
    try:
        source = NpzFile(path)
        found = [source.read(name).sum().item() for name in source.infos]
    except ValueError as error:
        problem = str(error)
    assert str(path) in problem or (found and set(found) <= {21.0, 6.0})
