"""What a training step changes, and where it comes from: drawn weights, or those of another policy."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pizero.models.base import ActionModel
from pizero.models.build import build, skeleton
from pizero.nn.lora import draw_adapter, is_adapter
from pizero.training.config import Execution, TrainConfig
from pizero.training.freezing import freeze
from pizero.training.optimizer import make_optimizer
from pizero.training.ranks import Ranks
from pizero.training.recompute import Recompute, apply_recompute, layers_of
from pizero.training.sharding import divide_again, first_row, local, shard, whole
from pizero.weights.folder import check_fit, read_policy


@dataclass(frozen=True)
class State:
    """A model in training, the moving average of its weights (of those that train), and its optimizer."""

    model: ActionModel
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name: `model.NAME`, `average.NAME`, `optimizer.NAME.MOMENT`."""
        tensors = {f"model.{name}": tensor.detach() for name, tensor in self.model.named_parameters()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": moment for key, moment in moments.items()}
        return tensors

    def make_room(self, names: list[str]) -> None:
        """Give the optimizer some moments (`optimizer.NAME.MOMENT`), so that they can be filled."""
        for name in names:
            weight, _, moment = name.removeprefix("optimizer.").rpartition(".")
            parameter = self.model.get_parameter(weight)
            blank = torch.zeros((), device=parameter.device) if moment == "step" else parameter.detach()
            self.optimizer.state[parameter][moment] = torch.zeros_like(blank)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the averaged weights for a while; one weight at a time is held twice."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        divide_again(self.model)
        for name, averaged in self.average.items():
            weight, other = local(self.model.get_parameter(name).detach()), local(averaged)
            kept = weight.clone()
            weight.copy_(other)
            other.copy_(kept)

    def policy_weights(self, *, keep: bool) -> dict[str, Tensor]:
        """Return the weights of the policy that is in training; nothing where they are not to be kept.

        Every process has to call it: weights are put together one after the other.
        """
        weights = {}
        for name, parameter in self.model.named_parameters():
            weight = whole(self.average.get(name, parameter.detach()))
            if keep:
                weights[name] = weight.cpu()
        return weights


def make_state(
    config: TrainConfig, *, execution: Execution | None = None, ranks: Ranks | None = None, start: Path | None
) -> State:
    """Return the state of a run before its first step, with the weights of the policy `start` if it is given.

    Each process reads and keeps only its own part of that policy. ValueError if the policy does not fit.
    """
    execution, ranks = execution or Execution(), ranks or Ranks()
    model = build(config.model, config.seed) if start is None else skeleton(config.model)
    prepare_model(model, config, execution.recompute)
    if execution.compiled:
        for layer in layers_of(model):
            layer.compile()
    shard(model, ranks, shards=execution.shards or ranks.world_size, gather=execution.gather)
    if start is None:
        model.to(ranks.device)
    else:
        model.to_empty(device=ranks.device)
        _copy_weights(model, start, config.seed)
    return state_of(model, config)


def prepare_model(model: ActionModel, config: TrainConfig, recompute: Recompute) -> None:
    """Freeze what a config freezes, store it as the config says, and let layers be computed again."""
    freeze(model, config.frozen)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, config.frozen_dtype))
    apply_recompute(model, recompute)


def state_of(model: ActionModel, config: TrainConfig) -> State:
    """Return a prepared model with its average, if the config has one, and its optimizer."""
    average = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and config.ema_decay is not None
    }
    return State(model=model, average=average, optimizer=make_optimizer(config.optimizer, model))


@torch.no_grad()
def _copy_weights(model: ActionModel, start: Path, seed: int) -> None:
    policy = read_policy(start)
    own = dict(model.named_parameters())
    fresh = [name for name in own if is_adapter(name) and name not in policy.tensors]
    expected = {name: weight.shape for name, weight in own.items() if name not in fresh}
    check_fit(expected, {name: tensor.shape for name, tensor in policy.tensors.items()}, str(start))
    for name, weight in own.items():
        if name in fresh:
            generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
            given = draw_adapter(weight.shape, generator)
        else:
            given = policy.tensors[name]
        target, row = local(weight), first_row(weight)
        target.copy_(given[row : row + len(target)])
