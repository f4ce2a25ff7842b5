"""One update: from a batch to new weights, or to none if the gradient is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pizero.data.collate import rows_of
from pizero.data.loader import AnySource
from pizero.data.sampler import Sampler
from pizero.models.base import Draws, Loss
from pizero.training.augmentation import augment, draw_distortions, moving
from pizero.training.config import Execution, TrainConfig
from pizero.training.optimizer import clip_gradients, learning_rate, set_rate, update_average, weight_norm
from pizero.training.ranks import Ranks
from pizero.training.state import State
from pizero.types import Batch


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one update was like; `loss` is the sum of the weighted `terms`."""

    loss: float
    terms: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    parameter_norm: float
    made: bool

    def named_terms(self) -> dict[str, float]:
        """Return the terms under the names of a log; nothing if there is but one, which is the loss."""
        return {f"loss_{name}": term for name, term in self.terms.items()} if len(self.terms) > 1 else {}


def check_division(config: TrainConfig, execution: Execution, ranks: Ranks) -> None:
    """Raise ValueError unless a batch divides into equal pieces for all processes."""
    pieces = ranks.world_size * execution.micro_batches
    if execution.micro_batches < 1 or config.batch_size % pieces:
        raise ValueError(
            f"expected a batch that divides into {ranks.world_size} processes × {execution.micro_batches} "
            f"micro-batches, found {config.batch_size} samples; change --batch-size, --micro-batches or the "
            f"number of processes"
        )


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """Return the seed of one stream of a step's chances: a pure function, so that resuming repeats it."""
    key = (seed, step, stream) if stream else (seed, step)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Augmenter:
    """What the model sees of a batch: its pictures augmented, and its steps masked, as the config says."""

    def __init__(
        self, config: TrainConfig, sources: Sequence[AnySource], sampler: Sampler, ranks: Ranks
    ) -> None:
        self.config, self.sampler, self.ranks = config, sampler, ranks
        slots = [source.contract.slots or source.contract.embodiment.camera_names for source in sources]
        self.moves = [moving(names) for names in slots]

    def prepare(self, batch: Batch, step: int) -> Batch:
        """Return this process's part of the batch of a step."""
        if self.config.padded_steps == "counted":
            batch = replace(batch, valid=batch.valid.any(dim=1, keepdim=True).expand_as(batch.valid))
        if self.config.augmentation is None:
            return batch
        seed = step_seed(self.config.seed, step, stream=1)
        generator = torch.Generator(self.ranks.device).manual_seed(seed)
        drawn = draw_distortions(self.config.augmentation, self.config.batch_size, generator)
        drawn = drawn.rows(self.ranks.own_rows)
        chosen = self.sampler.step(step)[0][self.ranks.own_rows]
        images = batch.inputs.images.clone()
        for moves in set(self.moves):  # robots of a mixture may have their wrist cameras elsewhere
            alike = np.flatnonzero([self.moves[source] == moves for source in chosen])
            rows = torch.from_numpy(alike).to(self.ranks.device)
            images[rows] = augment(images[rows], drawn.rows(rows), moves=moves)
        return replace(batch, inputs=replace(batch.inputs, images=images))


def update(
    state: State, batch: Batch, config: TrainConfig, *, step: int, execution: Execution, ranks: Ranks
) -> Figures:
    """Make update `step`, counted from 0, of this process's part of its batch; all processes together.

    Noise and flow times are drawn for the whole batch, so that they do not depend on who computes what.
    Each term of the loss is a mean over the whole batch.
    """
    model, optimizer = state.model, state.optimizer
    rate = learning_rate(config.optimizer, step)
    set_rate(optimizer, rate)
    optimizer.zero_grad()
    generator = torch.Generator(ranks.device).manual_seed(step_seed(config.seed, step))
    draws = model.draw(config.batch_size, generator).rows(ranks.own_rows)
    counts = count(model.counted(batch.inputs, batch.valid, draws), ranks)
    sums = dict.fromkeys(counts, torch.zeros((), device=ranks.device))
    weights: dict[str, float] = {}
    size = len(batch.actions) // execution.micro_batches
    for first in range(0, len(batch.actions), size):
        rows = slice(first, first + size)
        losses = _losses(state, rows_of(batch, rows), draws.rows(rows), config)
        means = {name: _sum(term) / counts[name] for name, term in losses.items()}
        weights = {name: term.weight for name, term in losses.items()}
        weighted = weighted_sum(means, weights)
        (weighted * ranks.world_size).backward()  # gradients are averaged over processes
        sums = {name: sums[name] + mean.detach() for name, mean in means.items()}
    norm = clip_gradients(model.parameters(), config.optimizer.clip_norm)
    terms = ranks.sum(torch.stack(list(sums.values())))
    made = bool(torch.isfinite(norm) & torch.isfinite(terms).all())
    if made:
        optimizer.step()
        if config.ema_decay is not None:
            update_average(state.average, model, config.ema_decay)
    values = dict(zip(sums, terms, strict=True))
    return Figures(
        loss=weighted_sum(values, weights).item(),
        terms={name: value.item() for name, value in values.items()},
        learning_rate=rate,
        gradient_norm=norm.item(),
        parameter_norm=weight_norm(model).item(),
        made=made,
    )


def count(counted: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return over how many values of all processes each term is a mean; at least 1."""
    numbers = ranks.sum(torch.stack([mask.sum().to(torch.float32) for mask in counted.values()]))
    return dict(zip(counted, numbers.clamp(min=1.0), strict=True))


def _losses(state: State, batch: Batch, draws: Draws, config: TrainConfig) -> dict[str, Loss]:
    real = batch.real if config.padded_dimensions == "masked" else None
    return state.model.losses(batch.inputs, batch.actions, batch.valid, draws=draws, real=real)


def _sum(term: Loss) -> Tensor:
    return (term.values * term.counted).sum()


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of a loss's terms, each times its weight."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
