"""A policy folder comes back bit for bit; every way to be broken is one ValueError that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pizero.models.build import build
from pizero.weights.folder import (
    CONFIG,
    CONTRACT,
    MANIFEST,
    WEIGHTS,
    PolicyFiles,
    load_into,
    read_policy,
    seal,
    write_policy,
)
from tests.examples import TINY_PI0, contract, tiny_inputs

Harm = Callable[[Path], object]


def policy_tensors() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in build(TINY_PI0, seed=3).state_dict().items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "policy"
    write_policy(folder, config=TINY_PI0, contract=contract(), tensors=policy_tensors())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "policy"))


def same(one: PolicyFiles, other: PolicyFiles) -> bool:
    return (
        one.config == other.config
        and one.contract == other.contract
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


def test_a_policy_comes_back_bit_for_bit(folder: Path) -> None:
    files, tensors = read_policy(folder), policy_tensors()
    assert files.config == TINY_PI0
    assert files.contract == contract()
    assert files.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert files.tensors[name].dtype == tensor.dtype
        assert torch.equal(files.tensors[name], tensor), name

    model, again = build(TINY_PI0, seed=3), build(files.config, seed=4)
    noise = torch.randn(2, 3, 2)
    load_into(again, files.tensors, str(folder))
    assert torch.equal(model.sample(tiny_inputs(), noise=noise), again.sample(tiny_inputs(), noise=noise))


def test_other_dtypes_and_values_survive(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3).bfloat16(),
        "whole": torch.tensor([[2**62, -1]]),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "turned": torch.randn(3, 4).T,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.0),
    }
    write_policy(tmp_path / "policy", config=TINY_PI0, contract=contract(), tensors=tensors)
    for name, tensor in read_policy(tmp_path / "policy").tensors.items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.shape == tensors[name].shape
        assert (
            tensor.contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(tensors[name].contiguous().view(-1).view(torch.uint8))
        )


def test_a_folder_holds_these_files_and_no_more(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, CONFIG, CONTRACT, MANIFEST}
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Harm:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def resealed(harm: Harm) -> Harm:
    def both(folder: Path) -> None:
        harm(folder)
        seal(folder)

    return both


class Bomb:
    """A pickle that makes a file when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def edited(name: str, **changes: object) -> Harm:
    def edit(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**data, **changes}))

    return edit


BROKEN: dict[str, tuple[Harm, str]] = {
    "no folder": (shutil.rmtree, r"expected a policy folder at .*policy, found no folder"),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        r"is not a policy folder: .*missing model\.safetensors;",
    ),
    "no config": (lambda folder: (folder / CONFIG).unlink(), r"missing config\.json"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), r"missing manifest\.json"),
    "a damaged byte": (
        rewritten(WEIGHTS, lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        r"safetensors is damaged",
    ),
    "cut weights": (
        rewritten(WEIGHTS, lambda data: data[: len(data) // 2]),
        r"model\.safetensors is damaged",
    ),
    "an emptied manifest": (edited(MANIFEST, files={}), r"is damaged: its sha256 is not the one in manifest"),
    "an odd manifest": (edited(MANIFEST, files=[]), r"manifest\.json: files: expected an object"),
    "an edited contract": (edited(CONTRACT, horizon=4), r"contract\.json is damaged"),
    "cut weights, sealed": (
        resealed(rewritten(WEIGHTS, lambda data: data[: len(data) // 2])),
        r"model\.safetensors is not a safetensors file",
    ),
    "a pickle, sealed": (
        resealed(rewritten(WEIGHTS, lambda data: pickle.dumps(Bomb()))),
        r"model\.safetensors is not a safetensors file",
    ),
    "empty weights, sealed": (resealed(rewritten(WEIGHTS, lambda data: b"")), r"is not a safetensors file"),
    "an unknown field, sealed": (
        resealed(edited(CONTRACT, horizons=4)),
        r"contract\.json: .*did you mean 'horizon'",
    ),
    "another kind, sealed": (
        resealed(edited(CONFIG, horizon="many")),
        r"config\.json: horizon: expected int",
    ),
    "no JSON, sealed": (resealed(rewritten(CONFIG, lambda data: data[:-3])), r"config\.json is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_clear_error(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    harm, message = BROKEN[name]
    harm(folder)
    with pytest.raises(ValueError, match=message) as caught:
        read_policy(folder)
    assert type(caught.value) is ValueError
    assert not (folder.parent / "exploded").exists()


def test_the_bomb_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "exploded").is_dir()


def error_of(check: Callable[[], bool]) -> str | None:
    """Return the message of the ValueError that a check raises; None if it holds."""
    try:
        assert check()
    except ValueError as error:
        return str(error)
    return None


@given(
    st.sampled_from([WEIGHTS, CONFIG, CONTRACT, MANIFEST]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)
def test_no_flipped_bit_goes_unnoticed(written: Path, name: str, place: float, bit: int) -> None:
    """In the manifest, a bit may be without meaning; then the policy is the same."""
    before, path = read_policy(written), written / name
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(broken)
    try:
        if name == MANIFEST:
            error = error_of(lambda: same(read_policy(written), before))
            assert error is None or str(written) in error
        else:
            with pytest.raises(ValueError, match=f"{name} is damaged"):
                read_policy(written)
    finally:
        path.write_bytes(whole)


def test_an_existing_folder_is_not_overwritten(folder: Path) -> None:
    before = read_policy(folder)
    with pytest.raises(ValueError, match=r"policy exists already; nothing was overwritten"):
        write_policy(folder, config=TINY_PI0, contract=contract(), tensors={"other": torch.zeros(1)})
    assert same(read_policy(folder), before)
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def test_a_crash_while_writing_leaves_no_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(folder: Path) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "policy"
    with monkeypatch.context() as patch:
        patch.setattr("pizero.weights.folder.seal", crash)
        with pytest.raises(KeyboardInterrupt):
            write_policy(target, config=TINY_PI0, contract=contract(), tensors=policy_tensors())
    assert not target.exists()
    write_policy(target, config=TINY_PI0, contract=contract(), tensors=policy_tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert len(read_policy(target).tensors) > 50


def test_tensors_that_do_not_fit_are_all_named_at_once() -> None:
    model = build(TINY_PI0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = policy_tensors()
    tensors["action_ot.weight"] = tensors.pop("action_out.weight")
    tensors["state_in.weight"] = tensors["state_in.weight"][:, :1]
    with pytest.raises(ValueError, match=r"^some/file does not fit the model of its config") as caught:
        load_into(model, tensors, "some/file")
    message = str(caught.value)
    assert "1 missing: action_out.weight" in message
    assert "1 unknown: action_ot.weight (did you mean 'action_out.weight'?" in message
    assert "1 of another shape: state_in.weight: expected [12, 2], found [12, 1]" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("wrong", ["missing", "extra", "mis-shaped"])
def test_each_misfit_alone_is_an_error(wrong: str) -> None:
    model, tensors = build(TINY_PI0), policy_tensors()
    if wrong == "missing":
        del tensors["expert.final_norm.scale"]
    elif wrong == "extra":
        tensors["expert.final_norm.shift"] = torch.zeros(12)
    else:
        tensors["expert.final_norm.scale"] = torch.zeros(1)  # would broadcast
    with pytest.raises(ValueError, match=r"expert\.final_norm\.s"):
        load_into(model, tensors, "file")
