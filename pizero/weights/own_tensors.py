"""Any checkpoint's tensors under our names, each read from disk when it is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pizero.models.build import ComputeDtype, ModelConfig, skeleton
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.nn.gemma import GemmaConfig
from pizero.nn.lora import into_heads_delta, is_adapter, out_of_heads_delta
from pizero.weights import jax_names, torch_names
from pizero.weights.keymap import NameScheme, Place, check_coverage
from pizero.weights.tensors import TensorInfo, TensorSource


def identify(
    source: TensorSource,
    *,
    horizon: int,
    compute_dtype: ComputeDtype,
    vision_heads: int | None = None,
) -> tuple[ModelConfig, NameScheme]:
    """Return the model that a foreign checkpoint holds and its naming, from names and shapes alone.

    ValueError if the names are of no known kind, or if they do not cover that model exactly.
    """
    infos = weights_of(source)
    naming = torch_names.find_naming(infos)
    if jax_names.is_jax(infos):
        config = jax_names.infer_config(infos, horizon=horizon, compute_dtype=compute_dtype)
        scheme = jax_names.jax_scheme(config, root=jax_names.with_root(infos))
    elif naming is not None:
        config = torch_names.infer_config(
            infos, naming, horizon=horizon, compute_dtype=compute_dtype, vision_heads=vision_heads
        )
        scheme = torch_names.torch_scheme(config, naming)
    else:
        known = ["openpi JAX", "PaliGemma", *(each.name for each in torch_names.NAMINGS)]
        raise ValueError(
            f"{source.description} has none of the known namings ({', '.join(known)}); "
            f"found {len(infos)} tensors, first {', '.join(list(infos)[:3]) or 'none'}"
        )
    check_coverage(scheme, infos, shapes_of(config), source.description)
    return config, scheme


def weights_of(source: TensorSource) -> dict[str, TensorInfo]:
    """Return what a checkpoint holds but for statistics that were stored beside the weights."""
    return {
        name: info
        for name, info in source.infos.items()
        if not torch_names.NORMALIZER_BUFFERS.fullmatch(name)
    }


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model's weights."""
    return {name: tuple(weight.shape) for name, weight in skeleton(config).state_dict().items()}


def own_scheme(config: ModelConfig) -> NameScheme:
    """Return our own naming."""
    return NameScheme(
        name="pizero", places=tuple(Place(ours=name, foreign=name) for name in shapes_of(config))
    )


class OwnTensors:
    """The tensors of one model under our names, in the order in which the foreign ones are stored.

    `dtype` None keeps what is stored. With `merge_adapters`, adapters disappear into the weights beside them.
    """

    def __init__(
        self,
        source: TensorSource,
        config: ModelConfig,
        scheme: NameScheme,
        *,
        dtype: torch.dtype | None = None,
        merge_adapters: bool = False,
    ) -> None:
        self.source, self.scheme = source, scheme
        self.places = {place.ours: place for place in scheme.places}
        self.stored_config = config
        self.config = without_adapters(config) if merge_adapters else config
        self.merges = merge_adapters
        shapes, order = shapes_of(self.config), {name: i for i, name in enumerate(source.infos)}
        names = sorted(shapes, key=lambda name: order[self._stored(self.places[name])[0]])
        self.infos = {
            name: TensorInfo(shape=shapes[name], dtype=dtype or self._info(name).dtype) for name in names
        }
        self._adapters: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        """Return one tensor; ValueError if it is stored under two names with different numbers."""
        tensor = self._read(name)
        if self.merges and f"{name.removesuffix('.weight')}.lora_a" in self.places:
            linear = name.removesuffix(".weight")
            delta = out_of_heads_delta if linear.endswith(".attention.output") else into_heads_delta
            factors = (self._read(f"{linear}.{part}").float() for part in ("lora_a", "lora_b"))
            tensor = (tensor.float() + self._scale(linear) * delta(*factors)).to(tensor.dtype)
        return tensor.to(self.infos[name].dtype).contiguous()

    def _info(self, name: str) -> TensorInfo:
        return self.source.infos[self._stored(self.places[name])[0]]

    def _stored(self, place: Place) -> list[str]:
        aliases = [alias for alias, name in self.scheme.aliases.items() if name == place.foreign]
        return [name for name in (place.foreign, *aliases) if name in self.source.infos]

    def _read(self, name: str) -> Tensor:
        place = self.places[name]
        first, *others = self._stored(place)
        tensor = self._stored_tensor(first, place.index)
        for other in others:
            if not torch.equal(tensor, self.source.read(other, place.index)):
                raise ValueError(
                    f"{self.source.description}: {first} and {other} are two names of one tensor, and "
                    f"differ; nothing was written"
                )
        return place.layout.read(tensor)

    def _stored_tensor(self, name: str, index: tuple[int, ...]) -> Tensor:
        if "lora_" not in name:
            return self.source.read(name, index)
        if name not in self._adapters:  # merging would else alternate between them and the weight
            self._adapters[name] = self.source.read(name)
        return self._adapters[name][index]

    def _scale(self, linear: str) -> float:
        config = self.stored_config
        gemma = config.backbone.language
        if linear.startswith("expert.") and not isinstance(config, Pi0FASTConfig):
            gemma = config.expert
        assert gemma.lora is not None
        return gemma.lora.attention_alpha / gemma.lora.attention_rank if ".attention." in linear else 1.0


def without_adapters(config: ModelConfig) -> ModelConfig:
    """Return the config of the model into whose weights the adapters are merged."""

    def plain(gemma: GemmaConfig) -> GemmaConfig:
        return replace(gemma, lora=None)

    backbone = replace(config.backbone, language=plain(config.backbone.language))
    if isinstance(config, Pi0FASTConfig):
        return replace(config, backbone=backbone)
    return replace(config, backbone=backbone, expert=plain(config.expert))


def groups(infos: Mapping[str, TensorInfo]) -> dict[str, dict[str, object]]:
    """Return number of tensors, parameters and dtypes of each part of a model."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, info in infos.items():
        part = re.sub(r"^(backbone\.[a-z]+|[a-z_]+).*", r"\1", name)
        parts.setdefault("adapters" if is_adapter(name) else part, {})[name] = info
    return {part: _count(members) for part, members in parts.items()}


def _count(infos: Mapping[str, TensorInfo]) -> dict[str, object]:
    dtypes = sorted({str(info.dtype).removeprefix("torch.") for info in infos.values()})
    return {
        "tensors": len(infos),
        "parameters": sum(math.prod(info.shape) for info in infos.values()),
        "dtypes": dtypes,
    }
