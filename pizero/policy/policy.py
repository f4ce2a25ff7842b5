"""A trained model as something that a robot can call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int

from pizero.contract import Contract
from pizero.data.collate import collate_inputs
from pizero.data.processor import Processor
from pizero.models.base import ActionModel, DenoisingModel
from pizero.models.build import skeleton
from pizero.policy.prepared import Prepared, chunking_of, prepare
from pizero.types import ActionChunk, Continuation, Observation
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

    @property
    def max_delay(self) -> int:
        """Return the longest delay that the method `trained` bears, in ticks; 0 if the policy does not know
        it.
        """
        return self.model.max_delay

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
        noise: Float32[np.ndarray, "*noise_shape"] | None = None,
    ) -> ActionChunk:
        """Return the next `horizon` actions, of which the first is for the instant of the observation.

        With a `continuation` they go on from what is planned, and the actions that are committed come back
        as they are. `num_steps` replaces the policy's own number of flow steps; `noise`, standard normal
        numbers of the model's `noise_shape`, its own draw. ValueError if the observation breaks the contract,
        or the continuation does not fit the policy: nothing is computed then.
        """
        drawn = self.draw_noise(self.noise)
        request = self.prepare(
            observation,
            continuation=continuation,
            num_steps=num_steps,
            noise=drawn if noise is None else noise,
        )
        return self.finish(request, self.infer([request])[0])

    def draw_noise(self, generator: torch.Generator) -> Float32[np.ndarray, "*noise_shape"]:
        """Return the noise of one chunk; a generator seeded like an episode gives the noise of its calls."""
        return torch.randn(self.model.noise_shape, generator=generator).numpy()

    def prepare(
        self,
        observation: Observation,
        *,
        noise: Float32[np.ndarray, "*noise_shape"],
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> Prepared:
        """Return a request in model units, checked, for `infer`; ValueError as in `act`.

        It changes nothing in the policy, so that many threads may prepare side by side.
        """
        return prepare(
            self.processor,
            self.model,
            observation,
            continuation=continuation,
            num_steps=num_steps,
            noise=noise,
        )

    def infer(self, requests: Sequence[Prepared]) -> list[np.ndarray]:
        """Return what the model makes of each request, in model units; those of one kind in one pass.

        A request alone gives bitwise what `act` gives. In a batch it gives the same up to rounding, because
        products of matrices of another height add in another order; no row depends on what is in the others.
        """
        alike: dict[tuple[str, int], list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(request.kind, []).append(place)
        found: dict[int, np.ndarray] = {}
        for places in alike.values():
            written = self._sample([requests[place] for place in places])
            found.update(zip(places, written, strict=True))
        return [found[place] for place in range(len(requests))]

    def finish(
        self, request: Prepared, written: Float32[np.ndarray, "horizon width"] | Int[np.ndarray, "token"]
    ) -> ActionChunk:
        """Return what the model made of a request as actions in robot units, ready to execute.

        Committed actions are those of the continuation, bit for bit.
        """
        if not np.isfinite(written).all():
            raise ValueError("the model returned actions that are not finite; its weights are not usable")
        chunk = self.processor.decode(written, request.observation)
        if request.planned is not None:
            continuation = request.planned.continuation
            chunk[: continuation.delay] = continuation.actions[: continuation.delay]
        return chunk

    def _sample(self, requests: Sequence[Prepared]) -> np.ndarray:
        inputs = collate_inputs([request.inputs for request in requests], self.device)
        noise = torch.from_numpy(np.stack([request.noise for request in requests])).to(self.device)
        if not isinstance(self.model, DenoisingModel):
            return self.model.sample(inputs, noise=noise).cpu().numpy()
        chunking = chunking_of(requests, self.device)
        num_steps = requests[0].num_steps
        return self.model.sample(inputs, noise=noise, num_steps=num_steps, chunking=chunking).cpu().numpy()
