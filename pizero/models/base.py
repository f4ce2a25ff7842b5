"""What every policy network can do: score a chunk of actions against an observation, and propose one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pizero.generative.chunking import Chunking, follows, with_prefix
from pizero.generative.flow import FlowMatching
from pizero.generative.process import Time
from pizero.types import Inputs

Context = TypeVar("Context")


@dataclass(frozen=True)
class Draws:
    """What chance decides in a training step: pairs of noise and flow time, so many for each observation.

    They are drawn for a whole batch, of which processes and micro-batches take their rows; so the same step
    sees the same noise however it is divided. A model that learns to be given the first actions of a chunk
    is given the first `delay` of each observation's.
    """

    noise: Float[Tensor, "batch draw horizon action_dim"]
    time: Float[Tensor, "batch draw"]
    delay: Int[Tensor, "batch"] | None = None

    def rows(self, rows: slice) -> Draws:
        """Return the draws of some observations."""
        delay = None if self.delay is None else self.delay[rows]
        return Draws(noise=self.noise[rows], time=self.time[rows], delay=delay)


@dataclass(frozen=True)
class Loss:
    """One term of a training loss: the mean of its values over those that are counted, times its weight."""

    values: Float[Tensor, "batch *step"]
    counted: Bool[Tensor, "batch *step"]
    weight: float = 1.0


class ActionModel(nn.Module, ABC):
    """A distribution over action chunks, in model units, given what a robot shows."""

    horizon: int
    action_dim: int
    num_draws: int
    max_delay: int = 0
    """The most actions of a chunk that the model has learnt to be given; 0 if it has not."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Return the shape of the standard normal noise that one chunk is made from."""
        return (self.horizon, self.action_dim)

    @abstractmethod
    def draw(self, num_rows: int, generator: torch.Generator) -> Draws:
        """Return what chance decides in a training step over `num_rows` observations."""

    @abstractmethod
    def counted(
        self, inputs: Inputs, valid: Bool[Tensor, "batch horizon"], draws: Draws
    ) -> dict[str, Bool[Tensor, "batch *step"]]:
        """Return what each term of the loss is a mean over, known before it is computed."""

    @abstractmethod
    def losses(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action_dim"],
        valid: Bool[Tensor, "batch horizon"],
        *,
        draws: Draws,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> dict[str, Loss]:
        """Return the terms of the training loss, by name; only `valid` steps of a chunk are targets.

        With `real`, only those action dimensions are.
        """

    @abstractmethod
    def sample(
        self, inputs: Inputs, *, noise: Float[Tensor, "batch *noise_shape"]
    ) -> Float[Tensor, "batch horizon action_dim"] | Int[Tensor, "batch token"]:
        """Return one action chunk per row, made from standard normal `noise`, as numbers or as tokens."""


class DenoisingModel(ActionModel, Generic[Context]):
    """A model that looks once and denoises many times; loss and sampling are written here for all of them.

    `num_draws` (noise, time) pairs are drawn per observation: the observation is encoded once and its
    gradient is the mean over the draws, which is far cheaper than as many observations.
    """

    process: FlowMatching

    @abstractmethod
    def observe(self, inputs: Inputs) -> Context:
        """Encode what does not depend on the actions."""

    @abstractmethod
    def denoise(
        self, context: Context, noisy: Float[Tensor, "batch horizon action_dim"], time: Time
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Return the prediction of the process's target at `time`, of whole chunks or of each action."""

    @abstractmethod
    def repeat(self, context: Context, times: int) -> Context:
        """Return each row of a context `times` times in a row."""

    def draw(self, num_rows: int, generator: torch.Generator) -> Draws:
        """Return `num_draws` pairs of noise and time for each of `num_rows` observations.

        Delays, of a model that learns them, are equally likely from 0 to `max_delay`.
        """
        shape = (num_rows, self.num_draws, self.horizon, self.action_dim)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        time = self.process.time.sample(num_rows * self.num_draws, generator).unflatten(0, shape[:2])
        if not self.max_delay:
            return Draws(noise=noise, time=time)
        high, device = self.max_delay + 1, generator.device
        return Draws(
            noise=noise,
            time=time,
            delay=torch.randint(high, (num_rows,), generator=generator, device=device),
        )

    def counted(
        self, inputs: Inputs, valid: Bool[Tensor, "batch horizon"], draws: Draws
    ) -> dict[str, Bool[Tensor, "batch *step"]]:
        """Return the valid steps, but for those that the model is given."""
        return {"flow": valid if draws.delay is None else valid & follows(draws.delay, self.horizon)}

    def losses(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action_dim"],
        valid: Bool[Tensor, "batch horizon"],
        *,
        draws: Draws,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> dict[str, Loss]:
        """Return the squared error of the prediction at each step that counts."""
        values = self.flow_loss(self.observe(inputs), actions, draws, real)
        return {"flow": Loss(values=values, counted=self.counted(inputs, valid, draws)["flow"])}

    def flow_loss(
        self,
        context: Context,
        actions: Float[Tensor, "batch horizon action_dim"],
        draws: Draws,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> Float[Tensor, "batch horizon"]:
        """Return the squared error of the prediction, averaged over draws and (real) action dimensions."""
        number = draws.time.shape[1]
        error = self.prediction_error(
            self.repeat(context, number),
            actions.repeat_interleave(number, dim=0),
            noise=draws.noise.flatten(0, 1),
            time=draws.time.flatten(),
            real=None if real is None else real.repeat_interleave(number, dim=0),
            delay=None if draws.delay is None else draws.delay.repeat_interleave(number, dim=0),
        )
        return error.unflatten(0, (-1, number)).mean(dim=1)

    def prediction_error(
        self,
        context: Context,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        noise: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
        real: Bool[Tensor, "batch action_dim"] | None = None,
        delay: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch horizon"]:
        """Return the squared error at given noise and time, averaged over (real) action dimensions.

        With `delay` the first actions are given as they are; the error there means nothing.
        """
        noisy, target = self.process.corrupt(actions, noise=noise, time=time)
        moment: Time = time
        if delay is not None:
            noisy, moment = with_prefix(noisy, time, clean=actions, delay=delay)
        error = (self.denoise(context, noisy, moment) - target).square()
        if real is None:
            return error.mean(dim=-1)
        return (error * real[:, None]).sum(dim=-1) / real.sum(dim=-1)[:, None]

    @torch.no_grad()
    def sample(
        self,
        inputs: Inputs,
        *,
        noise: Float[Tensor, "batch horizon action_dim"],
        num_steps: int | None = None,
        chunking: Chunking | None = None,
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Look once, then carry `noise` to actions, which go on from other ones if `chunking` says so.

        `num_steps` replaces the process's own number of steps.
        """
        context = self.observe(inputs)
        process = self.process if num_steps is None else replace(self.process, num_steps=num_steps)

        def denoise(noisy: Tensor, time: Tensor) -> Tensor:
            return self.denoise(context, noisy, time)

        if chunking is None:
            return process.generate(denoise, noise)
        return chunking.generate(process, denoise, noise)
