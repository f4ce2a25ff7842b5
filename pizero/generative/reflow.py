"""Rectified flow: a flow trained on the pairs that another flow made has straighter paths."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.generative.process import Denoise
from pizero.generative.solvers import Velocity


@torch.no_grad()
def reflow_pairs(
    process: FlowMatching, denoise: Denoise, noise: Float[Tensor, "batch horizon action_dim"]
) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon action_dim"]]:
    """Return (actions, noise) that belong together, on which `FlowMatching.corrupt` trains the next flow
    (Liu, Gong and Liu 2023, arXiv 2209.03003, section 2.1 and algorithm 1).

    The observations bound in `denoise` belong to the pairs too. Errors of the solver become the next flow's
    data: take many steps, or a solver of high order.
    """
    return process.generate(denoise, noise), noise


@torch.no_grad()
def straightness(
    velocity: Velocity, noise: Float[Tensor, "batch *action"], *, num_steps: int
) -> Float[Tensor, "batch"]:
    """Return for each path `‖noise - actions‖² / ∫ ‖velocity‖² dt`, between 0 and 1, which is 1 if and only
    if the path is straight and run through at constant speed, so that one Euler step is exact.

    One minus it is the S of Liu, Gong and Liu 2023 (arXiv 2209.03003, section 2.1) relative to the integral,
    here for each path. The integral is taken by `num_steps` Euler steps.
    """
    x = noise
    energy = noise.new_zeros(noise.shape[0])
    for left in range(num_steps, 0, -1):
        slope = velocity(x, energy.new_full(energy.shape, left / num_steps))
        energy = energy + slope.flatten(1).square().sum(dim=-1) / num_steps
        x = x - slope / num_steps
    return (noise - x).flatten(1).square().sum(dim=-1) / energy
