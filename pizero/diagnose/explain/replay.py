"""Samples through the serving path, as recorded or with one thing changed, and how far off answers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from pizero.contract import Contract, Statistics
from pizero.data.processor import Processor
from pizero.diagnose.explain.samples import Sample
from pizero.policy.policy import Policy
from pizero.types import ActionChunk, Observation

Chunks = Float[np.ndarray, "sample horizon action_dim"]
Errors = Float[np.ndarray, "sample"]

MIN_DEVIATION = 1e-4
"""A dimension that moves less has no spread to measure errors by (`pizero stats` warns of the same)."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to a sample on its way into the policy; `name` says it, and no two share one.

    With a `contract`, the policy serves under that one instead of its own.
    """

    name: str
    observe: Callable[[Observation], Observation]
    contract: Contract | None = None


AS_RECORDED = Change(name="as recorded", observe=lambda observation: observation)


class Replay:
    """Every answer of a policy to every sample, asked for at most once.

    `Policy.act` is all that is called. A sample's noise is a pure function of seed, draw and place, so two
    answers differ by what was changed alone. `files` is the folder of the policy's tokenizers.
    """

    def __init__(self, policy: Policy, samples: Sequence[Sample], *, files: Path | None, seed: int) -> None:
        self.policy, self.samples, self.files, self.seed = policy, tuple(samples), files, seed
        self.known: dict[tuple[str, int, int], ActionChunk] = {}
        self.others: dict[str, Policy] = {}

    def act(self, change: Change, *, count: int | None = None, draw: int = 0) -> Chunks:
        """Return the chunks for the first `count` samples, in robot units."""
        policy = self._policy(change)
        for place, sample in enumerate(self.samples[:count]):
            key = (change.name, draw, place)
            if key not in self.known:
                observation = change.observe(sample.observation)
                self.known[key] = policy.act(observation, noise=self._noise(draw, place))
        return np.stack([self.known[change.name, draw, place] for place in range(len(self.samples[:count]))])

    def _noise(self, draw: int, place: int) -> np.ndarray:
        seed = np.random.SeedSequence((self.seed, draw, place)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        return torch.randn(self.policy.model.noise_shape, generator=generator).numpy()

    def _policy(self, change: Change) -> Policy:
        if change.contract is None:
            return self.policy
        if change.name not in self.others:
            other = copy(self.policy)
            other.contract, other.processor = change.contract, Processor(change.contract, self.files)
            self.others[change.name] = other
        return self.others[change.name]


class Ruler:
    """How far chunks are from the recorded ones, in spreads of the data.

    Both are written as the model's actions are (`ActionForm`), and each dimension's difference is divided by
    the standard deviation of all recorded chunks so written: an error of 1 is what always answering their
    mean costs. `statistics` are the dataset's own. ValueError if no action moves.
    """

    def __init__(self, policy: Policy, samples: Sequence[Sample], statistics: Statistics) -> None:
        self.processor = policy.processor
        self.statistics = statistics
        self.valid = np.stack([sample.valid for sample in samples])
        self.states = np.stack([sample.observation.state for sample in samples])
        deviation = np.array(statistics.actions.std)
        self.moving = deviation >= MIN_DEVIATION
        if not self.moving.any():
            raise ValueError("no action of the dataset ever moves; there is nothing to compare a policy with")
        self.scale = np.where(self.moving, deviation, 1.0)
        self.recorded = self.write(np.stack([sample.actions for sample in samples]))

    def write(self, chunks: Chunks) -> Chunks:
        """Return the first samples' chunks as the model's actions, divided by their spread."""
        convention = self.processor.convention
        states = convention.encode_state(self.states[: len(chunks)])
        written = self.processor.action_transform.encode(convention.encode_actions(chunks), states)
        return written / self.scale

    def mean(self) -> Chunks:
        """Return, in robot units, the chunks of a policy that always answers the mean of the data."""
        mean = np.array(self.statistics.actions.mean, dtype=np.float32)
        written = np.broadcast_to(mean, self.recorded.shape)
        convention = self.processor.convention
        states = convention.encode_state(self.states)
        return convention.decode_actions(self.processor.action_transform.decode(written, states))

    def errors(self, chunks: Chunks) -> Errors:
        """Return each sample's mean squared error over real steps and moving dimensions."""
        return self.distance(self.write(chunks), self.recorded[: len(chunks)])

    def distance(self, ours: Chunks, theirs: Chunks) -> Errors:
        """Return the mean squared difference of written chunks, over real steps and moving dimensions."""
        squared = np.square(ours - theirs)[..., self.moving].mean(axis=-1)
        valid = self.valid[: len(squared)]
        return (squared * valid).sum(axis=-1) / valid.sum(axis=-1)
