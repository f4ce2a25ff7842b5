"""What a safetensors file may not be, and that no more than one tensor is held while one is written."""

from __future__ import annotations

import hashlib
import json
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pizero.weights.safetensors_files import (
    DTYPES,
    SafetensorsFile,
    ShardedSafetensors,
    write_safetensors,
)
from pizero.weights.tensors import TensorInfo


def infos_of(tensors: dict[str, Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(shape=tuple(t.shape), dtype=t.dtype) for name, t in tensors.items()}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


shapes = st.lists(st.integers(0, 4), max_size=4)
stored = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(sorted(DTYPES)), shapes, st.integers(0, 2**32)),
    max_size=6,
)


def drawn(kinds: dict[str, tuple[str, list[int], int]]) -> dict[str, Tensor]:
    """Return tensors of any bits, so also of numbers that are none."""
    tensors = {}
    for name, (dtype, shape, seed) in kinds.items():
        generator = torch.Generator().manual_seed(seed)
        top, size = (2, 1) if dtype == "BOOL" else (256, DTYPES[dtype].itemsize)
        numel = torch.Size(shape).numel()
        raw = torch.randint(0, top, (numel * size,), dtype=torch.uint8, generator=generator)
        tensors[name] = raw.view(DTYPES[dtype]).reshape(shape)
    return tensors


@given(stored, st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("π"), max_size=2))
def test_any_tensors_go_both_ways(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: dict[str, tuple[str, list[int], int]],
    metadata: dict[str, str],
) -> None:
    folder, tensors = tmp_path_factory.mktemp("files"), drawn(kinds)
    ours, theirs = folder / "ours", folder / "theirs"
    digest = write_safetensors(ours, infos_of(tensors), tensors.items(), metadata=metadata)
    save_file(tensors, theirs, metadata=metadata or None)
    assert digest == hashlib.sha256(ours.read_bytes()).hexdigest()
    assert int.from_bytes(ours.read_bytes()[:8], "little") % 8 == 0
    with safe_open(ours, framework="pt") as file:
        assert (file.metadata() or {}) == metadata
    loaded = load_file(ours)
    for path in (ours, theirs):
        source = SafetensorsFile(path)
        assert dict(source.infos) == infos_of(tensors)
        assert all(bits(source.read(name)) == bits(tensor) for name, tensor in tensors.items())
    assert {name: bits(tensor) for name, tensor in loaded.items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }


def test_tensors_stand_in_the_order_of_the_infos(tmp_path: Path) -> None:
    """Even where sizes of one byte come before sizes of four."""
    tensors = {
        "z": torch.ones(3, dtype=torch.int8),
        "a": torch.tensor([1.0, 2.0]),
        "m": torch.ones(1).bfloat16(),
    }
    write_safetensors(tmp_path / "x", infos_of(tensors), iter(tensors.items()))
    data = (tmp_path / "x").read_bytes()
    assert data.endswith(b"".join(bits(tensor) for tensor in tensors.values()))
    assert list(SafetensorsFile(tmp_path / "x").infos) == ["z", "a", "m"]
    assert torch.equal(load_file(tmp_path / "x")["a"], tensors["a"])


def test_views_of_other_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(24.0, requires_grad=True).reshape(2, 3, 4)
    tensors = {"turned": whole.permute(2, 0, 1), "part": whole[1, 1:], "spread": torch.ones(1).expand(3)}
    write_safetensors(tmp_path / "x", infos_of(tensors), iter(tensors.items()))
    assert all(torch.equal(load_file(tmp_path / "x")[name], tensor) for name, tensor in tensors.items())


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    infos = {f"layer.{i}": TensorInfo(shape=(100,), dtype=torch.float32) for i in range(5)}
    made: list[weakref.ref[Tensor]] = []

    def make(place: int) -> Tensor:
        tensor = torch.full((100,), float(place))
        made.append(weakref.ref(tensor))
        return tensor

    def stream() -> Iterator[tuple[str, Tensor]]:
        for place, name in enumerate(infos):
            assert [reference() for reference in made if reference() is not None] == []
            yield name, make(place)

    write_safetensors(tmp_path / "x", infos, stream())
    assert [SafetensorsFile(tmp_path / "x").read(name, (99,)).item() for name in infos] == [0, 1, 2, 3, 4]


def test_a_stream_that_breaks_leaves_what_was_there(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones(3)}

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield "a", tensors["a"]
        raise KeyboardInterrupt

    (tmp_path / "x").write_text("before", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x", infos_of(tensors), broken())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "before")]


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ({"a": TensorInfo(shape=(1,), dtype=torch.complex64)}, "found a: torch.complex64; no file was made"),
        ({"__metadata__": TensorInfo(shape=(1,), dtype=torch.float32)}, "no tensor named __metadata__"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    infos: dict[str, TensorInfo], message: str, tmp_path: Path
) -> None:
    stream = ((name, torch.ones(info.shape, dtype=info.dtype)) for name, info in infos.items())
    with pytest.raises(ValueError, match=message):
        write_safetensors(tmp_path / "x", infos, stream)
    assert not list(tmp_path.iterdir())


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


BAD_HEADERS: dict[str, tuple[Any, str]] = {
    "a dtype that is a list": ({"a": entry(dtype=["F32"])}, r"the dtype \['F32'\] is not read"),
    "a dtype that is none": ({"a": entry(dtype=None)}, "the dtype None is not read"),
    "a size that is true": ({"a": entry(shape=[True, 2])}, "expected a shape and two offsets"),
    "three offsets": ({"a": entry(data_offsets=[0, 4, 8])}, "expected a shape and two offsets"),
    "offsets backwards": ({"a": entry(data_offsets=[8, 0])}, "takes 8 bytes, its offsets are"),
    "more than is needed": ({"a": entry(extra=1)}, "a: expected dtype, shape and data_offsets"),
    "metadata of numbers": (
        {"__metadata__": {"step": 3}, "a": entry()},
        "__metadata__: expected texts by name, found {'step': 3}",
    ),
    "metadata of no texts": ({"__metadata__": [], "a": entry()}, "__metadata__: expected texts by name"),
    "a key twice within": (b'{"a":{"dtype":"F32","dtype":"F32"}}', "twice in the header: dtype"),
    "another encoding": (json.dumps({"a": entry()}).encode("utf-16"), "no readable safetensors header"),
    "half a character": (b'{"\\ud800":1}', "no readable safetensors header"),
    "an endless number": (b'{"a":' + b"9" * 5000 + b"}", "no readable safetensors header"),
}


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_a_bad_header_is_one_clear_error(what: str, tmp_path: Path) -> None:
    header, message = BAD_HEADERS[what]
    (tmp_path / "x").write_bytes(file_of(header, b"0" * 8))
    with pytest.raises(ValueError, match=message) as caught:
        SafetensorsFile(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a safetensors file at .*x, found none"):
        SafetensorsFile(tmp_path / "x")


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "x")
    source = SafetensorsFile(tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-4])
    assert source.read("a", (1,)) == 1
    with pytest.raises(ValueError, match="became shorter while it was read"):
        source.read("a")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "U8", "BF16"]) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 20), max_size=3) | json_values,
    },
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries | json_values), st.integers(0, 20)
)
def test_no_header_gives_anything_but_tensors_or_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int
) -> None:
    """What is accepted, safetensors itself accepts and reads in the same way."""
    path = tmp_path_factory.mktemp("random") / "x"
    path.write_bytes(file_of(header, b"\1" * size))
    source, problem = None, ""
    try:
        source = SafetensorsFile(path)
    except ValueError as error:
        problem = str(error)
    if source is None:
        assert problem.startswith(str(path))
        return
    loaded = load_file(path)
    assert dict(source.infos) == infos_of(loaded)
    assert all(bits(source.read(name)) == bits(tensor) for name, tensor in loaded.items())


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "x"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="x "):
        SafetensorsFile(path)


BAD_INDICES: dict[str, tuple[str, str]] = {
    "a name twice": ('{"weight_map": {"a": "one", "a": "one"}}', "twice in the header: a"),
    "too deep": ("[" * 100_000, "expected JSON with a weight_map"),
    "a list for a file": ('{"weight_map": {"a": ["one"]}}', "expected JSON with a weight_map"),
    "half a character": ('{"weight_map": {"a": "\\ud800"}}', "expected JSON with a weight_map"),
    "a name too long": (json.dumps({"weight_map": {"a": "x" * 300}}), "xxx are not there; copy them too"),
    "a nul": ('{"weight_map": {"a": "one\\u0000"}}', "expected names of files in its own folder"),
    "itself": ('{"weight_map": {"a": "."}}', "expected names of files in its own folder"),
    "its parent": ('{"weight_map": {"a": ".."}}', "expected names of files in its own folder"),
    "a folder": ('{"weight_map": {"a": "folder"}}', "the shards folder are not there"),
    "links in a circle": ('{"weight_map": {"a": "circle"}}', "files in its own folder|are not there"),
}


@pytest.mark.parametrize("what", BAD_INDICES)
def test_a_bad_index_is_one_clear_error(what: str, tmp_path: Path) -> None:
    text, message = BAD_INDICES[what]
    save_file({"a": torch.ones(2)}, tmp_path / "one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        ShardedSafetensors(tmp_path / "index.json")
    assert str(tmp_path / "index.json") in str(caught.value)


def test_a_shard_may_be_a_link_within_the_folder(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one")
    (tmp_path / "also").symlink_to("one")
    (tmp_path / "index.json").write_text('{"weight_map": {"a": "also"}}', encoding="utf-8")
    assert torch.equal(ShardedSafetensors(tmp_path / "index.json").read("a"), torch.ones(2))
