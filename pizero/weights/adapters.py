"""Adapters alone: a small folder that turns a base model's weights into a fine-tuned model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from pizero.models.build import ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.nn.lora import LoRAConfig, is_adapter
from pizero.records import read_record, write_record
from pizero.weights.folder import check_seal, new_folder
from pizero.weights.own_tensors import OwnTensors, without_adapters
from pizero.weights.safetensors_files import SafetensorsFile, write_safetensors
from pizero.weights.tensors import TensorInfo, part_of

ADAPTER, ADAPTER_CONFIG = "adapter.safetensors", "adapter.json"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The adapters of a folder, and the model that they belong on."""

    language: LoRAConfig | None
    expert: LoRAConfig | None
    base: str
    num_tensors: int


def adapters_of(tensors: OwnTensors) -> AdapterConfig:
    """Return what the adapters of a model are; ValueError if it has none."""
    config = tensors.config
    num_tensors = sum(is_adapter(name) for name in tensors.infos)
    if not num_tensors:
        raise ValueError(f"{tensors.source.description} has no adapters")
    return AdapterConfig(
        language=config.backbone.language.lora,
        expert=None if isinstance(config, Pi0FASTConfig) else config.expert.lora,
        base=type(config).__name__,
        num_tensors=num_tensors,
    )


def save_adapters(tensors: OwnTensors, folder: Path) -> AdapterConfig:
    """Write the adapters of a model into a folder, whole or not at all; ValueError if it has none."""
    written = adapters_of(tensors)
    infos = {name: info for name, info in tensors.infos.items() if is_adapter(name)}
    with new_folder(folder) as partial:
        write_safetensors(partial / ADAPTER, infos, ((name, tensors.read(name)) for name in infos))
        write_record(partial / ADAPTER_CONFIG, written)
    return written


class AdaptedTensors:
    """A base model's tensors and the adapters of a folder, as one source under our names.

    ValueError if the folder is damaged, or its adapters are not those that its config and the base demand.
    """

    def __init__(self, base: OwnTensors, folder: Path) -> None:
        check_seal(folder, (ADAPTER, ADAPTER_CONFIG), "a folder of adapters")
        adapter = read_record(AdapterConfig, folder / ADAPTER_CONFIG)
        self.base, self.file = base, SafetensorsFile(folder / ADAPTER)
        if adapter.base != type(base.config).__name__ or without_adapters(base.config) != base.config:
            raise ValueError(
                f"{folder} holds adapters for a {adapter.base} without any, "
                f"found a {type(base.config).__name__}"
            )
        self.config = _adapted(base.config, adapter)
        self.description = f"{base.source.description} with the adapters of {folder}"
        strangers = [name for name in self.file.infos if not is_adapter(name)]
        if strangers:
            raise ValueError(f"{folder}: expected adapters alone, found {', '.join(strangers[:5])}")

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Return name, shape and dtype of every tensor."""
        return {**self.base.infos, **self.file.infos}

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """Return a tensor, or the part of it at `index`."""
        if is_adapter(name):
            return self.file.read(name, index)
        part_of(self.base.infos, name, index, self.description)
        return self.base.read(name)[index]


def _adapted(config: ModelConfig, adapter: AdapterConfig) -> ModelConfig:
    language = replace(config.backbone.language, lora=adapter.language)
    backbone = replace(config.backbone, language=language)
    if isinstance(config, Pi0FASTConfig):
        return replace(config, backbone=backbone)
    return replace(config, backbone=backbone, expert=replace(config.expert, lora=adapter.expert))
