"""What a run computes, in words: the rows of a report's table of its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pizero.models.build import ModelConfig, skeleton
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.records import to_data
from pizero.training.config import Execution, TrainConfig
from pizero.training.freezing import freeze
from pizero.training.optimizer import OptimizerConfig

KINDS = {"Pi0Config": "π0", "Pi05Config": "π0.5", "Pi0FASTConfig": "π0-FAST"}


def count_parameters(config: TrainConfig) -> tuple[int, int]:
    """Return how many numbers a model's weights are, and how many of them train."""
    model = skeleton(config.model)
    freeze(model, config.frozen)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)


def config_facts(config: TrainConfig) -> dict[str, str]:
    """Return what a config says, as names and sentences for a reader."""
    model, schedule = config.model, config.optimizer
    samples = config.batch_size * config.num_steps
    beginning = "weights drawn from the seed"
    if config.starts_from:
        beginning = f"the policy whose manifest has the sha256 {config.starts_from[:16]}…"
    facts = {
        "model": _sizes(model),
        "starts from": beginning,
        "chunk": f"{model.horizon} actions of {model.action_dim} numbers",
        "what is learnt": _learnt(model),
        "adapters": _adapters(model),
        "frozen": f"{', '.join(config.frozen)} (stored in {config.frozen_dtype})"
        if config.frozen
        else "none",
        "precision": model.compute_dtype,
        "batch": f"{config.batch_size:,} samples, {config.num_steps:,} updates: {samples:,} samples",
        "learning rate": (
            f"warm-up over {schedule.warmup_steps:,} updates to {schedule.peak_rate:g}, then a cosine to "
            f"{schedule.final_rate:g} at update {schedule.decay_steps:,}"
        ),
        "optimizer": (
            f"AdamW, β {schedule.beta1:g} and {schedule.beta2:g}, weight decay {schedule.weight_decay:g}, "
            f"gradient clipped to a norm of {schedule.clip_norm:g}"
        ),
        **_groups(schedule),
        "moving average of the weights": (
            "none: the last weights" if config.ema_decay is None else f"decay {config.ema_decay:g}"
        ),
        "augmentation": "none" if config.augmentation is None else _words(to_data(config.augmentation)),
        "robots": ", ".join(config.embodiments) + (f", padded to {config.width}" if config.width else ""),
        "prompt": f"{config.prompt}, at most {config.max_tokens} tokens",
        "pictures": f"{config.image_size} × {config.image_size}"
        + (f", {config.num_slots} of them" if config.num_slots else ""),
        "actions": f"{config.action_form}, {config.normalization}, convention {config.convention}"
        + (f"; absolute: {', '.join(config.absolute)}" if config.absolute else ""),
        "padding": f"dimensions {config.padded_dimensions}, steps past the end {config.padded_steps}",
        "shares of the datasets": _shares(config.weights),
        "held out": (
            f"{config.held_out:.3g} of each task's episodes, tried every {config.validate_every:,} updates"
            if config.held_out
            else "nothing"
        ),
        "borne": (
            f"{config.max_skipped} updates that are not finite, {config.max_damaged} samples that cannot be "
            f"read"
        ),
        "seed": str(config.seed),
    }
    return {name: value for name, value in facts.items() if value}


def chosen_execution(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of a noted execution that are not the default."""
    usual = {name: value for name, value in to_data(Execution()).items() if name != "type"}
    return {name: row[name] for name, value in usual.items() if name in row and row[name] != value}


def execution_rows(lines: Sequence[Mapping[str, Any]], step: int) -> list[dict[str, Any]]:
    """Return, for each time that a run was started, from which update to which its work counts, and how."""
    ends = [row["step"] for row in lines[1:]] + [step]
    return [
        {
            "from_step": row["step"],
            "to_step": max(end, row["step"]),
            **{name: row.get(name) for name in ("time", "world_size", "device", "torch")},
            "options": chosen_execution(row),
        }
        for row, end in zip(lines, ends, strict=False)
    ]


def _sizes(model: ModelConfig) -> str:
    parts = [f"{KINDS[type(model).__name__]}: language model {_transformer(model.backbone.language)}"]
    if not isinstance(model, Pi0FASTConfig):
        parts.append(f"expert {_transformer(model.expert)}")
    vision = model.backbone.vision
    if isinstance(vision, SigLIPConfig):
        parts.append(f"pictures by a SigLIP of {vision.depth} layers × {vision.width}")
    else:
        parts.append(f"pictures by a ResNet of {sum(vision.blocks)} blocks, {max(vision.widths)} channels")
    return "; ".join([*parts, f"{model.backbone.vocab_size:,} words"])


def _transformer(config: GemmaConfig) -> str:
    return f"{config.depth} layers × {config.width}"


def _learnt(model: ModelConfig) -> str:
    if isinstance(model, Pi0FASTConfig):
        return f"tokens of actions, at most {model.max_new_tokens}"
    process = model.process
    text = f"{type(process).__name__}, {process.num_steps} steps to act, {model.num_draws} draws a sample"
    if not isinstance(model, Pi05Config) or model.co_training is None:
        return text
    training = model.co_training
    insulated = ", insulated" if training.insulated else ""
    return (
        f"{text}, weighted {training.action_weight:g}{insulated}; text and tokens of actions, weighted "
        f"{training.text_weight:g}"
    )


def _adapters(model: ModelConfig) -> str:
    parts = {"language model": model.backbone.language}
    if not isinstance(model, Pi0FASTConfig):
        parts["expert"] = model.expert
    found = [
        f"{name}: rank {part.lora.attention_rank} (α {part.lora.attention_alpha:g}) in attention, "
        f"{part.lora.feed_forward_rank} in feed-forward layers"
        for name, part in parts.items()
        if part.lora is not None
    ]
    return "; ".join(found) or "none"


def _groups(schedule: OptimizerConfig) -> dict[str, str]:
    rows = [
        f"{group.rule}: {group.rate:g} × the rate"
        + ("" if group.weight_decay is None else f", weight decay {group.weight_decay:g}")
        for group in schedule.groups
    ]
    return {"weight groups": "; ".join(rows)} if rows else {}


def _shares(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights) if weights else "their size to the power of 0.43"


def _words(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items() if name != "type")
