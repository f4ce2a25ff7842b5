"""Counted operations against the formulas of the textbook, and against counts by hand at full size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pizero.models.build import ModelConfig, skeleton
from pizero.models.pi0 import PI0, Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import PI05, CoTraining, Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.lora import LoRAConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.training.config import TrainConfig
from pizero.training.flops import batch_loss, blank_batch, blank_draws, count_draw_flops, count_flops
from pizero.training.freezing import around_adapters
from pizero.training.optimizer import OptimizerConfig

GEMMA = GemmaConfig(width=48, depth=3, mlp_dim=160, num_heads=4, num_kv_heads=2, head_dim=16)
BACKBONE = PaliGemmaConfig(
    vision=SigLIPConfig(width=32, depth=2, mlp_dim=72, num_heads=4, patch_size=14, image_size=56),
    language=GEMMA,
    vocab_size=300,
)
EXPERT = replace(GEMMA, width=32, mlp_dim=96)
PI0_SMALL = Pi0Config(backbone=BACKBONE, expert=EXPERT, horizon=10, num_draws=2, compute_dtype="bfloat16")
PI05_SMALL = Pi05Config(backbone=BACKBONE, expert=replace(EXPERT, conditioned=True), horizon=10)
CO_TRAINED = replace(PI05_SMALL, co_training=CoTraining())
FAST_SMALL = Pi0FASTConfig(backbone=BACKBONE, horizon=10)


def run_of(model: ModelConfig, **other: Any) -> TrainConfig:
    """Return a run of two cameras."""
    sizes: dict[str, Any] = {"image_size": 56, "max_tokens": 24, "width": 32, "num_slots": 2} | other
    return TrainConfig(
        model=model, embodiments=("metaworld",), optimizer=OptimizerConfig(), num_steps=10, **sizes
    )


def gemma_flops(config: GemmaConfig, tokens: int, past: int) -> tuple[int, int]:
    """Return what a layer takes, and what keys and values alone take (2 operations a weight and token)."""
    heads, key_values = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    cached = 2 * tokens * 2 * config.width * key_values
    linear = 2 * tokens * (2 * config.width * heads + 3 * config.width * config.mlp_dim)
    return cached + linear + 4 * tokens * (past + tokens) * heads, cached


def pi0_flops(config: Pi0Config, cameras: int, text: int) -> dict[str, int]:
    """Return what each part of a forward pass takes, by the formulas of the textbook."""
    vision, language, expert = config.backbone.vision, config.backbone.language, config.expert
    assert isinstance(vision, SigLIPConfig)
    patches, images = vision.num_tokens, vision.num_tokens * cameras
    layer = 4 * vision.width**2 + 2 * vision.width * vision.mlp_dim
    prefix = images + text
    whole, cached = gemma_flops(language, prefix, 0)
    state, state_cached = gemma_flops(expert, 1, prefix)
    acting, _ = gemma_flops(expert, config.horizon, prefix + 1)
    ends = 2 * config.horizon * config.action_dim * expert.width
    return {
        "patches": 2 * images * 3 * vision.patch_size**2 * vision.width,
        "vision": vision.depth * (2 * images * layer + 4 * images * patches * vision.width)
        + 2 * images * vision.width * language.width,
        "prefix": (language.depth - 1) * whole + cached,
        "state_in": 2 * config.state_dim * expert.width,
        "state": (expert.depth - 1) * state + state_cached,
        "action_in": config.num_draws * ends,
        "acting": config.num_draws
        * (expert.depth * acting + ends + 2 * config.horizon * 3 * expert.width * expert.width),
    }


def test_counted_operations_are_the_formulas() -> None:
    config = run_of(PI0_SMALL)
    parts = pi0_flops(PI0_SMALL, cameras=2, text=24)
    flops = count_flops(config, rows=3)
    assert flops.forward == 3 * sum(parts.values())
    inputs = parts["patches"] + parts["state_in"] + parts["action_in"]  # no gradient of what was given
    assert flops.backward == 2 * flops.forward - 3 * inputs
    assert flops.total == flops.forward + flops.backward


def test_frozen_weights_take_no_gradient() -> None:
    config = run_of(PI0_SMALL, frozen=("backbone.*",))
    parts = pi0_flops(PI0_SMALL, cameras=2, text=24)
    expert = sum(parts[name] for name in ("state_in", "state", "action_in", "acting"))
    flops = count_flops(config)
    assert flops.forward == sum(parts.values())
    assert flops.backward == 2 * expert - parts["state_in"] - parts["action_in"]


def test_a_draw_adds_a_pass_of_the_expert() -> None:
    config = run_of(PI0_SMALL)
    parts = pi0_flops(replace(PI0_SMALL, num_draws=1), cameras=2, text=24)
    alone, draw = count_draw_flops(config)
    assert draw.forward == parts["acting"] + parts["action_in"]
    assert draw.backward == 2 * draw.forward - parts["action_in"]
    assert alone.forward == sum(parts.values()) - draw.forward
    five = count_flops(run_of(replace(PI0_SMALL, num_draws=5)))
    assert five.total == alone.total + 5 * draw.total


def test_a_model_that_draws_nothing_has_no_cost_of_a_draw() -> None:
    with pytest.raises(ValueError, match="found π0-FAST, which draws no noise"):
        count_draw_flops(run_of(FAST_SMALL))


@pytest.mark.parametrize(
    "model",
    [PI0_SMALL, PI05_SMALL, CO_TRAINED, FAST_SMALL],
    ids=["π0", "π0.5", "π0.5 co-trained", "π0-FAST"],
)
def test_blank_batches_have_the_shapes_that_models_read(model: ModelConfig) -> None:
    """A model checks every shape when it is called."""
    config = run_of(model)
    network = skeleton(model)
    meta = torch.device("meta")
    loss = batch_loss(network, config, blank_batch(config, 2, meta), blank_draws(network, 2, meta))
    assert loss.shape == ()


def full_size(model: ModelConfig = PI0, **other: Any) -> TrainConfig:
    return run_of(model, **{"image_size": 224, "max_tokens": 48, "num_slots": 3} | other)


def with_published_adapters() -> Pi0Config:
    """Return π0 with the adapters of openpi's `gemma_2b_lora` and `gemma_300m_lora`."""
    thin = LoRAConfig(attention_rank=16, attention_alpha=16.0, feed_forward_rank=16)
    wide = LoRAConfig(attention_rank=32, attention_alpha=32.0, feed_forward_rank=32)
    language = replace(PI0.backbone.language, lora=thin)
    return replace(
        PI0, backbone=replace(PI0.backbone, language=language), expert=replace(PI0.expert, lora=wide)
    )


def test_the_published_model_takes_what_was_counted_by_hand() -> None:
    """3 views and 48 tokens, in 10¹² operations: SigLIP 0.6605, prefix 3.149, expert 0.0386."""
    flops = count_flops(full_size())
    assert flops.forward == pytest.approx((0.6605 + 3.149 + 0.0386) * 1e12, rel=1e-3)
    assert flops.total == pytest.approx(11.5e12, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: full_size(num_slots=2), 7.9),
        (lambda: full_size(PI05, max_tokens=200), 13.4),
        (lambda: full_size(frozen=("backbone.*",)), 3.93),
    ],
    ids=["two views", "π0.5", "expert alone"],
)
def test_kinds_of_training_take_what_was_counted_by_hand(
    make: Callable[[], TrainConfig], expected: float
) -> None:
    assert count_flops(make()).total == pytest.approx(expected * 1e12, rel=0.007)


@pytest.mark.slow
@pytest.mark.parametrize(("also", "expected"), [((), 8.5), (("backbone.vision.*",), 7.1)])
def test_adapters_take_what_was_counted_by_hand(also: tuple[str, ...], expected: float) -> None:
    """The count by hand leaves out the adapters' own products, forward and twice backward."""
    model = with_published_adapters()
    flops = count_flops(full_size(model, frozen=(*around_adapters(model), *also)))
    adapters = 3 * (flops.forward - count_flops(full_size()).forward)
    assert adapters > 0.1e12
    assert flops.total - adapters == pytest.approx(expected * 1e12, rel=0.007)
