"""Everything that decides what a training run computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pizero.contract import ActionForm, Convention, Normalization, PromptFormat
from pizero.models.build import ModelConfig
from pizero.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, but for its data; the same config, data and seed give the same weights on a CPU.

    The data may be several datasets, sampled by `weights` or else ∝ size^0.43, of one robot or of several.
    States and actions of different robots are padded to `width` numbers and their cameras to `num_slots`;
    padded dimensions of the actions count in the loss, as in openpi, or are `masked`. Actions are written in
    `action_form`, but for the dimensions named in `absolute`.

    A sample that cannot be read is replaced by the next one, up to `max_damaged` times.

    `held_out` is the share of each task's episodes that training never sees; every `validate_every` steps the
    policy acts on frames of those, and its actions are compared with the recorded ones. Weights whose names
    fit a rule of `frozen` (`backbone.*`) stay as they are; adapters train always.
    """

    model: ModelConfig
    embodiments: tuple[str, ...]
    image_size: int
    max_tokens: int
    prompt: PromptFormat = "pi0"
    normalization: Normalization = "zscore"
    convention: Convention = "native"
    action_form: ActionForm = "recorded"
    absolute: tuple[str, ...] = ()
    width: int = 0
    num_slots: int = 0
    weights: tuple[float, ...] = ()
    padded_dimensions: Literal["counted", "masked"] = "counted"
    max_damaged: int = 0
    optimizer: OptimizerConfig
    num_steps: int
    batch_size: int = 64
    ema_decay: float = 0.99
    held_out: float = 0.03
    frozen: tuple[str, ...] = ()
    validate_every: int = 200
    save_every: int = 200
    seed: int = 0
