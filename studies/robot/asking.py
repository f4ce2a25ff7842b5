"""One policy asked in different ways: by another solver, guided, told something else, answering late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from pizero.data.collate import collate_inputs
from pizero.data.text import BEGIN, PAD, ByteTokenizer
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from pizero.generative.guidance import Guidance
from pizero.generative.process import Denoise
from pizero.models.base import DenoisingModel
from pizero.models.build import skeleton
from pizero.policy.policy import Policy
from pizero.records import fingerprint, to_data
from pizero.types import ActionChunk, Continuation, Inputs, Observation
from pizero.weights.folder import MANIFEST, load_into, read_policy, sha256_of

AnyProcess = FlowMatching | Diffusion
Execution = Literal["receding", "naive"]

NO_INSTRUCTION = (BEGIN, *ByteTokenizer().encode("\n"))
"""π0's prompt around an instruction that is not there."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a policy is asked.

    `scale` guides from the empty prompt (0) through the instruction (1) beyond it; `told` has the instruction
    that takes the place of a scene's own. A chunk is there `latency` control ticks after its observation;
    until then the robot stands still (`receding`), or goes on with the one before (`naive`).
    """

    policy: Path
    process: AnyProcess
    scale: float = 1.0
    told: Mapping[str, str] | None = None
    latency: int = 0
    kind: Execution = "receding"

    def identity(self) -> str:
        """Return a hash of everything that decides what is answered."""
        fields = {name: to_data(value) for name, value in vars(self).items() if name != "policy"}
        return fingerprint({**fields, "policy": sha256_of(self.policy / MANIFEST)})


def model_of(policy: Policy) -> DenoisingModel:
    """Return a policy's network; ValueError if it makes its actions in another way."""
    if not isinstance(policy.model, DenoisingModel):
        raise ValueError(f"expected a policy that denoises, found a {type(policy.model).__name__}")
    return policy.model


def load_exact(folder: Path) -> Policy:
    """Read a policy that computes in float32 whatever it was trained in, so that solvers' errors are seen."""
    files = read_policy(folder)
    model = skeleton(replace(files.config, compute_dtype="float32"))
    load_into(model, files.tensors, str(folder))
    return Policy(model, files.contract, files=folder)


def without_instruction(inputs: Inputs, keep: Bool[Tensor, "batch"] | None = None) -> Inputs:
    """Return inputs whose rows, but for those to `keep`, have π0's prompt without an instruction."""
    tokens = inputs.tokens
    ids = torch.full_like(tokens.ids, PAD)
    ids[:, : len(NO_INSTRUCTION)] = torch.tensor(NO_INSTRUCTION)
    valid = torch.zeros_like(tokens.valid)
    valid[:, : len(NO_INSTRUCTION)] = True
    kept = torch.zeros(len(ids), 1, dtype=torch.bool) if keep is None else keep[:, None]
    emptied = replace(
        tokens, ids=torch.where(kept, tokens.ids, ids), valid=torch.where(kept, tokens.valid, valid)
    )
    return replace(inputs, tokens=emptied)


@torch.no_grad()
def denoiser(model: DenoisingModel, inputs: Inputs, *, scale: float = 1.0, repeats: int = 1) -> Denoise:
    """Look at inputs and return the guided network for `repeats` chunks of each row."""

    def bound(seen: Inputs) -> Denoise:
        context = model.repeat(model.observe(seen), repeats)
        return torch.no_grad()(lambda noisy, time: model.denoise(context, noisy, time))

    if scale == 1.0:
        return bound(inputs)
    nothing = bound(without_instruction(inputs))
    return Guidance(scale=scale).guide(nothing if scale == 0.0 else bound(inputs), nothing)


class Asked:
    """A policy that is asked in one way; implements `Acting`."""

    def __init__(self, policy: Policy, way: Way) -> None:
        self.policy, self.way = policy, way
        self.horizon, self.rate = policy.contract.horizon, policy.contract.embodiment.rate
        self.reset(seed=0)

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise."""
        self.noise = torch.Generator().manual_seed(seed)

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        """Return the next chunk, in robot units; it goes on from nothing, in as many steps as the way has."""
        assert continuation is None
        assert num_steps is None
        instruction = (self.way.told or {}).get(observation.instruction, observation.instruction)
        told = replace(observation, instruction=instruction)
        inputs = collate_inputs([self.policy.processor.encode(told)], self.policy.device)
        model = model_of(self.policy)
        noise = torch.randn(1, *model.noise_shape, generator=self.noise)
        made = self.way.process.generate(denoiser(model, inputs, scale=self.way.scale), noise)
        return self.policy.processor.decode(made[0].numpy(), observation)
