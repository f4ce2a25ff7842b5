"""π0.5: π0 with the state in the prompt, a clock in every norm of the expert, and text as a second loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pizero.generative.flow import FlowMatching
from pizero.generative.process import Time
from pizero.models.base import DenoisingModel, Draws, Loss
from pizero.models.pi0 import EXPERT_300M, PALIGEMMA_3B, check_max_delay, check_shared_cache
from pizero.models.pi0_fast import next_token_loss
from pizero.nn.gemma import Condition, Gemma, GemmaConfig, KeyValues
from pizero.nn.layers import Linear
from pizero.nn.paligemma import PaliGemma, PaliGemmaConfig
from pizero.nn.time_embedding import time_embedding
from pizero.types import Inputs


@dataclass(frozen=True, kw_only=True)
class CoTraining:
    """How a π0.5 learns text and action tokens (FAST) in its backbone beside the flow in its expert.

    The loss is `action_weight` times the flow's error (the papers' α) plus `text_weight` times the mean
    cross-entropy of a row's target tokens. The flow sends an `insulated` backbone no gradient, and α is 1
    then (knowledge insulation, Driess et al. 2025); the second stage of π0.5 trains without insulation and
    with α = 10 (Physical Intelligence 2025), its first with α = 0.
    """

    action_weight: float = 1.0
    text_weight: float = 1.0
    insulated: bool = True

    def __post_init__(self) -> None:
        weights = (self.action_weight, self.text_weight)
        if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights) or not any(weights):
            raise ValueError(
                f"expected weights of the losses of actions and text of 0 or more, and one above 0, found "
                f"{weights[0]} and {weights[1]}"
            )


@dataclass(frozen=True, kw_only=True)
class Pi05Config:
    """Everything that defines a π0.5; the defaults of the last fields are the published model's.

    What `compute_dtype` covers and `max_delay` teaches is said at `Pi0Config`. Only the expert is
    `conditioned`. `co_training` is how it is trained, and changes nothing in how it acts; without it, the
    flow trains all weights.
    """

    backbone: PaliGemmaConfig
    expert: GemmaConfig
    action_dim: int = 32
    horizon: int = 50
    process: FlowMatching = field(default_factory=FlowMatching)
    num_draws: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    co_training: CoTraining | None = None
    max_delay: int = 0

    def __post_init__(self) -> None:
        check_shared_cache(self.backbone.language, self.expert)
        check_max_delay(self.max_delay, self.horizon)
        if not self.expert.conditioned or self.backbone.language.conditioned:
            raise ValueError("π0.5's expert is conditioned on time and its language model is not")


PI05 = Pi05Config(
    backbone=PALIGEMMA_3B, expert=replace(EXPERT_300M, conditioned=True), compute_dtype="bfloat16"
)
"""The published model: 3,353,433,872 parameters."""


class Pi05(DenoisingModel[KeyValues]):
    """The π0.5 network (Physical Intelligence 2025); it acts by the flow alone, as openpi publishes it.

    The network does not read `inputs.state`: the prompt tells it, or nothing does.
    """

    def __init__(self, config: Pi05Config) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim = config.horizon, config.action_dim
        self.process, self.num_draws = config.process, config.num_draws
        self.max_delay = config.max_delay
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

    def counted(
        self, inputs: Inputs, valid: Bool[Tensor, "batch horizon"], draws: Draws
    ) -> dict[str, Bool[Tensor, "batch *step"]]:
        """Return the flow's steps and, in co-training, the rows that have targets."""
        steps = super().counted(inputs, valid, draws)
        return steps if self.config.co_training is None else steps | {"text": inputs.tokens.target.any(dim=1)}

    def losses(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action_dim"],
        valid: Bool[Tensor, "batch horizon"],
        *,
        draws: Draws,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> dict[str, Loss]:
        """Return the flow's error at each valid step and, in co-training, the text loss of rows with targets.

        So a row without valid steps trains text alone, one without target tokens the flow alone.
        """
        training = self.config.co_training
        if training is None:
            return super().losses(inputs, actions, valid, draws=draws, real=real)
        context, logits = self.observe_and_write(inputs)
        if training.insulated:
            context = context.detach()
        values = {
            "flow": self.flow_loss(context, actions, draws, real),
            "text": next_token_loss(logits, inputs.tokens),
        }
        weights = {"flow": training.action_weight, "text": training.text_weight}
        counted = self.counted(inputs, valid, draws)
        return {
            name: Loss(values=values[name], counted=counted[name], weight=weights[name]) for name in values
        }

    def observe_and_write(
        self, inputs: Inputs
    ) -> tuple[KeyValues, Float[Tensor, "batch next_token vocabulary"]]:
        """Return what `observe` makes of the prompt alone, and what the backbone writes after each token.

        Both come of one pass over [images | prompt | target tokens]. The target tokens are causal, so that
        the prompt does not see them, and the expert neither sees them nor counts them. The logits are float32
        and follow each text token but the last.
        """
        tokens = inputs.tokens
        hidden, past = self.backbone.language(*self.backbone.embed(inputs, self.compute_dtype))
        num_text = tokens.ids.shape[1]
        text_valid = past.valid[:, -num_text:] & ~tokens.target
        prompt = replace(past, valid=torch.cat([past.valid[:, :-num_text], text_valid], dim=1))
        return prompt, self.backbone.next_token_logits(hidden[:, -num_text:-1])

    def observe(self, inputs: Inputs) -> KeyValues:
        """Encode images and prompt; tokens to write, which training samples have, are as padding."""
        tokens = replace(inputs.tokens, valid=inputs.tokens.valid & ~inputs.tokens.target)
        return self.backbone.key_values(replace(inputs, tokens=tokens), self.compute_dtype)

    def denoise(
        self,
        context: KeyValues,
        noisy: Float[Tensor, "batch horizon action_dim"],
        time: Time,
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Return the velocity: all action tokens see the observation and each other."""
        tokens = self.action_in(noisy).to(self.compute_dtype)
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        hidden, _ = self.expert(
            tokens, valid, torch.zeros_like(valid), past=context, condition=self.embed_time(time)
        )
        return self.action_out(hidden.float())

    def embed_time(self, time: Time) -> Condition:
        """Return the vectors that steer the expert's norms: two layers, a SiLU after each."""
        clock = time_embedding(time, self.config.expert.width)
        return F.silu(self.time_out(F.silu(self.time_in(clock))))

    def repeat(self, context: KeyValues, times: int) -> KeyValues:
        """Return each row of a context `times` times in a row."""
        return context.repeat(times)
