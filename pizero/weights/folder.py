"""The policy folder: weights, model config and contract, with hashes. It suffices to serve; nothing in it
runs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pizero.contract import Contract
from pizero.durable import publish
from pizero.models.build import ModelConfig
from pizero.names import nearest
from pizero.records import read_record, write_record

WEIGHTS, CONFIG, CONTRACT, MANIFEST = "model.safetensors", "config.json", "contract.json", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The sha256 of each file of a folder."""

    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PolicyFiles:
    """What a policy folder holds."""

    config: ModelConfig
    contract: Contract
    tensors: dict[str, Tensor]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write the manifest of the files that a folder holds."""
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_record(folder / MANIFEST, Manifest(files=files))


def check_seal(folder: Path, expected: tuple[str, ...], what: str) -> None:
    """Raise ValueError unless a folder holds the `expected` files and every file still has its hash."""
    if not folder.is_dir():
        raise ValueError(f"expected {what} at {folder}, found no folder there")
    missing = [name for name in (*expected, MANIFEST) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not {what}: expected {', '.join((*expected, MANIFEST))}, "
            f"missing {', '.join(missing)}; copy the whole folder again or train anew"
        )
    files = read_record(Manifest, folder / MANIFEST).files
    for name in sorted({*expected, *files}):
        if not (folder / name).is_file() or sha256_of(folder / name) != files.get(name):
            raise ValueError(
                f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; copy it again"
            )


def refuse_existing(folder: Path) -> None:
    """Raise ValueError if there is something already where a folder is to be written."""
    if folder.exists():
        raise ValueError(
            f"{folder} exists already; nothing was overwritten. Name another folder or remove it"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a place to write a folder's files; it is sealed and named at the end, or leaves no trace.

    ValueError if the folder exists.
    """
    refuse_existing(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        seal(partial)
        publish(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_policy(
    folder: Path,
    *,
    config: ModelConfig,
    contract: Contract,
    tensors: dict[str, Tensor],
    files: Path | None = None,
) -> None:
    """Write a policy folder, whole or not at all; ValueError if the folder exists.

    `files` is the folder of the tokenizers that the contract names.
    """
    with new_folder(folder) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / WEIGHTS)
        write_record(partial / CONFIG, config)
        write_record(partial / CONTRACT, contract)
        for name in token_files(contract):
            if files is None:
                raise ValueError(
                    f"the contract names the tokenizer file {name}; give the folder that holds it"
                )
            shutil.copyfile(files / name, partial / name)


def token_files(contract: Contract) -> tuple[str, ...]:
    """Return the tokenizer files that a contract names."""
    named = (contract.tokenizer, contract.action_tokens.file if contract.action_tokens else None)
    return tuple(file.name for file in named if file is not None)


def read_policy(folder: Path) -> PolicyFiles:
    """Read a policy folder; ValueError names a missing, damaged or unreadable file.

    Tensors are mapped from the file, and read when they are used.
    """
    check_seal(folder, (WEIGHTS, CONFIG, CONTRACT), "a policy folder")
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from None
    return PolicyFiles(
        config=read_record(ModelConfig, folder / CONFIG),
        contract=read_record(Contract, folder / CONTRACT),
        tensors=tensors,
    )


def check_fit(own: Mapping[str, torch.Size], found: Mapping[str, torch.Size], source: str) -> None:
    """Raise one ValueError that lists every missing, extra and mis-shaped name, unless there is none."""
    missing = [name for name in own if name not in found]
    extra = [f"{name} ({nearest(name, missing or own)})" for name in found if name not in own]
    shapes = [
        f"{name}: expected {list(own[name])}, found {list(shape)}"
        for name, shape in found.items()
        if name in own and own[name] != shape
    ]
    problems = [("missing", missing), ("unknown", extra), ("of another shape", shapes)]
    if missing or extra or shapes:
        lines = [f"{len(names)} {label}: {'; '.join(names[:10])}" for label, names in problems if names]
        raise ValueError(f"{source} does not fit the model of its config. " + ". ".join(lines))


def load_into(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load tensors into a model; ValueError if they are not exactly its own.

    A model without memory (`skeleton`) takes the tensors as they are, another one copies their numbers.
    """
    own = model.state_dict()
    found = {name: tensor.shape for name, tensor in tensors.items()}
    check_fit({name: tensor.shape for name, tensor in own.items()}, found, source)
    if any(weight.is_meta for weight in own.values()):
        laid = {name: _in_layout_of(own[name], tensor) for name, tensor in tensors.items()}
        model.load_state_dict(laid, assign=True)
    else:
        model.load_state_dict(tensors)


def _in_layout_of(own: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor in the memory order of a weight (convolutions have channels last)."""
    if tensor.stride() == own.stride():
        return tensor
    return torch.empty_strided(own.shape, own.stride(), dtype=tensor.dtype).copy_(tensor)
