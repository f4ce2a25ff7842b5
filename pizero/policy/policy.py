"""A trained model as something that a robot can call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from pizero.contract import Contract
from pizero.data.collate import collate_inputs
from pizero.data.processor import Processor
from pizero.models.base import ActionModel
from pizero.models.build import skeleton
from pizero.types import ActionChunk, Observation
from pizero.weights.folder import load_into, read_policy


class Policy:
    """Observation in, action chunk out, both in robot units.

    The noise that becomes actions is drawn from `seed` and the number of calls since `reset`, so that the
    same observations always give the same actions.
    """

    def __init__(
        self, model: ActionModel, contract: Contract, *, files: Path | None = None, device: str = "cpu"
    ) -> None:
        self.model = model.to(device).eval()
        self.contract = contract
        self.horizon, self.rate = contract.horizon, contract.embodiment.rate
        self.processor = Processor(contract, files)
        self.device = torch.device(device)
        self.reset(seed=0)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Policy:
        """Read a policy folder; ValueError says which file is missing or damaged."""
        files = read_policy(Path(folder))
        model = skeleton(files.config)
        load_into(model, files.tensors, str(folder))
        return cls(model, files.contract, files=Path(folder), device=device)

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise."""
        self.noise = torch.Generator().manual_seed(seed)

    def act(
        self, observation: Observation, *, noise: Float32[np.ndarray, "*noise_shape"] | None = None
    ) -> ActionChunk:
        """Return the next `horizon` actions; ValueError if the observation breaks the contract.

        `noise`, standard normal numbers of the model's `noise_shape`, replaces the policy's own draw.
        """
        inputs = collate_inputs([self.processor.encode(observation)], self.device)
        drawn = torch.randn(self.model.noise_shape, generator=self.noise)
        used = (drawn if noise is None else torch.from_numpy(noise))[None].to(self.device)
        written = self.model.sample(inputs, noise=used)[0].cpu().numpy()
        if not np.isfinite(written).all():
            raise ValueError("the model returned actions that are not finite; its weights are not usable")
        return self.processor.decode(written, observation)
