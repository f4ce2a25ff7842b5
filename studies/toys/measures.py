"""How far samples are from the data, how far apart two draws of the data are, and how sure a mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.process import Denoise
from studies.toys.common import Draw, Size

NUM_DIRECTIONS = 32


def directions(dimensions: int) -> Float[Tensor, "dimensions direction"]:
    """Return unit vectors: equally spaced in the plane, otherwise drawn from seed 0."""
    if dimensions == 2:
        angle = torch.arange(NUM_DIRECTIONS) * (math.pi / NUM_DIRECTIONS)
        return torch.stack([angle.cos(), angle.sin()])
    normal = torch.randn(dimensions, NUM_DIRECTIONS, generator=torch.Generator().manual_seed(0))
    return normal / normal.norm(dim=0)


def sliced_wasserstein(
    samples: Float[Tensor, "member sample *action"], reference: Float[Tensor, "sample *action"]
) -> Float[Tensor, "member"]:
    """Return the mean of the Wasserstein-1 distance along `NUM_DIRECTIONS` directions (Bonneel et al. 2015,
    with order 1): how far, in units of the data, samples must move to become the reference.
    """
    along = directions(reference[0].numel())
    ours, theirs = samples.flatten(2) @ along, reference.flatten(1) @ along
    return (ours.sort(dim=1).values - theirs.sort(dim=0).values).abs().mean(dim=(1, 2))


def noise_floor(draw: Draw, num_samples: int, *, seed: int, repeats: int = 40) -> dict[str, float]:
    """Return the distance between two draws of the data itself: its mean, and what 95 % stay below."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [[draw(num_samples, generator)[0] for _ in range(2)] for _ in range(repeats)]
    found = [sliced_wasserstein(one[None], other).item() for one, other in pairs]
    return {"mean": float(np.mean(found)), "quantile_95": float(np.quantile(found, 0.95)), "draws": repeats}


def quality(samples: Tensor, draw: Draw, size: Size, *, seed: int) -> list[float]:
    """Return each member's distance to one held-out draw of the data."""
    reference = draw(size.num_samples, torch.Generator().manual_seed(seed))[0]
    return sliced_wasserstein(samples.unflatten(0, (size.num_members, -1)), reference).tolist()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over members, its 95 % interval by Student's t, and the values."""
    found = np.asarray(values, dtype=float)
    mean, count = float(found.mean()), len(found)
    half = float(scipy.stats.t.ppf(0.975, count - 1) * found.std(ddof=1) / math.sqrt(count))
    return {"mean": mean, "interval": [mean - half, mean + half], "values": found.tolist()}


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Return the spread of `first - second`, member by member."""
    return spread((np.asarray(first) - np.asarray(second)).tolist())


class Recorder:
    """A network that remembers every state it is shown, and so the path that a solver took."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.states: list[Tensor] = []

    def __call__(self, noisy: Tensor, time: Tensor) -> Tensor:
        self.states.append(noisy)
        return self.denoise(noisy, time)

    def detour(self, last: Float[Tensor, "row *action"], num_members: int) -> list[float]:
        """Return each member's mean length of paths over their mean distance from end to end: 1 if and only
        if all are straight.
        """
        path = torch.stack([*self.states, last]).flatten(2)
        length = path.diff(dim=0).norm(dim=-1).sum(dim=0).unflatten(0, (num_members, -1))
        distance = (path[-1] - path[0]).norm(dim=-1).unflatten(0, (num_members, -1))
        return (length.mean(dim=1) / distance.mean(dim=1)).tolist()
