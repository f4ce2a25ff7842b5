"""π0.5: π0 with the state in the prompt, and a clock that steers every norm of the action expert."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.models.base import DenoisingModel
from pizero.models.pi0 import EXPERT_300M, PALIGEMMA_3B, check_shared_cache
from pizero.nn.gemma import Gemma, GemmaConfig, KeyValues
from pizero.nn.layers import Linear
from pizero.nn.paligemma import PaliGemma, PaliGemmaConfig
from pizero.nn.time_embedding import time_embedding
from pizero.types import Inputs


@dataclass(frozen=True, kw_only=True)
class Pi05Config:
    """Everything that defines a π0.5; the defaults of the last fields are the published model's.

    What `compute_dtype` covers is said at `Pi0Config`. Only the expert is `conditioned`.
    """

    backbone: PaliGemmaConfig
    expert: GemmaConfig
    action_dim: int = 32
    horizon: int = 50
    process: FlowMatching = field(default_factory=FlowMatching)
    num_draws: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_shared_cache(self.backbone.language, self.expert)
        if not self.expert.conditioned or self.backbone.language.conditioned:
            raise ValueError("π0.5's expert is conditioned on time and its language model is not")


PI05 = Pi05Config(
    backbone=PALIGEMMA_3B, expert=replace(EXPERT_300M, conditioned=True), compute_dtype="bfloat16"
)
"""The published model: 3,353,433,872 parameters."""


class Pi05(DenoisingModel[KeyValues]):
    """The flow-matching part of the π0.5 network (Physical Intelligence 2025), as openpi publishes it.

    The network does not read `inputs.state`: the prompt tells it, or nothing does.
    """

    def __init__(self, config: Pi05Config) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim = config.horizon, config.action_dim
        self.process, self.num_draws = config.process, config.num_draws
        width = config.expert.width
        self.backbone = PaliGemma(config.backbone)
        self.expert = Gemma(config.expert)
        self.action_in = Linear(config.action_dim, width, bias=True)
        self.time_in = Linear(width, width, bias=True)
        self.time_out = Linear(width, width, bias=True)
        self.action_out = Linear(width, config.action_dim, bias=True)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Return the dtype of the transformers and of the image encoder."""
        return getattr(torch, self.config.compute_dtype)

    def observe(self, inputs: Inputs) -> KeyValues:
        """Encode images and text."""
        return self.backbone.key_values(inputs, self.compute_dtype)

    def denoise(
        self,
        context: KeyValues,
        noisy: Float[Tensor, "batch horizon action_dim"],
        time: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Return the velocity: all action tokens see the observation and each other."""
        tokens = self.action_in(noisy).to(self.compute_dtype)
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        hidden, _ = self.expert(
            tokens, valid, torch.zeros_like(valid), past=context, condition=self.embed_time(time)
        )
        return self.action_out(hidden.float())

    def embed_time(self, time: Float[Tensor, "batch"]) -> Float[Tensor, "batch width"]:
        """Return the vector that steers the expert's norms: two layers, a SiLU after each."""
        clock = time_embedding(time, self.config.expert.width)
        return F.silu(self.time_out(F.silu(self.time_in(clock))))

    def repeat(self, context: KeyValues, times: int) -> KeyValues:
        """Return each row of a context `times` times in a row."""
        return context.repeat(times)
