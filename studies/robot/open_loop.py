"""What a policy answers on frames of episodes that training never saw, against what the expert did there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pizero.data.loader import Samples
from pizero.types import Batch
from studies.robot.asking import Way, denoiser, load_exact, model_of
from studies.robot.run_folder import Run

NUM_NOISES = 4
"""Chunks that are asked for at each frame."""


@dataclass(frozen=True)
class HeldOut:
    """Some held-out frames as a batch, and the episode of each."""

    batch: Batch
    episodes: Int64[np.ndarray, "frame"]

    @property
    def mean_action_error(self) -> float:
        """Return the squared error of always answering the mean, in normalised units."""
        return float(self.batch.actions[self.batch.valid].square().mean())

    def measure(self, chunks: Float[Tensor, "frame draw horizon action_dim"]) -> dict[str, Any]:
        """Return the squared error to the expert, and the variance between chunks, of a number."""
        return {
            "expert_error": self.average((chunks - self.batch.actions[:, None]).square()),
            "spread": self.average(chunks.var(dim=1, keepdim=True).expand_as(chunks)),
        }

    def average(self, values: Float[Tensor, "frame draw horizon action_dim"]) -> dict[str, Any]:
        """Return the mean over real steps, frame by frame, then episode by episode, and its 95 % interval."""
        weight = self.batch.valid[:, None, :, None].expand_as(values).float()
        frames = ((values * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))).numpy()
        means = np.array([frames[self.episodes == episode].mean() for episode in np.unique(self.episodes)])
        mean, number = float(means.mean()), len(means)
        error = means.std(ddof=1) / np.sqrt(number) if number > 1 else 0.0
        half = float(scipy.stats.t.ppf(0.975, max(number - 1, 1)) * error)
        return {"mean": mean, "interval": [mean - half, mean + half], "episodes": number}


def held_out(of: Run, number: int) -> HeldOut:
    """Return `number` frames of a run's held-out episodes, drawn by the run's seed."""
    source, config = of.source(), of.config
    _, frames = source.split(config.held_out, config.seed)
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.choice(frames, size=min(number, len(frames)), replace=False))
    batch = Samples([source]).prepare(np.zeros(len(chosen), dtype=np.int64), chosen).batch
    starts = [episode.start for episode in source.dataset.episodes]
    return HeldOut(batch, np.searchsorted(starts, chosen, side="right") - 1)


def noise_for(seen: HeldOut, noise_shape: tuple[int, ...]) -> Tensor:
    """Return the noise of all chunks, the same in every study."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(seen.episodes) * NUM_NOISES, *noise_shape, generator=generator)


def ask(seen: HeldOut, way: Way) -> dict[str, Any]:
    """Return what `HeldOut.measure` says of a policy that is asked in a way."""
    model = model_of(load_exact(way.policy))
    field = denoiser(model, seen.batch.inputs, scale=way.scale, repeats=NUM_NOISES)
    chunks = way.process.generate(field, noise_for(seen, model.noise_shape))
    return seen.measure(chunks.unflatten(0, (-1, NUM_NOISES)))
