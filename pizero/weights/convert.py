"""From any checkpoint to a policy folder or to another naming, tensor by tensor, with a report."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pizero.contract import Contract
from pizero.models.build import ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.records import write_record
from pizero.weights.folder import CONFIG, CONTRACT, WEIGHTS, new_folder
from pizero.weights.keymap import write_tensors, written_infos
from pizero.weights.own_tensors import OwnTensors, groups
from pizero.weights.safetensors_files import write_safetensors
from pizero.weights.tensors import TensorInfo
from pizero.weights.torch_names import OPENPI, Naming, torch_scheme

REPORT = "conversion.json"
GEMMA_VARIANTS = {2048: "gemma_2b", 1024: "gemma_300m", 64: "dummy"}
"""openpi's names of its Gemmas, by width."""

Counter = Callable[[str], None]
"""Told the name of each tensor when it is written."""


@dataclass(frozen=True, kw_only=True)
class WrittenTensor:
    """One line of a report: a tensor's name as written and as found, its shape and its dtype."""

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did; `actions_distance` is the largest difference to golden actions, if given."""

    source: str
    source_naming: str
    target: str
    target_naming: str
    model: str
    num_parameters: int
    num_bytes: int
    tensors: tuple[WrittenTensor, ...]
    sha256: str
    actions_distance: float | None = None


def convert_to_policy(
    tensors: OwnTensors,
    folder: Path,
    *,
    contract: Contract | None,
    files: Mapping[str, Path],
    counter: Counter,
) -> Conversion:
    """Write a policy folder, whole or not at all; without a contract it holds weights alone.

    `files` are copied into the folder under their names: the tokenizers that the contract mentions.
    """
    with new_folder(folder) as partial:
        sha256 = write_safetensors(
            partial / WEIGHTS, tensors.infos, _counted(tensors.infos, tensors.read, counter)
        )
        write_record(partial / CONFIG, tensors.config)
        if contract is not None:
            write_record(partial / CONTRACT, contract)
        for name, path in files.items():
            shutil.copyfile(path, partial / name)
        conversion = _conversion(tensors, folder, "pizero", tensors.infos, {}, sha256)
        write_record(partial / REPORT, conversion)
    return conversion


def convert_to_torch(
    tensors: OwnTensors, folder: Path, naming: Naming, *, contract: Contract | None, counter: Counter
) -> Conversion:
    """Write `model.safetensors` in a PyTorch naming, and for openpi what its loader reads beside it."""
    scheme = torch_scheme(tensors.config, naming)
    infos = written_infos(scheme, tensors.infos)
    ours = {place.foreign: place.ours for place in scheme.places}
    ours |= {alias: ours[name] for alias, name in scheme.aliases.items()}
    with new_folder(folder) as partial:
        sha256 = write_safetensors(
            partial / WEIGHTS,
            infos,
            _told(write_tensors(scheme, infos, tensors.read), counter),
            metadata={"format": "pt"},
        )
        if naming is OPENPI:
            (partial / CONFIG).write_text(
                json.dumps(openpi_config(tensors.config), indent=2) + "\n", encoding="utf-8"
            )
            if contract is not None:
                assets = partial / "assets" / contract.embodiment.name
                assets.mkdir(parents=True)
                text = json.dumps(openpi_statistics(contract), indent=2)
                (assets / "norm_stats.json").write_text(text, encoding="utf-8")
        conversion = _conversion(tensors, folder, naming.name, infos, ours, sha256)
        write_record(partial / REPORT, conversion)
    return conversion


def openpi_config(config: ModelConfig) -> dict[str, object]:
    """Return what openpi's PyTorch code keeps beside its weights."""
    if isinstance(config, Pi0FASTConfig):
        raise ValueError("openpi's PyTorch code has no π0-FAST")
    return {
        "action_dim": config.action_dim,
        "action_horizon": config.horizon,
        "paligemma_variant": _variant(config.backbone.language),
        "action_expert_variant": _variant(config.expert),
        "pi05": isinstance(config, Pi05Config),
        "precision": config.compute_dtype,
    }


def openpi_statistics(contract: Contract) -> dict[str, object]:
    """Return a contract's statistics as openpi's `norm_stats.json` has them."""
    fields = {"state": contract.statistics.state, "actions": contract.statistics.actions}
    return {
        "norm_stats": {
            name: {
                "mean": list(field.mean),
                "std": list(field.std),
                "q01": list(field.q01) or None,
                "q99": list(field.q99) or None,
            }
            for name, field in fields.items()
        }
    }


def summary(conversion: Conversion, infos: Mapping[str, TensorInfo]) -> dict[str, object]:
    """Return a report with the tensors counted by part of the model instead of listed."""
    return {
        "source": conversion.source,
        "source_naming": conversion.source_naming,
        "target": conversion.target,
        "target_naming": conversion.target_naming,
        "model": conversion.model,
        "parameters": conversion.num_parameters,
        "bytes": conversion.num_bytes,
        "parts": groups(infos),
        "actions_distance": conversion.actions_distance,
    }


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise ValueError unless a folder of that size fits on its disk."""
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise ValueError(
            f"{folder} will take {readable(num_bytes)}, and {place} has {readable(free)} left; make room or "
            f"name another place"
        )


def readable(num_bytes: int) -> str:
    """Return a size in megabytes or gigabytes."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"


def planned(tensors: OwnTensors, folder: Path, naming: Naming | None) -> Conversion:
    """Return the report of a conversion without making it."""
    if naming is None:
        return _conversion(tensors, folder, "pizero", tensors.infos, {}, "")
    scheme = torch_scheme(tensors.config, naming)
    ours = {place.foreign: place.ours for place in scheme.places}
    ours |= {alias: ours[name] for alias, name in scheme.aliases.items()}
    return _conversion(tensors, folder, naming.name, written_infos(scheme, tensors.infos), ours, "")


def _conversion(
    tensors: OwnTensors,
    folder: Path,
    target_naming: str,
    infos: Mapping[str, TensorInfo],
    ours: Mapping[str, str],
    sha256: str,
) -> Conversion:
    return Conversion(
        source=tensors.source.description,
        source_naming=tensors.scheme.name,
        target=str(folder),
        target_naming=target_naming,
        model=type(tensors.config).__name__.removesuffix("Config"),
        num_parameters=sum(math.prod(info.shape) for info in tensors.infos.values()),
        num_bytes=sum(math.prod(info.shape) * info.dtype.itemsize for info in infos.values()),
        tensors=tuple(
            WrittenTensor(
                name=name,
                source=_source_of(tensors, ours.get(name, name)),
                shape=info.shape,
                dtype=str(info.dtype).removeprefix("torch."),
            )
            for name, info in infos.items()
        ),
        sha256=sha256,
    )


def _source_of(tensors: OwnTensors, ours: str) -> str:
    if ours not in tensors.places:
        return "(zeros: stored by this naming, read by nothing)"
    place = tensors.places[ours]
    return place.foreign + (str(list(place.index)) if place.index else "")


def _counted(
    infos: Mapping[str, TensorInfo], read: Callable[[str], Tensor], counter: Counter
) -> Iterator[tuple[str, Tensor]]:
    return _told(((name, read(name)) for name in infos), counter)


def _told(pairs: Iterator[tuple[str, Tensor]], counter: Counter) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in pairs:
        yield name, tensor
        del tensor  # before the next one is read
        counter(name)


def _variant(gemma: GemmaConfig) -> str:
    if gemma.width not in GEMMA_VARIANTS:
        return f"gemma of width {gemma.width}"
    return GEMMA_VARIANTS[gemma.width]
