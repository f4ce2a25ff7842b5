"""What every policy network can do: score a chunk of actions against an observation, and propose one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pizero.generative.flow import FlowMatching
from pizero.types import Inputs

Context = TypeVar("Context")


class ActionModel(nn.Module, ABC):
    """A distribution over action chunks, in model units, given what a robot shows."""

    horizon: int
    action_dim: int

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Return the shape of the standard normal noise that one chunk is made from."""
        return (self.horizon, self.action_dim)

    @abstractmethod
    def loss(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        generator: torch.Generator,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> Float[Tensor, "batch horizon"]:
        """Return the training loss of each action step, of `real` dimensions alone if they are given."""

    @abstractmethod
    def sample(
        self, inputs: Inputs, *, noise: Float[Tensor, "batch *noise_shape"]
    ) -> Float[Tensor, "batch horizon action_dim"] | Int[Tensor, "batch token"]:
        """Return one action chunk per row, made from standard normal `noise`, as numbers or as tokens."""


class DenoisingModel(ActionModel, Generic[Context]):
    """A model that looks once and denoises many times; loss and sampling are written here for all of them.

    `num_draws` (noise, time) pairs are drawn per observation in `loss`: the observation is encoded once and
    its gradient is the mean over the draws, which is far cheaper than as many observations.
    """

    process: FlowMatching
    num_draws: int

    @abstractmethod
    def observe(self, inputs: Inputs) -> Context:
        """Encode what does not depend on the actions."""

    @abstractmethod
    def denoise(
        self, context: Context, noisy: Float[Tensor, "batch horizon action_dim"], time: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Return the prediction of the process's target at `time`."""

    @abstractmethod
    def repeat(self, context: Context, times: int) -> Context:
        """Return each row of a context `times` times in a row."""

    def loss(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        generator: torch.Generator,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> Float[Tensor, "batch horizon"]:
        """Return the squared error of the prediction, averaged over draws and (real) action dimensions."""
        repeated = actions.repeat_interleave(self.num_draws, dim=0)
        noise = torch.randn(repeated.shape, generator=generator, device=generator.device)
        time = self.process.time.sample(repeated.shape[0], generator)
        context = self.repeat(self.observe(inputs), self.num_draws)
        if real is not None:
            real = real.repeat_interleave(self.num_draws, dim=0)
        error = self.prediction_error(context, repeated, noise=noise, time=time, real=real)
        return error.unflatten(0, (-1, self.num_draws)).mean(dim=1)

    def prediction_error(
        self,
        context: Context,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        noise: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> Float[Tensor, "batch horizon"]:
        """Return the squared error at given noise and time, averaged over (real) action dimensions."""
        noisy, target = self.process.corrupt(actions, noise=noise, time=time)
        error = (self.denoise(context, noisy, time) - target).square()
        if real is None:
            return error.mean(dim=-1)
        return (error * real[:, None]).sum(dim=-1) / real.sum(dim=-1)[:, None]

    @torch.no_grad()
    def sample(
        self, inputs: Inputs, *, noise: Float[Tensor, "batch horizon action_dim"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Look once, then carry `noise` to actions."""
        context = self.observe(inputs)
        return self.process.generate(lambda noisy, time: self.denoise(context, noisy, time), noise)
