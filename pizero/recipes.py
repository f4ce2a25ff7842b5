"""Named experiments: functions that return a training config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pizero.data.text import ByteTokenizer
from pizero.models.pi0 import Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.names import nearest
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.vision import ResNetConfig
from pizero.robots import METAWORLD, METAWORLD_POSITIONS, NAVIGATION2D
from pizero.training.config import TrainConfig
from pizero.training.optimizer import OptimizerConfig

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


FAST_VOCABULARY = 512
"""Tokens of actions that `metaworld_fast` has room for."""

RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "metaworld": metaworld,
    "metaworld_positions": metaworld_positions,
    "metaworld_fast": metaworld_fast,
    "metaworld_and_navigation": metaworld_and_navigation,
}


def find_recipe(name: str) -> Callable[..., TrainConfig]:
    """Return the recipe of that name; ValueError with the nearest name if there is none."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
    return RECIPES[name]
