"""Named experiments: functions that return a training config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pizero.data.text import ByteTokenizer
from pizero.models.build import ModelConfig
from pizero.models.pi0 import PI0, Pi0Config
from pizero.models.pi0_fast import PI0_FAST, Pi0FASTConfig
from pizero.models.pi05 import PI05, CoTraining, Pi05Config
from pizero.names import nearest
from pizero.nn.gemma import GemmaConfig
from pizero.nn.lora import LoRAConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.vision import ResNetConfig
from pizero.robots import ALOHA, METAWORLD, METAWORLD_POSITIONS, NAVIGATION2D
from pizero.training.augmentation import Augmentation
from pizero.training.config import TrainConfig
from pizero.training.freezing import around_adapters
from pizero.training.optimizer import OptimizerConfig
from pizero.weights.published import find_preset

Precision = Literal["float32", "bfloat16"]


def native_precision() -> Precision:
    """Return bfloat16 where this processor multiplies it in hardware (AVX512-BF16 or AMX), else float32."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8") if flags.is_file() else ""
    return "bfloat16" if "avx512_bf16" in text or "amx_bf16" in text else "float32"


def metaworld(*, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None) -> TrainConfig:
    """π0 at a size that two CPU cores train in minutes, from scratch, on simulated demonstrations."""
    size = METAWORLD.cameras[0].height
    model = Pi0Config(
        backbone=PaliGemmaConfig(
            vision=ResNetConfig(image_size=size),
            language=GemmaConfig(width=128, depth=3, mlp_dim=384, num_heads=4, num_kv_heads=1, head_dim=32),
            vocab_size=ByteTokenizer.vocab_size,
        ),
        expert=GemmaConfig(width=128, depth=3, mlp_dim=384, num_heads=4, num_kv_heads=1, head_dim=32),
        state_dim=METAWORLD.state_dim,
        action_dim=METAWORLD.action_dim,
        horizon=10,
        num_draws=4,
        compute_dtype=precision or native_precision(),
    )
    optimizer = OptimizerConfig(
        peak_rate=1e-3,
        final_rate=1e-5,
        warmup_steps=100,
        decay_steps=num_steps,
        weight_decay=1e-4,
    )
    return TrainConfig(
        model=model,
        embodiments=(METAWORLD.name,),
        image_size=size,
        max_tokens=32,
        action_form="displacement",
        optimizer=optimizer,
        num_steps=num_steps,
        seed=seed,
    )


def metaworld_fast(
    *, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None
) -> TrainConfig:
    """π0-FAST at the same size: actions as the tokens of a tokenizer that was fitted on the same data."""
    base = metaworld(seed=seed, num_steps=num_steps, precision=precision)
    assert isinstance(base.model, Pi0Config)
    language = GemmaConfig(width=192, depth=4, mlp_dim=576, num_heads=4, num_kv_heads=1, head_dim=48)
    model = Pi0FASTConfig(
        backbone=replace(
            base.model.backbone,
            language=language,
            vocab_size=ByteTokenizer.vocab_size + FAST_VOCABULARY + 128,
        ),
        action_dim=METAWORLD.action_dim,
        horizon=base.model.horizon,
        max_new_tokens=48,
        skipped_positions=0,
        compute_dtype=base.model.compute_dtype,
    )
    return replace(base, model=model, prompt="pi0_fast", normalization="quantile", max_tokens=120)


def metaworld_pi05(
    *, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None
) -> TrainConfig:
    """π0.5 at the same size: the state in the prompt, and a clock that steers the expert's norms."""
    base = metaworld(seed=seed, num_steps=num_steps, precision=precision)
    assert isinstance(base.model, Pi0Config)
    model = Pi05Config(
        backbone=base.model.backbone,
        expert=replace(base.model.expert, conditioned=True),
        action_dim=METAWORLD.action_dim,
        horizon=base.model.horizon,
        num_draws=base.model.num_draws,
        compute_dtype=base.model.compute_dtype,
    )
    return replace(base, model=model, prompt="pi05", normalization="quantile", max_tokens=72)


def metaworld_co_trained(
    *, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None
) -> TrainConfig:
    """The same π0.5, whose backbone learns the tokens of the actions and, insulated, not from the flow."""
    base = metaworld_pi05(seed=seed, num_steps=num_steps, precision=precision)
    assert isinstance(base.model, Pi05Config)
    vocab_size = ByteTokenizer.vocab_size + FAST_VOCABULARY + 128
    model = replace(
        base.model,
        backbone=replace(base.model.backbone, vocab_size=vocab_size),
        co_training=CoTraining(),
    )
    return replace(base, model=model, max_tokens=120)


def metaworld_and_navigation(
    *, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None
) -> TrainConfig:
    """One π0 for two robots: the simulated arm, and the point on a plane, padded to the arm's numbers."""
    base = metaworld(seed=seed, num_steps=num_steps, precision=precision)
    return replace(
        base,
        embodiments=(METAWORLD.name, NAVIGATION2D.name),
        width=max(METAWORLD.state_dim, METAWORLD.action_dim),
        num_slots=len(METAWORLD.cameras),
    )


def metaworld_positions(
    *, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None
) -> TrainConfig:
    """The same π0 for an arm that is told where its hand is to be: targets relative to the current hand."""
    base = metaworld(seed=seed, num_steps=num_steps, precision=precision)
    return replace(base, embodiments=(METAWORLD_POSITIONS.name,), action_form="relative")


def metaworld_real_time(
    *, seed: int = 0, num_steps: int = 1_200, precision: Precision | None = None
) -> TrainConfig:
    """The same π0 with chunks of a second, of which it learns to be given up to the first half."""
    base = metaworld(seed=seed, num_steps=num_steps, precision=precision)
    assert isinstance(base.model, Pi0Config)
    horizon = 2 * base.model.horizon
    return replace(base, model=replace(base.model, horizon=horizon, max_delay=horizon // 2))


def fine_tune(
    *, model: ModelConfig, seed: int = 0, num_steps: int = 30_000, precision: Precision | None = None
) -> TrainConfig:
    """Every weight of a policy, with openpi's optimizer, augmentation and batch."""
    return TrainConfig(
        model=replace(model, compute_dtype=precision or model.compute_dtype),
        embodiments=(ALOHA.name,),
        image_size=224,
        max_tokens=48,
        width=32,
        num_slots=3,
        padded_steps="counted",
        augmentation=Augmentation(),
        optimizer=OptimizerConfig(decay_steps=num_steps),
        num_steps=num_steps,
        batch_size=32,
        validate_every=1_000,
        seed=seed,
    )


def fine_tune_lora(
    *, model: ModelConfig, seed: int = 0, num_steps: int = 30_000, precision: Precision | None = None
) -> TrainConfig:
    """Adapters of both transformers, the image encoder and the projections around the expert, as openpi does.

    What is frozen is stored in bfloat16 where that is computed in, and there is no moving average.
    """
    config = fine_tune(model=model, seed=seed, num_steps=num_steps, precision=precision)
    language = replace(config.model.backbone.language, lora=LORA_2B)
    adapted: ModelConfig = replace(config.model, backbone=replace(config.model.backbone, language=language))
    if not isinstance(adapted, Pi0FASTConfig):
        adapted = replace(adapted, expert=replace(adapted.expert, lora=LORA_300M))
    return replace(
        config,
        model=adapted,
        frozen=around_adapters(adapted),
        frozen_dtype=adapted.compute_dtype,
        ema_decay=None,
    )


def fine_tune_expert(
    *, model: ModelConfig, seed: int = 0, num_steps: int = 30_000, precision: Precision | None = None
) -> TrainConfig:
    """The action expert and the projections around it; the vision-language model stays as it is."""
    config = fine_tune(model=model, seed=seed, num_steps=num_steps, precision=precision)
    if isinstance(config.model, Pi0FASTConfig):
        raise ValueError("π0-FAST has no action expert: take the recipe `fine_tune` or `fine_tune_lora`")
    return replace(config, frozen=("backbone.*",), frozen_dtype=config.model.compute_dtype)


LORA_2B = LoRAConfig(attention_rank=16, attention_alpha=16.0, feed_forward_rank=16)
LORA_300M = LoRAConfig(attention_rank=32, attention_alpha=32.0, feed_forward_rank=32)
"""Adapters of the language model and of the expert (openpi's `gemma_2b_lora` and `gemma_300m_lora`)."""

FINE_TUNING: dict[str, Callable[..., TrainConfig]] = {
    "fine_tune": fine_tune,
    "fine_tune_lora": fine_tune_lora,
    "fine_tune_expert": fine_tune_expert,
}
"""Recipes whose model is that of the policy that a run starts from."""


def published(make: Callable[..., TrainConfig], name: str) -> Callable[..., TrainConfig]:
    """Return the recipe that fine-tunes one of Physical Intelligence's published checkpoints."""
    preset = find_preset(name)
    size = {"Pi0": PI0, "Pi05": PI05, "Pi0FAST": PI0_FAST}[preset.model]

    def recipe(*, seed: int = 0, num_steps: int = 30_000, precision: Precision | None = None) -> TrainConfig:
        model = replace(size, horizon=preset.horizon)
        config = make(model=model, seed=seed, num_steps=num_steps, precision=precision)
        return replace(
            config,
            prompt=preset.prompt,
            max_tokens=preset.max_tokens,
            normalization=preset.normalization,
            action_form="relative",
        )

    return recipe


FAST_VOCABULARY = 512
"""Tokens of actions that `metaworld_fast` and `metaworld_co_trained` have room for."""

RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "metaworld": metaworld,
    "metaworld_positions": metaworld_positions,
    "metaworld_fast": metaworld_fast,
    "metaworld_pi05": metaworld_pi05,
    "metaworld_co_trained": metaworld_co_trained,
    "metaworld_and_navigation": metaworld_and_navigation,
    "metaworld_real_time": metaworld_real_time,
}
"""Experiments that start from nothing."""

NEEDS_START: dict[str, Callable[..., TrainConfig]] = {
    "pi0": published(fine_tune, "pi0_base"),
    "pi0_lora": published(fine_tune_lora, "pi0_base"),
    "pi0_expert": published(fine_tune_expert, "pi0_base"),
    "pi05": published(fine_tune, "pi05_base"),
    "pi05_lora": published(fine_tune_lora, "pi05_base"),
    "pi05_expert": published(fine_tune_expert, "pi05_base"),
    "pi0_fast": published(fine_tune, "pi0_fast_base"),
    "pi0_fast_lora": published(fine_tune_lora, "pi0_fast_base"),
}
"""Fine-tuning of published checkpoints; a dry run needs no checkpoint."""


def find_recipe(name: str, start: ModelConfig | None = None) -> Callable[..., TrainConfig]:
    """Return the recipe of that name, for a policy's model to start from; ValueError if there is none."""
    if name in FINE_TUNING:
        if start is None:
            raise ValueError(f"the recipe {name!r} starts from a policy: name one with --start-from")
        return partial(FINE_TUNING[name], model=start)
    known = RECIPES | NEEDS_START
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}: {nearest(name, [*known, *FINE_TUNING])}")
    return known[name]
