"""What the 2-D studies of flow matching share: small networks that train side by side, and how they learn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pizero.generative.process import Process
from pizero.generative.times import TimeDensity
from pizero.nn.time_embedding import time_embedding

TIME_WIDTH = 16
"""Numbers that tell a network one time: sines and cosines of periods from 1/2 to 4."""

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor | None]]
"""(rows, generator) → actions `[row, horizon, action_dim]`, and conditions `[row, feature]` or None."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a study is: networks per method, updates, rows of a batch for each network, test samples."""

    num_members: int = 5
    num_updates: int = 4000
    rows: int = 128
    num_samples: int = 2048

    @property
    def batch(self) -> int:
        """Return the rows of one batch over all members."""
        return self.num_members * self.rows


QUICK = Size(num_members=2, num_updates=60, rows=64, num_samples=256)
"""Too small for a claim; shows that a study runs."""


class Networks(nn.Module):
    """Perceptrons of three hidden layers that train side by side and share nothing: one for each member.

    Rows are sorted by member: of `member * row` rows the first belong to the first member. A network sees the
    noisy actions, its times, and a condition, which is zero where none is given.
    """

    def __init__(
        self,
        *,
        num_members: int,
        generator: torch.Generator,
        action_dim: int = 2,
        condition_dim: int = 0,
        num_times: int = 1,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.num_members, self.condition_dim = num_members, condition_dim
        sizes = [action_dim + TIME_WIDTH * num_times + condition_dim, width, width, width, action_dim]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            normal = torch.randn(num_members, fan_in, fan_out, generator=generator)
            self.weights.append(nn.Parameter(normal / math.sqrt(fan_in)))
            self.biases.append(nn.Parameter(torch.zeros(num_members, 1, fan_out)))

    def forward(
        self,
        noisy: Float[Tensor, "row horizon action_dim"],
        *times: Float[Tensor, "row"],
        condition: Float[Tensor, "row feature"] | None = None,
    ) -> Float[Tensor, "row horizon action_dim"]:
        """Return one prediction for each row, of the shape of the noisy actions."""
        parts = [noisy.flatten(1), *(time_embedding(time, TIME_WIDTH, shortest=0.5) for time in times)]
        if self.condition_dim:
            parts.append(noisy.new_zeros(len(noisy), self.condition_dim) if condition is None else condition)
        x = torch.cat(parts, dim=-1).unflatten(0, (self.num_members, -1))
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, nn.functional.silu(x) if layer else x, weight)
        return x.reshape(noisy.shape)

    def bound(self, condition: Float[Tensor, "row feature"] | None = None) -> Callable[..., Tensor]:
        """Return the networks as a function of noisy actions and times, without gradients."""

        @torch.no_grad()
        def denoise(noisy: Tensor, *times: Tensor) -> Tensor:
            return self(noisy, *times, condition=condition)

        return denoise


Loss = Callable[[Networks, Networks], Tensor]
"""(networks, their moving average) → the error of each row of a fresh batch."""


def train(
    networks: Networks,
    loss: Loss,
    *,
    num_updates: int,
    watch: Callable[[int, Networks], None] | None = None,
    learning_rate: float = 2e-3,
    decay: float = 0.995,
) -> Networks:
    """Return the moving average of networks that Adam trains, at a constant rate; `watch` sees it after each
    update.
    """
    average = copy.deepcopy(networks).requires_grad_(requires_grad=False)
    optimizer = torch.optim.Adam(networks.parameters(), lr=learning_rate, foreach=True)
    for update in range(1, num_updates + 1):
        error = loss(networks, average).mean() * networks.num_members
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        step = max(1.0 - decay, 1.0 / update)
        for kept, new in zip(average.parameters(), networks.parameters(), strict=True):
            kept.data.lerp_(new.data, step)
        if watch is not None:
            watch(update, average)
    return average


def denoising_loss(
    process: Process, draw: Draw, *, rows: int, generator: torch.Generator, time: TimeDensity | None = None
) -> Loss:
    """Return the squared error that a process trains by, on `rows` fresh rows each time."""
    density = process.time if time is None else time

    def loss(networks: Networks, _average: Networks) -> Tensor:
        actions, condition = draw(rows, generator)
        noise = torch.randn(actions.shape, generator=generator)
        times = density.sample(rows, generator)
        noisy, goal = process.corrupt(actions, noise=noise, time=times)
        return (networks(noisy, times, condition=condition) - goal).square().flatten(1).mean(dim=1)

    return loss


def trained(
    process: Process,
    draw: Draw,
    size: Size,
    *,
    seed: int,
    watch: Callable[[int, Networks], None] | None = None,
    num_updates: int | None = None,
) -> Networks:
    """Return networks that have learnt a process on fresh batches; a seed gives weights and batches."""
    generator = torch.Generator().manual_seed(seed)
    actions, condition = draw(1, generator)
    networks = Networks(
        num_members=size.num_members,
        generator=generator,
        action_dim=actions[0].numel(),
        condition_dim=0 if condition is None else condition.shape[1],
    )
    loss = denoising_loss(process, draw, rows=size.batch, generator=generator)
    return train(networks, loss, num_updates=num_updates or size.num_updates, watch=watch)


def draw_noise(process: Process, size: Size, *, seed: int, horizon: int = 1, action_dim: int = 2) -> Tensor:
    """Return standard normal noise for `num_samples` samples of every member."""
    shape = process.noise_shape(horizon, action_dim)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size.num_members * size.num_samples, *shape, generator=generator)
