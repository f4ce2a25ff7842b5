"""Diffusion: noise becomes actions along a path that keeps the variance at one (DDPM, DDIM)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pizero.generative.process import Denoise, per_row
from pizero.generative.times import TimeDensity, UniformTime

COSINE_OFFSET = 0.008
"""Noise at the path's clean end, so that its first steps do not vanish (Nichol and Dhariwal 2021, 3.2)."""

LEAST_SIGNAL = 4e-5
"""Squared signal that is left in pure noise: what DDPM's linear schedule ends at (Ho et al. 2020, section
4).
"""

LINEAR_RATES = (0.1, 20.0)
"""First and last noise rate, per unit of time, of the linear schedule (Song et al. 2021, arXiv 2011.13456,
appendix C; DDPM's 1e-4 to 0.02 over 1000 steps).
"""


def cosine_schedule(time: Float[Tensor, "batch"]) -> Float64[Tensor, "batch"]:
    """Return ᾱ, the share of actions in the variance: `f(t) / f(0)`, f(t) = cos²((t + s) / (1 + s) · π / 2).

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17, with s of theirs. Where they cap the last
    noise rates, ᾱ is kept from falling below `LEAST_SIGNAL`, which takes effect for t > 0.996.
    """
    angle = (time.double() + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * (math.pi / 2)
    clean = math.cos(COSINE_OFFSET / (1.0 + COSINE_OFFSET) * math.pi / 2)
    return (torch.cos(angle) / clean).square().clamp(LEAST_SIGNAL, 1.0)


def linear_schedule(time: Float[Tensor, "batch"]) -> Float64[Tensor, "batch"]:
    """Return ᾱ, the share of actions in the variance, when noise enters at a rate that grows linearly:
    `exp(-t · low - t² · (high - low) / 2)` (Song et al. 2021, arXiv 2011.13456, appendix C).
    """
    low, high = LINEAR_RATES
    t = time.double()
    return torch.exp(-low * t - (high - low) / 2 * t.square())


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The path `x_t = √ᾱ · actions + √(1 - ᾱ) · noise`, with ᾱ falling from 1 at time 0 to about 0 at time 1.

    A network predicts the noise (Ho et al. 2020), the actions, or the velocity `√ᾱ · noise - √(1 - ᾱ) ·
    actions` (Salimans and Ho 2022, arXiv 2202.00512, section 4). Generation takes `num_steps` steps, equal in
    time, of DDIM, which adds no noise, or of DDPM, which adds fresh noise in every step but the last.

    `clip`, where given, is the largest magnitude of an action that a step believes in; Diffusion Policy has
    100 steps of DDPM on the cosine schedule, predicts noise, and clips at 1.
    """

    time: TimeDensity = field(default_factory=UniformTime)
    schedule: Literal["cosine", "linear"] = "cosine"
    prediction: Literal["noise", "sample", "velocity"] = "noise"
    sampler: Literal["ddpm", "ddim"] = "ddim"
    num_steps: int = 10
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(
                f"expected at least one step of diffusion, found num_steps={self.num_steps}; the usual "
                "numbers are 10 for DDIM and 100 for DDPM"
            )

    @property
    def num_evaluations(self) -> int:
        """Return how often `generate` calls the network."""
        return self.num_steps

    def signal(self, time: Float[Tensor, "batch"]) -> Float64[Tensor, "batch"]:
        """Return ᾱ at each time: the share of the actions in the variance."""
        return cosine_schedule(time) if self.schedule == "cosine" else linear_schedule(time)

    def corrupt(
        self,
        actions: Float[Tensor, "batch horizon action_dim"],
        *,
        noise: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon action_dim"]]:
        """Return the noisy actions at `time`, and what a network should predict there."""
        alpha, sigma = self._amplitudes(time, actions)
        noisy = alpha * actions + sigma * noise
        if self.prediction == "noise":
            return noisy, noise
        if self.prediction == "sample":
            return noisy, actions
        return noisy, alpha * noise - sigma * actions

    def separate(
        self,
        noisy: Float[Tensor, "batch horizon action_dim"],
        prediction: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon action_dim"]]:
        """Return the actions and the noise that a prediction says `noisy` is made of.

        With `clip`, the actions are clipped; the noise is what then explains `noisy`, at any time above 0.
        """
        alpha, sigma = self._amplitudes(time, noisy)
        if self.prediction == "noise":
            actions = (noisy - sigma * prediction) / alpha
        elif self.prediction == "sample":
            actions = prediction
        else:
            actions = alpha * noisy - sigma * prediction
        if self.clip is not None:
            actions = actions.clamp(-self.clip, self.clip)
        return actions, (noisy - alpha * actions) / sigma

    def noise_shape(self, horizon: int, action_dim: int) -> tuple[int, ...]:
        """Return the shape of the noise that one chunk is made from: DDPM needs a noise for each step."""
        return (horizon, action_dim) if self.sampler == "ddim" else (self.num_steps, horizon, action_dim)

    def generate(
        self, denoise: Denoise, noise: Float[Tensor, "batch *noise_shape"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Carry noise from time 1 to actions at time 0; for DDPM, `noise[:, 0]` is carried and the others are
        added.
        """
        x = noise if self.sampler == "ddim" else noise[:, 0]
        one = torch.ones(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        for step in range(self.num_steps):
            here, there = one * (1.0 - step / self.num_steps), one * (1.0 - (step + 1) / self.num_steps)
            actions, residual = self.separate(x, denoise(x, here), here)
            if self.sampler == "ddim":
                x = self._ddim_step(actions, residual, there)
            else:
                fresh = noise[:, step + 1] if step + 1 < self.num_steps else torch.zeros_like(x)
                x = self._ddpm_step(x, actions, fresh, here=here, there=there)
        return x

    def _ddim_step(self, actions: Tensor, residual: Tensor, there: Tensor) -> Tensor:
        """Song, Meng and Ermon 2021, arXiv 2010.02502, equation 12 with σ = 0."""
        alpha, sigma = self._amplitudes(there, actions)
        return alpha * actions + sigma * residual

    def _ddpm_step(self, x: Tensor, actions: Tensor, fresh: Tensor, *, here: Tensor, there: Tensor) -> Tensor:
        """Draw from q(x_there | x_here, actions): Ho et al. 2020, arXiv 2006.11239, equations 6 and 7."""
        now, then = self.signal(here), self.signal(there)
        rate = 1.0 - now / then
        of_actions = then.sqrt() * rate / (1.0 - now)
        of_x = (now / then).sqrt() * (1.0 - then) / (1.0 - now)
        deviation = ((1.0 - then) / (1.0 - now) * rate).sqrt()
        return per_row(of_actions, x) * actions + per_row(of_x, x) * x + per_row(deviation, x) * fresh

    def _amplitudes(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ and √(1 - ᾱ), shaped to multiply `like`."""
        signal = self.signal(time)
        return per_row(signal.sqrt(), like), per_row((1.0 - signal).sqrt(), like)
