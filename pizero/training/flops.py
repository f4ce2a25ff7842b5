"""How many floating-point operations a training step takes: counted on a model that has no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pizero.models.base import ActionModel, Draws
from pizero.models.build import ModelConfig, skeleton
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.robots import find_embodiment
from pizero.training.config import TrainConfig
from pizero.training.freezing import freeze
from pizero.types import Batch, Inputs, Tokens


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of matrix products and convolutions, a multiplication and an addition counted as two.

    They are the model's own: what recomputing activations adds is not counted, nor is what the optimizer
    does, nor the additions and exponentials between products, which take time but few operations.
    """

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Return the operations of the forward and the backward pass together."""
        return self.forward + self.backward


def count_flops(config: TrainConfig, *, rows: int = 1) -> Flops:
    """Return what a training step of `rows` samples takes, with what the config freezes frozen."""
    model = skeleton(config.model)
    freeze(model, config.frozen)
    batch = blank_batch(config, rows, torch.device("meta"))
    draws = blank_draws(model, rows, torch.device("meta"))
    with FlopCounterMode(display=False) as forward:
        loss = batch_loss(model, config, batch, draws)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return Flops(forward=forward.get_total_flops(), backward=backward.get_total_flops())


def count_draw_flops(config: TrainConfig) -> tuple[Flops, Flops]:
    """Return what one observation takes by itself, and what each draw of noise and time adds to it.

    ValueError for a model whose loss draws nothing.
    """
    model = config.model
    if isinstance(model, Pi0FASTConfig):
        raise ValueError("expected a model that denoises, found π0-FAST, which draws no noise")
    one, two = (count_flops(replace(config, model=replace(model, num_draws=number))) for number in (1, 2))
    draw = Flops(forward=two.forward - one.forward, backward=two.backward - one.backward)
    alone = Flops(forward=one.forward - draw.forward, backward=one.backward - draw.backward)
    return alone, draw


def batch_loss(model: ActionModel, config: TrainConfig, batch: Batch, draws: Draws) -> Tensor:
    """Return the loss of a batch as one number: the weighted sum of the means of its terms."""
    real = batch.real if config.padded_dimensions == "masked" else None
    terms = model.losses(batch.inputs, batch.actions, batch.valid, draws=draws, real=real)
    means = [term.weight * (term.values * term.counted).sum() / term.counted.sum() for term in terms.values()]
    return torch.stack(means).sum()


def blank_draws(model: ActionModel, rows: int, device: torch.device) -> Draws:
    """Return draws of the right shapes, all zero."""
    shape = (rows, model.num_draws, model.horizon, model.action_dim)
    delay = torch.zeros(rows, dtype=torch.int64, device=device) if model.max_delay else None
    return Draws(
        noise=torch.zeros(shape, device=device), time=torch.zeros(shape[:2], device=device), delay=delay
    )


def blank_batch(config: TrainConfig, rows: int, device: torch.device) -> Batch:
    """Return a batch of the shapes that a run reads: black pictures, and text that fills its room.

    Where a model learns to write, the second half of the text is what it learns.
    """
    robots = [find_embodiment(name) for name in config.embodiments]
    num_cameras = max(config.num_slots, *(len(robot.cameras) for robot in robots))
    state_dim = max(config.width, *(robot.state_dim for robot in robots))
    action_dim = max(config.width, *(robot.action_dim for robot in robots))
    size, chunk = config.image_size, (rows, config.model.horizon)
    text, half = (rows, config.max_tokens), config.max_tokens // 2
    written = torch.zeros(text, dtype=torch.bool, device=device)
    if writes(config.model):
        written[:, half:] = True
    return Batch(
        inputs=Inputs(
            images=torch.zeros((rows, num_cameras, 3, size, size), dtype=torch.uint8, device=device),
            camera_valid=torch.ones((rows, num_cameras), dtype=torch.bool, device=device),
            state=torch.zeros((rows, state_dim), device=device),
            tokens=Tokens(
                ids=torch.zeros(text, dtype=torch.int64, device=device),
                valid=torch.ones(text, dtype=torch.bool, device=device),
                causal=written,
                target=written,
            ),
        ),
        actions=torch.zeros((*chunk, action_dim), device=device),
        valid=torch.ones(chunk, dtype=torch.bool, device=device),
        real=torch.ones((rows, action_dim), dtype=torch.bool, device=device),
    )


def writes(model: ModelConfig) -> bool:
    """Return whether a model learns to write tokens."""
    return isinstance(model, Pi0FASTConfig) or (
        isinstance(model, Pi05Config) and model.co_training is not None
    )
