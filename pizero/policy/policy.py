"""A trained model as something that a robot can call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pizero.contract import Contract
from pizero.data.collate import collate_inputs
from pizero.data.processor import Processor
from pizero.models.base import ActionModel
from pizero.models.build import build
from pizero.types import ActionChunk, Observation
from pizero.weights.folder import load_into, read_policy


class Policy:
    """Observation in, action chunk out, both in robot units.

    The noise that becomes actions is drawn from `seed` and the number of calls since `reset`, so that the
    same observations always give the same actions.
    """

    def __init__(self, model: ActionModel, contract: Contract, *, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.contract = contract
        self.processor = Processor(contract)
        self.device = torch.device(device)
        self.reset(seed=0)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Policy:
        """Read a policy folder; ValueError says which file is missing or damaged."""
        files = read_policy(Path(folder))
        model = build(files.config)
        load_into(model, files.tensors, str(folder))
        return cls(model, files.contract, device=device)

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise."""
        self.noise = torch.Generator().manual_seed(seed)

    def act(self, observation: Observation) -> ActionChunk:
        """Return the next `horizon` actions; ValueError if the observation breaks the contract."""
        inputs = collate_inputs([self.processor.encode(observation)], self.device)
        noise = torch.randn(1, self.model.horizon, self.model.action_dim, generator=self.noise)
        actions = self.model.sample(inputs, noise=noise.to(self.device))[0].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise ValueError("the model returned actions that are not finite; its weights are not usable")
        return self.processor.decode(actions)
