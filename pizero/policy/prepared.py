"""What a policy is asked, in model units and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from pizero.data.processor import Processor
from pizero.generative.chunking import Chunking, Guided, GuidedByIdentity, Prefixed, soft_mask
from pizero.models.base import ActionModel, DenoisingModel
from pizero.types import Continuation, Inputs, Observation


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a chunk has to go on from, in model units: `weights` are 0 where nothing is planned."""

    continuation: Continuation
    actions: Float32[np.ndarray, "horizon width"]
    weights: Float32[np.ndarray, "horizon width"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a model needs to make one chunk, in numpy and unbatched; and the observation that it is for.

    Those of one `kind` are computed together.
    """

    observation: Observation
    inputs: Inputs
    noise: Float32[np.ndarray, "*noise_shape"]
    planned: Planned | None
    num_steps: int | None

    @property
    def kind(self) -> tuple[str, int]:
        """Return what decides which computation this is."""
        method = "" if self.planned is None else self.planned.continuation.method
        return method, self.num_steps or 0


def prepare(
    processor: Processor,
    model: ActionModel,
    observation: Observation,
    *,
    continuation: Continuation | None,
    num_steps: int | None,
    noise: Float32[np.ndarray, "*noise_shape"],
) -> Prepared:
    """Return an observation and a continuation in model units; ValueError says what does not fit."""
    if not isinstance(model, DenoisingModel):
        if continuation is not None:
            raise ValueError(
                "this policy writes its actions as tokens, and cannot go on from planned actions: leave the "
                "continuation out, and execute its chunks one after the other"
            )
        if num_steps is not None:
            raise ValueError(
                "this policy writes its actions as tokens, and has no flow steps: leave them out"
            )
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"expected at least one flow step, found {num_steps}")
    if noise.shape != model.noise_shape:
        raise ValueError(f"expected noise of shape {list(model.noise_shape)}, found {list(noise.shape)}")
    if continuation is not None:
        _check(continuation, processor, model)
    inputs = processor.encode(observation)
    return Prepared(
        observation=observation,
        inputs=inputs,
        noise=noise,
        planned=None if continuation is None else _planned(continuation, processor, observation),
        num_steps=num_steps,
    )


def chunking_of(requests: Sequence[Prepared], device: torch.device) -> Chunking | None:
    """Return how requests of one kind make a model's chunks go on, row by row; None if they do not."""
    planned = [request.planned for request in requests if request.planned is not None]
    if not planned:
        return None

    def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device)

    actions = stacked([each.actions for each in planned])
    match planned[0].continuation.method:
        case "guided":
            return Guided(planned=actions, weights=stacked([each.weights for each in planned]))
        case "guided_identity":
            return GuidedByIdentity(planned=actions, weights=stacked([each.weights for each in planned]))
        case "trained":
            delays = torch.tensor([each.continuation.delay for each in planned], device=device)
            return Prefixed(planned=actions, delay=delays)


def _check(continuation: Continuation, processor: Processor, model: ActionModel) -> None:
    horizon, action_dim = processor.contract.horizon, processor.contract.embodiment.action_dim
    delay, execution, actions = continuation.delay, continuation.execution, continuation.actions
    if not (delay >= 0 and max(delay, 1) <= execution <= horizon - delay):
        raise ValueError(
            f"a chunk of {horizon} actions cannot go on after a delay of {delay} and an execution of "
            f"{execution} ticks: expected 0 ≤ delay ≤ execution ≤ horizon - delay, and an execution of at "
            f"least 1"
        )
    if actions.ndim != 2 or actions.shape[1] != action_dim or not delay <= len(actions) <= horizon:
        raise ValueError(
            f"expected {delay} to {horizon} planned actions of {action_dim} numbers, the first {delay} of "
            f"which are executed meanwhile; found shape {list(actions.shape)}"
        )
    if not np.isfinite(actions).all():
        raise ValueError("expected planned actions that are finite, found others")
    if continuation.method == "trained" and model.max_delay == 0:
        raise ValueError(
            "this policy did not learn to be given its first actions: go on by the method 'guided', or train "
            "it with a max_delay"
        )
    if continuation.method == "trained" and delay > model.max_delay:
        raise ValueError(
            f"this policy learnt to be given up to {model.max_delay} actions, found a delay of {delay}: "
            f"answer faster, go on by the method 'guided', or train it with a larger max_delay"
        )


def _planned(continuation: Continuation, processor: Processor, observation: Observation) -> Planned:
    """Return planned actions as seen from the new observation; padded dimensions have no weight."""
    contract = processor.contract
    written = processor.encode_actions(continuation.actions, observation)
    number, width = written.shape
    actions = np.zeros((contract.horizon, width), dtype=np.float32)
    actions[:number] = written
    weights = np.zeros_like(actions)
    mask = soft_mask(contract.horizon, delay=continuation.delay, execution=continuation.execution)
    weights[:number, : contract.embodiment.action_dim] = mask[:number, None]
    return Planned(continuation=continuation, actions=actions, weights=weights)
