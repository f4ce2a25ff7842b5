"""Everything that decides what a training run computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pizero.contract import ActionForm, Convention, Normalization, PromptFormat
from pizero.models.build import ModelConfig
from pizero.training.augmentation import Augmentation
from pizero.training.optimizer import OptimizerConfig
from pizero.training.recompute import Recompute
from pizero.training.sharding import Gather


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a training run computes, but for its data; with the same seed it gives the same weights on a CPU.

    The data may be several datasets, sampled by `weights` or else ∝ size^0.43, of one robot or of several.
    States and actions of different robots are padded to `width` numbers and their cameras to `num_slots`;
    padded dimensions of the actions count in the loss, as in openpi, or are `masked`; steps past an episode's
    end, where the last action is repeated, are masked, or counted as in openpi. Actions are written in
    `action_form`, but for the dimensions named in `absolute`.

    Weights are drawn from the seed, or those of the policy whose manifest has the sha256 `starts_from`.
    Weights whose names fit a rule of `frozen` (`backbone.*`) stay as they are, stored in `frozen_dtype`;
    adapters train always. The policy that a run writes has the moving average of its weights, or the last
    ones if `ema_decay` is None. An update whose gradient is not finite is skipped, up to `max_skipped` times.

    A sample that cannot be read is replaced by the next one, up to `max_damaged` times.

    `held_out` is the share of each task's episodes that training never sees; every `validate_every` steps the
    policy acts on frames of those, and its actions are compared with the recorded ones.
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
    padded_steps: Literal["counted", "masked"] = "masked"
    augmentation: Augmentation | None = None
    max_damaged: int = 0
    optimizer: OptimizerConfig
    num_steps: int
    batch_size: int = 64
    ema_decay: float | None = 0.99
    held_out: float = 0.03
    starts_from: str = ""
    frozen: tuple[str, ...] = ()
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    max_skipped: int = 10
    validate_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "validate_every"):
            _check(name, getattr(self, name), at_least=1)
        for name in ("max_damaged", "max_skipped", "seed"):
            _check(name, getattr(self, name), at_least=0)
        for name in ("held_out", "ema_decay"):
            share = getattr(self, name)
            if share is not None and not 0.0 <= share < 1.0:
                raise ValueError(f"expected {name} in [0, 1), found {share}")


Tracker = Literal["wandb"]
"""Where figures may go beside `metrics.jsonl` and TensorBoard's files."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run uses machines; apart from rounding, nothing of it changes what is computed.

    A run may go on with another one. Batches are prepared by `num_workers` processes; 0 is a thread. Each
    process makes its part of a batch in `micro_batches` pieces, and computes again in the backward pass what
    `recompute` says. `shards` processes divide a model among them; 0 is all of them. Checkpoints are made
    every `save_every` steps; the last `keep_last` are kept, and each whose step is a multiple of
    `keep_every` (0: none).
    """

    num_workers: int = 0
    micro_batches: int = 1
    recompute: Recompute = "nothing"
    compiled: bool = False
    shards: int = 0
    gather: Gather = "float32"
    save_every: int = 200
    keep_last: int = 2
    keep_every: int = 0
    trackers: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        for name in ("micro_batches", "save_every", "keep_last"):
            _check(name, getattr(self, name), at_least=1)
        for name in ("num_workers", "shards", "keep_every"):
            _check(name, getattr(self, name), at_least=0)


def _check(name: str, value: int, *, at_least: int) -> None:
    if value < at_least:
        raise ValueError(f"expected {name} of at least {at_least}, found {value}")
