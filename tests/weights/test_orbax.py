"""An Orbax store is read wherever it lies, and what is lost or foreign in it is an error, never zeros."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import torch
from hypothesis import given
from hypothesis import strategies as st

from pizero.weights.orbax import DTYPES, OrbaxFolder, find_orbax
from pizero.weights.sources import open_tensors
from tests.orbax_writer import write_orbax


def store_of(folder: Path) -> Any:
    """Return the key-value store of an Orbax folder, to harm it."""
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def chunked(folder: Path, name: str, array: np.ndarray, chunks: list[int]) -> None:
    """Add an array in several chunks, as a checkpoint of several devices has it."""
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
        "metadata": {"compressor": {"id": "zstd", "level": 1}, "chunks": chunks},
    }
    target = tensorstore.open(spec, create=True, dtype=array.dtype, shape=array.shape).result()
    target.write(array).result()


@pytest.mark.parametrize("place", ["a step", "50% done", "a%20b", "q?x#y", "π", "run:1", "[x]{y}"])
def test_a_checkpoint_is_read_in_any_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_orbax(tmp_path / place / "params", {"a/b": array})
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / place, Path(place), Path(place, "params"), Path(place, "..", place)):
        assert np.array_equal(open_tensors(folder).read("a/b").numpy(), array)
    monkeypatch.chdir(tmp_path / place / "params")
    source = open_tensors(Path())
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(source.read("a/b", (1,)).numpy(), array[1])
    assert [path.name for path in tmp_path.iterdir()] == [place]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    raw = np.random.default_rng(0).integers(
        0, 2 if dtype == "|b1" else 256, 24 * kind.itemsize, dtype=np.uint8
    )
    array = raw.view(kind).reshape(2, 3, 4)
    write_orbax(tmp_path / "params", {"a": array})
    found = open_tensors(tmp_path).read("a")
    assert found.dtype == DTYPES[dtype]
    assert found.view(torch.uint8).numpy().tobytes() == raw.tobytes()


def test_an_array_in_chunks(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    write_orbax(tmp_path, {"other": np.ones(2)}, value_suffix=False)
    chunked(tmp_path, "params.layers.w", array, [2, 3, 3])
    source = OrbaxFolder(tmp_path)
    assert list(source.infos) == ["layers/w", "other"]
    assert np.array_equal(source.read("layers/w").numpy(), array)
    assert np.array_equal(source.read("layers/w", (4,)).numpy(), array[4])
    assert np.array_equal(source.read("layers/w", (3, 6)).numpy(), array[3, 6])


def test_a_part_is_read_without_the_rest(tmp_path: Path) -> None:
    """The other layers' chunks are lost, and the one asked for is still read."""
    write_orbax(tmp_path, {"other": np.ones(2)})
    chunked(tmp_path, "params.w.value", np.arange(12.0).reshape(3, 4), [1, 4])
    store = store_of(tmp_path)
    store.write("params.w.value/0.0", None).result()
    source = OrbaxFolder(tmp_path)
    assert source.read("w", (1,)).tolist() == [4, 5, 6, 7]
    for index in ((0,), ()):
        with pytest.raises(ValueError, match="w cannot be read"):
            source.read("w", index)


def test_chunks_of_zeros_that_an_older_orbax_left_out(tmp_path: Path) -> None:
    write_orbax(tmp_path, {"w": np.ones((2, 2))})
    store_of(tmp_path).write("params.w.value/0.0", None).result()
    with pytest.raises(ValueError, match="w cannot be read"):
        OrbaxFolder(tmp_path).read("w")
    metadata = json.loads((tmp_path / "_METADATA").read_text(encoding="utf-8"))
    del metadata["store_array_data_equal_to_fill_value"]
    (tmp_path / "_METADATA").write_text(json.dumps(metadata), encoding="utf-8")
    assert OrbaxFolder(tmp_path).read("w").tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (["params.a.value", "params.b.c.value"], ["a", "b/c"]),
        (["params.a.value", "params.b.c"], ["a/value", "b/c"]),
        (["params.a", "step"], ["params/a", "step"]),
        (["params.value"], ["params"]),
        (["params.value.value", "params.a.value"], ["a", "value"]),
    ],
)
def test_names(stored: list[str], names: list[str], tmp_path: Path) -> None:
    (tmp_path / "_METADATA").write_text("{}", encoding="utf-8")
    for name in stored:
        chunked(tmp_path, name, np.ones(2), [2])
    assert sorted(OrbaxFolder(tmp_path).infos) == names


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[]", r"a: \[\]"),
        (b"{", "cannot be read as an Orbax checkpoint"),
        (b"\xff", "cannot be read as an Orbax checkpoint"),
        (b'{"shape": [2]}', r"found a: \{'shape': \[2\]\}"),
        (b'{"shape": [2], "dtype": "<c8"}', "expected arrays of .*bfloat16, found a: .*<c8"),
        (b'{"shape": [2], "dtype": [["x", "<f4"]]}', "found a: "),
        (b'{"shape": [-2], "dtype": "<f4"}', "found a: "),
        (b'{"shape": 2, "dtype": "<f4"}', "found a: "),
    ],
)
def test_an_array_of_another_kind_is_refused(header: bytes, message: str, tmp_path: Path) -> None:
    write_orbax(tmp_path, {"a": np.ones(2), "b": np.ones(2)})
    store_of(tmp_path).write("params.a.value/.zarray", header).result()
    with pytest.raises(ValueError, match=message) as caught:
        OrbaxFolder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_zarrs_third_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "_METADATA").write_text('{"use_zarr3": true}', encoding="utf-8")
    store_of(tmp_path).write("params.a/zarr.json", b"{}").result()
    with pytest.raises(ValueError, match=r"zarr's second format \(\.zarray\), found params\.a/zarr\.json"):
        OrbaxFolder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\0"])
def test_metadata_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    write_orbax(tmp_path, {"a": np.ones(2)})
    (tmp_path / "_METADATA").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="_METADATA is damaged: it is not JSON"):
        OrbaxFolder(tmp_path)


def test_without_tensorstore_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_orbax(tmp_path, {"a": np.ones(2)})
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "pizero\[orbax\]"'):
        OrbaxFolder(tmp_path)


def test_a_folder_of_something_else_is_none(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    assert find_orbax(tmp_path) is None
    assert find_orbax(tmp_path / "nowhere") is None


@given(
    st.integers(0, 3), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4), st.integers(0, 4)
)
def test_random_damage_gives_tensors_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, which: int, place: float, data: bytes, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("random") / "params"
    write_orbax(folder, {"a": np.ones((20, 30), dtype=np.float32), "b": np.arange(3)})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[which % len(files)]
    whole = path.read_bytes()
    start = int(place * len(whole))
    path.write_bytes(whole[:start] + data + whole[start + cut :])
    found, problem = [], ""
    try:
        source = OrbaxFolder(folder)
        found = [tuple(source.read(name).shape) for name in source.infos]
    except ValueError as error:
        problem = str(error)
    assert str(folder) in problem or found == [(20, 30), (3,)]
