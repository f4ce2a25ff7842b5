"""Everything that decides what a training run computes."""

from __future__ import annotations

from dataclasses import dataclass

from pizero.contract import ActionForm, Normalization
from pizero.models.build import ModelConfig
from pizero.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, but for its data; the same config, data and seed give the same weights on a CPU.

    `held_out` is the share of each task's episodes that training never sees; every `validate_every` steps the
    policy acts on frames of those, and its actions are compared with the recorded ones. Weights whose names
    fit a rule of `frozen` (`backbone.*`) stay as they are; adapters train always.
    """

    model: ModelConfig
    embodiment: str
    image_size: int
    max_tokens: int
    normalization: Normalization = "zscore"
    action_form: ActionForm = "recorded"
    optimizer: OptimizerConfig
    num_steps: int
    batch_size: int = 64
    ema_decay: float = 0.99
    held_out: float = 0.03
    frozen: tuple[str, ...] = ()
    validate_every: int = 200
    save_every: int = 200
    seed: int = 0
