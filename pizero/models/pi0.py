"""π0: a vision-language model looks once; a small action expert reads it and carries noise to actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.generative.process import Time
from pizero.models.base import DenoisingModel
from pizero.nn.gemma import Gemma, GemmaConfig, KeyValues
from pizero.nn.layers import Linear
from pizero.nn.paligemma import PaliGemma, PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.nn.time_embedding import time_embedding
from pizero.types import Inputs


@dataclass(frozen=True, kw_only=True)
class Pi0Config:
    """Everything that defines a π0; the defaults of the last fields are the published model's.

    `compute_dtype` is that of the two transformers and the image encoder; the projections of state, actions
    and time, and every norm, softmax and rotation, stay in float32. With a `max_delay` the model learns to be
    given up to so many first actions of a chunk (`generative/chunking.py`); it has the same weights.
    """

    backbone: PaliGemmaConfig
    expert: GemmaConfig
    state_dim: int = 32
    action_dim: int = 32
    horizon: int = 50
    process: FlowMatching = field(default_factory=FlowMatching)
    num_draws: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    max_delay: int = 0

    def __post_init__(self) -> None:
        check_shared_cache(self.backbone.language, self.expert)
        check_max_delay(self.max_delay, self.horizon)


def check_max_delay(max_delay: int, horizon: int) -> None:
    """Raise ValueError unless chunks of `horizon` actions can be spliced with delays of up to `max_delay`."""
    if not 0 <= max_delay <= horizon // 2:
        raise ValueError(
            f"expected a max_delay of 0 to {horizon // 2}, half the horizon of {horizon}, as a chunk cannot "
            f"be spliced with a longer delay; found {max_delay}"
        )


def check_shared_cache(language: GemmaConfig, expert: GemmaConfig) -> None:
    """Raise ValueError unless an expert can read a language model's keys and values."""
    shared = ("depth", "num_kv_heads", "head_dim")
    if any(getattr(language, name) != getattr(expert, name) for name in shared):
        raise ValueError(
            f"the expert reads the language model's keys and values layer by layer, so both must agree "
            f"in {', '.join(shared)}; found {language} and {expert}"
        )


PALIGEMMA_3B = PaliGemmaConfig(
    vision=SigLIPConfig(),
    language=GemmaConfig(width=2048, depth=18, mlp_dim=16384, num_heads=8, num_kv_heads=1, head_dim=256),
    vocab_size=257_152,
)
EXPERT_300M = GemmaConfig(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256)

PI0 = Pi0Config(backbone=PALIGEMMA_3B, expert=EXPERT_300M, compute_dtype="bfloat16")
"""The published model: 3,238,048,528 parameters."""


class Pi0(DenoisingModel[KeyValues]):
    """The π0 network (Black et al. 2024).

    The mask is block-causal, [images and text] → [state] → [actions], so no earlier block sees a later one.
    Hence the paper's joint forward pass equals this one: keys and values of the prefix from the backbone,
    then those of the state token from the expert, both computed once; then the expert over the action tokens
    alone.
    """

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim = config.horizon, config.action_dim
        self.process, self.num_draws = config.process, config.num_draws
        self.max_delay = config.max_delay
        width = config.expert.width
        self.backbone = PaliGemma(config.backbone)
        self.expert = Gemma(config.expert)
        self.state_in = Linear(config.state_dim, width, bias=True)
        self.action_in = Linear(config.action_dim, width, bias=True)
        self.action_time_in = Linear(2 * width, width, bias=True)
        self.action_time_out = Linear(width, width, bias=True)
        self.action_out = Linear(width, config.action_dim, bias=True)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Return the dtype of the transformers and of the image encoder."""
        return getattr(torch, self.config.compute_dtype)

    def observe(self, inputs: Inputs) -> KeyValues:
        """Encode images, text and state."""
        prefix = self.backbone.key_values(inputs, self.compute_dtype)
        state = self.state_in(inputs.state)[:, None].to(self.compute_dtype)
        one = torch.ones(state.shape[:2], dtype=torch.bool, device=state.device)
        return prefix.append(self.expert.key_values(state, one, one, past=prefix))

    def denoise(
        self,
        context: KeyValues,
        noisy: Float[Tensor, "batch horizon action_dim"],
        time: Time,
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Return the velocity: all action tokens see the observation and each other."""
        tokens = self.embed_actions(noisy, time).to(self.compute_dtype)
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        hidden, _ = self.expert(tokens, valid, torch.zeros_like(valid), past=context)
        return self.action_out(hidden.float())

    def embed_actions(
        self, noisy: Float[Tensor, "batch horizon action_dim"], time: Time
    ) -> Float[Tensor, "batch horizon width"]:
        """Fuse each noisy action with its flow time by a two-layer perceptron."""
        embedded = self.action_in(noisy)
        clock = time_embedding(time, embedded.shape[-1])
        clock = (clock[:, None] if time.dim() == 1 else clock).expand_as(embedded)
        return self.action_time_out(F.silu(self.action_time_in(torch.cat([embedded, clock], dim=-1))))

    def repeat(self, context: KeyValues, times: int) -> KeyValues:
        """Return each row of a context `times` times in a row."""
        return context.repeat(times)
