"""Checkpoint files: read and written as other implementations do, and refused when anything is wrong."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pizero.weights.npz import NpzFile
from pizero.weights.orbax import OrbaxFolder
from pizero.weights.safetensors_files import (
    DTYPES,
    SafetensorsFile,
    ShardedSafetensors,
    write_safetensors,
)
from pizero.weights.sources import open_tensors
from pizero.weights.tensors import TensorInfo
from tests.orbax_writer import write_orbax


def some_tensors() -> dict[str, torch.Tensor]:
    """Return tensors of every dtype, one without axes and one without numbers."""
    tensors = {f"of.{dtype}": (torch.randn(3, 4, 5) * 50).to(dtype) for dtype in DTYPES.values()}
    return tensors | {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "π": torch.ones(2)}


def infos_of(tensors: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(shape=tuple(t.shape), dtype=t.dtype) for name, t in tensors.items()}


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for place in (tmp_path, tmp_path / "model.safetensors"):
        source = open_tensors(place)
        assert dict(source.infos) == infos_of(tensors)
        assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())
        for index in ((), (2,), (1, 3)):
            assert torch.equal(source.read("of.torch.bfloat16", index), tensors["of.torch.bfloat16"][index])


def test_what_is_written_safetensors_reads(tmp_path: Path) -> None:
    tensors = some_tensors()
    path = tmp_path / "out.safetensors"
    digest = write_safetensors(path, infos_of(tensors), iter(tensors.items()), metadata={"a": "b"})
    found = load_file(path)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    from pizero.weights.folder import sha256_of

    assert digest == sha256_of(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pairs: pairs[:-1],
        lambda pairs: [*pairs, ("more", torch.ones(1))],
        lambda pairs: pairs[::-1],
        lambda pairs: [(name, tensor.double()) for name, tensor in pairs],
        lambda pairs: [(name, tensor[:1]) for name, tensor in pairs],
    ],
)
def test_a_stream_that_breaks_its_promise_leaves_no_file(
    spoil: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    tensors = {"a": torch.randn(2, 3), "b": torch.randn(4)}
    with pytest.raises(ValueError, match=r"expected|never came"):
        write_safetensors(tmp_path / "x.safetensors", infos_of(tensors), spoil(list(tensors.items())))
    assert not list(tmp_path.iterdir())


def file_of(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, stop: int, dtype: str = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a safetensors file"),
    "a few bytes": (b"\x10\0\0", "is not a safetensors file"),
    "truncated header": (file_of({"a": entry(0, 8)})[:20], "truncated"),
    "oversized header": (file_of({}, length=2**40), "announces a header of 1099511627776 bytes"),
    "negative length": (file_of({}, length=2**64 - 1), "announces a header"),
    "no JSON": (file_of(b"not json at all"), "no readable safetensors header"),
    "deep JSON": (file_of(b"[" * 100_000), "no readable safetensors header"),
    "a list": (file_of([1, 2]), "a header that names tensors"),
    "twice": (file_of(b'{"a":1,"a":2}'), "twice in the header: a"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [2]}}), "a: expected dtype, shape and data_off"),
    "unknown dtype": (file_of({"a": entry(0, 8, "F8_E4M3")}, b"0" * 8), "'F8_E4M3' is not read"),
    "negative shape": (file_of({"a": entry(0, 8, "F32", [-2])}, b"0" * 8), "expected a shape"),
    "shape of floats": (file_of({"a": entry(0, 8, "F32", [2.0])}, b"0" * 8), "expected a shape"),
    "huge shape": (file_of({"a": entry(0, 8, "F32", [2**61, 2**61])}, b"0" * 8), "takes"),
    "wrong size": (file_of({"a": entry(0, 12)}, b"0" * 12), r"takes 8 bytes, its offsets are \[0, 12\]"),
    "overlap": (file_of({"a": entry(0, 8), "b": entry(4, 12)}, b"0" * 12), "b overlaps a"),
    "hole": (file_of({"a": entry(0, 8), "b": entry(12, 20)}, b"0" * 20), "4 bytes before b belong to no"),
    "too short": (file_of({"a": entry(0, 8)}, b"0" * 4), "a ends 4 bytes after the file does"),
    "too long": (file_of({"a": entry(0, 8)}, b"0" * 9), "1 bytes after a belong to no tensor"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_damaged_file_is_refused(what: str, tmp_path: Path) -> None:
    data, message = BAD_FILES[what]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_tensors(tmp_path)


def test_all_problems_of_a_file_are_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"a": entry(0, 8, "F7"), "b": entry(0, 9), "c": entry(3, 11)}, b"0" * 20))
    with pytest.raises(ValueError, match=r"'F7'.*b: .*takes.*before c.*after c"):
        SafetensorsFile(path)


@given(data=st.binary(max_size=60), place=st.integers(0, 300), cut=st.integers(0, 400))
def test_random_damage_gives_values_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("random") / "x.safetensors"
    save_file({"a": torch.ones(3, 2), "b": torch.zeros(5, dtype=torch.int64)}, path)
    whole = path.read_bytes()
    damaged = whole[:place] + data + whole[place + len(data) :]
    path.write_bytes(damaged[: max(0, len(damaged) - cut)])
    try:
        source = SafetensorsFile(path)
    except ValueError:
        return
    for name in source.infos:
        source.read(name)


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.npz", "torch.pt"])
def test_a_pickle_in_disguise_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    trap = Trap(tmp_path / "trapped")
    if name == "torch.pt":
        torch.save({"weights": trap}, folder / name)
    elif name == "weights.npz":
        np.savez(folder / name, weights=np.array([trap], dtype=object))
    else:
        (folder / name).write_bytes(pickle.dumps({"weights": trap}, protocol=4))
    with pytest.raises(ValueError, match=r"pickle|truncated or no safetensors"):
        open_tensors(folder / name)
    if name != "weights.npz":
        with pytest.raises(ValueError, match=r"pickle|truncated or no safetensors"):
            open_tensors(folder)
    assert not (tmp_path / "trapped").exists()


def sharded(folder: Path, weight_map: dict[str, Any]) -> Path:
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.ones(3)}, folder / "two.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return index


def test_shards(tmp_path: Path) -> None:
    sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    source = open_tensors(tmp_path)
    assert isinstance(source, ShardedSafetensors)
    assert source.infos["b"] == TensorInfo(shape=(3,), dtype=torch.float32)
    assert torch.equal(source.read("b"), torch.ones(3))
    with pytest.raises(ValueError, match=r"no tensor 'c'.*Known: a, b"):
        source.read("c")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../one.safetensors"}, r"files in its own folder, found \.\./one"),
        ({"a": "/etc/passwd"}, "files in its own folder"),
        ({"a": "sub/one.safetensors"}, "files in its own folder"),
        ({"a": "link.safetensors"}, "files in its own folder, found link"),
        ({"a": "..\\one.safetensors"}, "files in its own folder"),
        ({"a": ""}, "files in its own folder"),
        ({"a": "three.safetensors"}, "shards three.safetensors are not there"),
        ({"a": "two.safetensors", "b": "two.safetensors"}, "a is not in two.safetensors"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "holds b, which the index does not place"),
        ({"a": 3}, "files in its own folder"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(
    weight_map: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "one.safetensors")
    sharded(folder, weight_map)
    with pytest.raises(ValueError, match=message):
        open_tensors(folder)


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"weight_map": 3}', "{}"):
        (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="expected JSON with a weight_map"):
            open_tensors(tmp_path)


@pytest.mark.parametrize("value_suffix", [True, False])
def test_an_orbax_folder(value_suffix: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ml_dtypes

    arrays = {
        "PaliGemma/llm/layers/mlp/linear": np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32),
        "PaliGemma/img/head/bias": np.arange(6, dtype=np.float32),
        "action_in_proj/kernel": np.arange(8).reshape(2, 4).astype(ml_dtypes.bfloat16),
    }
    write_orbax(tmp_path / "a step" / "params", arrays, value_suffix=value_suffix)
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "a step", Path("a step/params")):
        source = open_tensors(place)
        assert {name: info.shape for name, info in source.infos.items()} == {
            name: array.shape for name, array in arrays.items()
        }
        for name, array in arrays.items():
            assert np.array_equal(source.read(name).float().numpy(), array.astype(np.float32))
        part = source.read("PaliGemma/llm/layers/mlp/linear", (2, 1))
        assert np.array_equal(part.numpy(), arrays["PaliGemma/llm/layers/mlp/linear"][2, 1])
        assert source.infos["action_in_proj/kernel"].dtype == torch.bfloat16
        assert source.read("action_in_proj/kernel").dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["manifest.ocdbt", "_METADATA"])
def test_an_orbax_folder_without_its_manifest_is_refused(missing: str, tmp_path: Path) -> None:
    write_orbax(tmp_path / "params", {"a/b": np.ones(3, dtype=np.float32)})
    (tmp_path / "params" / missing).unlink()
    with pytest.raises(ValueError, match=f"not a whole Orbax checkpoint.*missing {missing}"):
        open_tensors(tmp_path)


def test_a_damaged_orbax_folder_is_refused(tmp_path: Path) -> None:
    write_orbax(tmp_path / "params", {"a/b": np.ones(3, dtype=np.float32)})
    (tmp_path / "params" / "manifest.ocdbt").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="cannot be read as an Orbax checkpoint"):
        open_tensors(tmp_path)
    for path in (tmp_path / "params").rglob("d/*"):
        path.unlink()


def test_lost_data_of_an_orbax_folder_is_an_error_and_no_zeros(tmp_path: Path) -> None:
    write_orbax(tmp_path / "params", {"a/b": np.ones((300, 400), dtype=np.float32)})
    lost = [path for path in (tmp_path / "params").rglob("d/*") if path.is_file()]
    for path in lost:
        path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        OrbaxFolder(tmp_path / "params").read("a/b")


def test_a_numpy_archive(tmp_path: Path) -> None:
    arrays = {"params/img/head/bias": np.arange(3.0), "params/llm/x": np.ones((2, 2), dtype=np.float32)}
    np.savez(tmp_path / "pt.npz", **arrays)
    source = open_tensors(tmp_path / "pt.npz")
    assert isinstance(source, NpzFile)
    assert source.infos["img/head/bias"] == TensorInfo(shape=(3,), dtype=torch.float64)
    assert torch.equal(source.read("llm/x", (1,)), torch.ones(2))
    whole = (tmp_path / "pt.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"not a whole \.npz archive"):
        open_tensors(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is nothing at"),
        (lambda path: path.mkdir(), "holds an empty folder"),
        (lambda path: path.write_text("hello world", encoding="utf-8"), "truncated or no safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=message):
        open_tensors(tmp_path / "x")
