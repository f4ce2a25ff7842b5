"""Every name and shape of the published models, in every naming, at full size and without their memory."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from pizero.models.build import ModelConfig, skeleton
from pizero.models.pi0 import PI0, Pi0
from pizero.models.pi0_fast import PI0_FAST
from pizero.models.pi05 import PI05
from pizero.nn.lora import LoRAConfig
from pizero.training.freezing import around_adapters, freeze
from pizero.weights.jax_names import infer_config, is_jax, jax_scheme
from pizero.weights.keymap import NameScheme, foreign_shapes, written_infos
from pizero.weights.tensors import TensorInfo
from pizero.weights.torch_names import LEROBOT, NAMINGS, OPENPI, find_naming, torch_scheme
from pizero.weights.torch_names import infer_config as infer_torch_config
from tests.golden_weights import GOLDEN

LORA_2B = LoRAConfig(attention_rank=16, attention_alpha=16.0, feed_forward_rank=16)
LORA_300M = LoRAConfig(attention_rank=32, attention_alpha=32.0, feed_forward_rank=32)


def adapted(config: Any) -> Any:
    """Return a published model's config with its published adapters."""
    backbone = replace(config.backbone, language=replace(config.backbone.language, lora=LORA_2B))
    if config is PI0_FAST:
        return replace(config, backbone=backbone)
    return replace(config, backbone=backbone, expert=replace(config.expert, lora=LORA_300M))


PUBLISHED: dict[str, ModelConfig] = {
    "pi0": PI0,
    "pi05": PI05,
    "pi0_fast": PI0_FAST,
    "pi0_lora": adapted(PI0),
    "pi05_lora": adapted(PI05),
    "pi0_fast_lora": adapted(PI0_FAST),
}


@cache
def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@cache
def own_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in skeleton(PUBLISHED[kind]).state_dict().items()}


def shapes_of(scheme: NameScheme, kind: str) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in foreign_shapes(scheme, own_shapes(kind)).items()}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_jax_names_shapes_and_counts_at_full_size(kind: str) -> None:
    published = golden("full_size_jax.json")[kind]
    assert shapes_of(jax_scheme(PUBLISHED[kind]), kind) == published["shapes"]
    count = sum(parameter.numel() for parameter in skeleton(PUBLISHED[kind]).parameters())
    assert count == published["total_params"]
    assert {place.ours for place in jax_scheme(PUBLISHED[kind]).places} == set(own_shapes(kind))


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
@pytest.mark.parametrize(("naming", "prefix"), [(OPENPI, ""), (LEROBOT, "model.")])
def test_torch_names_and_shapes_at_full_size(kind: str, naming: Any, prefix: str) -> None:
    """LeRobot's names and shapes are openpi's behind `model.`; files may hold either of two tied names."""
    published = golden("full_size_torch.json")[kind]
    scheme = torch_scheme(PUBLISHED[kind], naming)
    ours = shapes_of(scheme, kind) | {name: list(shape) for name, shape in scheme.unused.items()}
    for alias, name in scheme.aliases.items():
        ours[alias] = ours[name]
    assert ours == {f"{prefix}{name}": shape for name, shape in published["shapes"].items()}
    assert [[prefix + name for name in pair] for pair in published["tied"]] == [
        list(pair) for pair in scheme.aliases.items()
    ]


@pytest.mark.parametrize("kind", ["pi0", "pi05", "pi0_fast"])
def test_what_is_written_for_lerobot_has_the_names_that_lerobot_saves(kind: str) -> None:
    config = PUBLISHED[kind]
    shallow = (
        replace(
            config,
            backbone=replace(
                config.backbone,
                vision=replace(config.backbone.vision, depth=2),
                language=replace(config.backbone.language, depth=2),
            ),
        )
        if kind == "pi0_fast"
        else replace(
            config,
            backbone=replace(
                config.backbone,
                vision=replace(config.backbone.vision, depth=2),
                language=replace(config.backbone.language, depth=2),
            ),
            expert=replace(config.expert, depth=2),
        )
    )
    infos = {
        name: TensorInfo(shape=tuple(weight.shape), dtype=torch.bfloat16)
        for name, weight in skeleton(shallow).state_dict().items()
    }
    written = written_infos(torch_scheme(shallow, LEROBOT), infos)
    assert sorted(written) == sorted(golden("lerobot_names.json")[kind])


@pytest.mark.parametrize("kind", PUBLISHED)
def test_frozen_weights_are_openpi_s(kind: str) -> None:
    model, config = skeleton(PUBLISHED[kind]), PUBLISHED[kind]
    frozen = set(freeze(model, around_adapters(config)))
    foreign = {place.foreign for place in jax_scheme(config).places if place.ours in frozen}
    assert foreign == set(golden("full_size_jax.json")[kind]["frozen"])
    mixed = {place.foreign for place in jax_scheme(config).places if place.ours not in frozen}
    assert not foreign & mixed
    assert {name for name, weight in model.named_parameters() if not weight.requires_grad} == frozen


@pytest.mark.parametrize(("which", "count"), [("language", 9), ("expert", 8), ("both", 17)])
def test_number_of_frozen_tensors(which: str, count: int) -> None:
    config = adapted(PI0)
    if which == "language":
        config = replace(config, expert=PI0.expert)
    if which == "expert":
        config = replace(config, backbone=PI0.backbone)
    frozen = freeze(skeleton(config), around_adapters(config))
    assert len({place.foreign for place in jax_scheme(config).places if place.ours in frozen}) == count


def test_a_rule_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'backbon\.\*' fits no weight.*did you mean 'backbone\.\*'"):
        freeze(skeleton(PI0), ["backbon.*"])


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_config_follows_from_jax_names_and_shapes(kind: str) -> None:
    infos = {
        name: TensorInfo(shape=tuple(shape), dtype=torch.float32)
        for name, shape in golden("full_size_jax.json")[kind]["shapes"].items()
    }
    assert is_jax(infos)
    assert find_naming(infos) is None
    config = infer_config(infos, horizon=PUBLISHED[kind].horizon, compute_dtype="bfloat16")
    assert config == PUBLISHED[kind]


@pytest.mark.parametrize("kind", ["pi0", "pi05", "pi0_fast"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_the_config_follows_from_torch_names_and_shapes(kind: str, naming: Any) -> None:
    if kind == "pi0_fast" and naming is not LEROBOT:
        with pytest.raises(ValueError, match="has no π0-FAST"):
            torch_scheme(PUBLISHED[kind], naming)
        return
    shapes = foreign_shapes(torch_scheme(PUBLISHED[kind], naming), own_shapes(kind))
    infos = {name: TensorInfo(shape=shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    assert find_naming(infos) is naming
    assert not is_jax(infos)
    config = infer_torch_config(infos, naming, horizon=PUBLISHED[kind].horizon, compute_dtype="bfloat16")
    assert config == PUBLISHED[kind]


def test_a_paligemma_archive_is_the_first_part_of_openpi_s_names() -> None:
    shapes = foreign_shapes(jax_scheme(PI0_FAST, root=False), own_shapes("pi0_fast"))
    infos = {name: TensorInfo(shape=shape, dtype=torch.float32) for name, shape in shapes.items()}
    assert is_jax(infos)
    assert {name.partition("/")[0] for name in infos} == {"img", "llm"}
    assert infer_config(infos, horizon=32, compute_dtype="bfloat16") == PI0_FAST


def test_the_model_without_weights_takes_no_memory() -> None:
    model = skeleton(PI0)
    assert isinstance(model, Pi0)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
