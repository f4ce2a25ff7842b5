"""Real-time chunking: a new chunk that goes on from the actions which a robot is executing meanwhile.

The papers' time runs from 0 (noise) to 1 (actions). Here it is t = 1 - time of theirs, and the velocity has
the other sign: a network's estimate of the actions is `noisy - t · velocity`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.generative.process import Denoise, per_row

MAX_WEIGHT = 5.0
"""β: the most that guidance may weigh (Black et al. 2025, arXiv 2506.07339, section 4.1)."""


def soft_mask(horizon: int, *, delay: int, execution: int) -> Float64[np.ndarray, "horizon"]:
    """Return how much each action of a new chunk of H has to agree with what is planned (equation 5).

    With delay d and execution s it is 1 for the first d actions, which are executed whatever the new chunk
    says; then, with c_i = (H - s - i) / (H - s - d + 1), it falls as c_i (exp(c_i) - 1) / (e - 1); the last s
    actions, of which nothing is planned, have 0. ValueError unless 0 ≤ d ≤ s ≤ H - d and s ≥ 1.
    """
    if not (delay >= 0 and max(delay, 1) <= execution <= horizon - delay):
        raise ValueError(
            f"expected 0 ≤ delay ≤ execution ≤ horizon - delay, and an execution of at least 1, found a "
            f"delay of {delay} and an execution of {execution} ticks in a horizon of {horizon}"
        )
    step = np.arange(horizon)
    left = np.clip((horizon - execution - step) / (horizon - execution - delay + 1), 0.0, 1.0)
    falling = left * np.expm1(left) / np.expm1(1.0)
    return np.where(step < delay, 1.0, falling)


def guidance_weight(time: Float[Tensor, "batch"], max_weight: float = MAX_WEIGHT) -> Float[Tensor, "batch"]:
    """Return `min(β, c · r⁻²)` at each time.

    With the papers' τ = 1 - t, c = (1 - τ) / τ and r⁻² = (τ² + (1 - τ)²) / (1 - τ)² (equations 2 and 4), so
    that c · r⁻² = (t² + (1 - t)²) / (t (1 - t)). It is infinite, and β taken, at both ends.
    """
    return ((time**2 + (1.0 - time) ** 2) / (time * (1.0 - time))).clamp(max=max_weight)


@dataclass(frozen=True, kw_only=True)
class _TowardsPlan(ABC):
    """What guides every Euler step towards planned actions.

    `planned` are the actions in model units, and `weights` W how much each number of them counts: the soft
    mask, 0 where nothing is planned and in padded dimensions.
    """

    planned: Float[Tensor, "batch horizon action_dim"]
    weights: Float[Tensor, "batch horizon action_dim"]
    max_weight: float = MAX_WEIGHT

    @abstractmethod
    def guide(self, denoise: Denoise) -> Denoise:
        """Return the network whose velocity leads towards what is planned."""

    def generate(
        self, process: FlowMatching, denoise: Denoise, noise: Float[Tensor, "batch horizon action_dim"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Carry noise to actions that go on from what is planned; ValueError unless by Euler's steps."""
        if process.solver != "euler":
            raise ValueError(
                f"guided chunking takes Euler's steps, as published, and the policy's solver is "
                f"{process.solver!r}: choose 'euler' in its process, or the method 'trained'"
            )
        return process.generate(self.guide(denoise), noise)


class Guided(_TowardsPlan):
    """Guides by real-time chunking as published (Black et al. 2025, arXiv 2506.07339, algorithm 1).

    The velocity becomes

        v - min(β, c r⁻²) · Jᵀ W (planned - actions),   actions = noisy - t v,   J = ∂ actions / ∂ noisy,

    by a true vector-Jacobian product through the network. What it observed is a constant.
    """

    def guide(self, denoise: Denoise) -> Denoise:
        """Return the network whose velocity leads towards what is planned."""

        def guided(
            noisy: Float[Tensor, "batch horizon action_dim"], time: Float[Tensor, "batch"]
        ) -> Float[Tensor, "batch horizon action_dim"]:
            t = per_row(time, noisy)
            with torch.enable_grad():
                start = noisy.detach().requires_grad_()
                velocity = denoise(start, time)
                error = _error(start, velocity, t, self.planned, self.weights)
                (through,) = torch.autograd.grad(velocity, start, error)
            pull = error - t * through  # Jᵀ error, for J = 1 - t · ∂ velocity / ∂ noisy
            return velocity.detach() - per_row(guidance_weight(time, self.max_weight), noisy) * pull

        return guided


class GuidedByIdentity(_TowardsPlan):
    """Guides like `Guided`, but takes the network's Jacobian for the identity: no backward pass, and not the
    paper's algorithm.

    The velocity becomes `v - min(β, c r⁻²) · W (planned - actions)`, which pulls every number by itself: what
    a network knows about how its actions hang together does not enter.
    """

    def guide(self, denoise: Denoise) -> Denoise:
        """Return the network whose velocity leads towards what is planned."""

        def guided(
            noisy: Float[Tensor, "batch horizon action_dim"], time: Float[Tensor, "batch"]
        ) -> Float[Tensor, "batch horizon action_dim"]:
            velocity = denoise(noisy, time)
            error = _error(noisy, velocity, per_row(time, noisy), self.planned, self.weights)
            return velocity - per_row(guidance_weight(time, self.max_weight), noisy) * error

        return guided


@dataclass(frozen=True, kw_only=True)
class Prefixed:
    """Gives a network that learnt it the first actions of a chunk (Black et al. 2025, arXiv 2512.05964).

    The first `delay` actions of each row are those `planned`, in model units, at time 0, at every look; the
    others are noisy at the time of the look.
    """

    planned: Float[Tensor, "batch horizon action_dim"]
    delay: Int[Tensor, "batch"]

    def generate(
        self, process: FlowMatching, denoise: Denoise, noise: Float[Tensor, "batch horizon action_dim"]
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Carry noise to the actions that follow; the first ones are exactly those planned."""

        def prefixed(noisy: Tensor, time: Tensor) -> Tensor:
            return denoise(*with_prefix(noisy, time, clean=self.planned, delay=self.delay))

        made = process.generate(prefixed, noise)
        return with_prefix(made, torch.zeros_like(noise[:, 0, 0]), clean=self.planned, delay=self.delay)[0]


Chunking = Guided | GuidedByIdentity | Prefixed
"""A way to make a chunk go on from what is planned."""


def with_prefix(
    noisy: Float[Tensor, "batch horizon action_dim"],
    time: Float[Tensor, "batch"],
    *,
    clean: Float[Tensor, "batch horizon action_dim"],
    delay: Int[Tensor, "batch"],
) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon"]]:
    """Return noisy actions of which the first `delay` of each row are `clean`, and the time of each."""
    inside = ~follows(delay, noisy.shape[1])
    times = torch.where(inside, torch.zeros_like(time)[:, None], time[:, None])
    return torch.where(inside[..., None], clean, noisy), times


def follows(delay: Int[Tensor, "batch"], horizon: int) -> Bool[Tensor, "batch horizon"]:
    """Return which actions of each row come after the first `delay`."""
    return torch.arange(horizon, device=delay.device) >= delay[:, None]


def _error(noisy: Tensor, velocity: Tensor, t: Tensor, planned: Tensor, weights: Tensor) -> Tensor:
    actions = noisy.detach() - t * velocity.detach()
    return weights * (planned - actions)
