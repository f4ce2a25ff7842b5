"""π0-FAST: a vision-language model that writes actions as words, one token after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pizero.models.base import ActionModel, Draws, Loss
from pizero.models.pi0 import PALIGEMMA_3B
from pizero.nn.paligemma import PaliGemma, PaliGemmaConfig
from pizero.types import Inputs, Tokens

END, PAD = 1, 0
"""PaliGemma's ids of the end of a sequence, and of what follows it."""


@dataclass(frozen=True, kw_only=True)
class Pi0FASTConfig:
    """Everything that defines a π0-FAST; the defaults of the last fields are the published model's.

    With `temperature` 0 the likeliest token is taken. openpi gives generated tokens a position that is one
    too high (its issue 705), though training leaves no gap: with `skipped_positions` = 1 we do so too, and
    give its outputs; 0 is what the model was trained on.
    """

    backbone: PaliGemmaConfig
    action_dim: int = 32
    horizon: int = 32
    max_new_tokens: int = 256
    temperature: float = 0.0
    skipped_positions: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


PI0_FAST = Pi0FASTConfig(backbone=PALIGEMMA_3B, compute_dtype="bfloat16")
"""The published model: 2,923,335,408 parameters."""


def next_token_loss(
    logits: Float[Tensor, "batch next_token vocabulary"], tokens: Tokens
) -> Float[Tensor, "batch"]:
    """Return the mean cross-entropy of each row's target tokens; 0 for a row without any.

    The logits are those that follow each text token but the last.
    """
    ids, target = tokens.ids[:, 1:], tokens.target[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    return (losses * target).sum(dim=1) / target.sum(dim=1).clamp(min=1)


class Pi0FAST(ActionModel):
    """PaliGemma as a prefix language model over [images | prompt | action tokens] (Pertsch et al. 2025).

    Images and prompt see each other; each action token sees all that comes before it.
    """

    def __init__(self, config: Pi0FASTConfig) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim, self.num_draws = config.horizon, config.action_dim, 0
        self.backbone = PaliGemma(config.backbone)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Return the dtype of the transformer and of the image encoder."""
        return getattr(torch, self.config.compute_dtype)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Return the shape of the noise of one chunk: one number decides one token."""
        return (self.config.max_new_tokens,)

    def draw(self, num_rows: int, generator: torch.Generator) -> Draws:
        """Return no draws: nothing in this model's loss is left to chance."""
        device = generator.device
        return Draws(
            noise=torch.zeros((num_rows, 0, self.horizon, self.action_dim), device=device),
            time=torch.zeros((num_rows, 0), device=device),
        )

    def counted(
        self, inputs: Inputs, valid: Bool[Tensor, "batch horizon"], draws: Draws
    ) -> dict[str, Bool[Tensor, "batch *step"]]:
        """Return the rows that have targets."""
        return {"tokens": inputs.tokens.target.any(dim=1)}

    def losses(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action_dim"],
        valid: Bool[Tensor, "batch horizon"],
        *,
        draws: Draws,
        real: Bool[Tensor, "batch action_dim"] | None = None,
    ) -> dict[str, Loss]:
        """Return the token loss of each row that has any; its tokens hold real actions alone."""
        counted = self.counted(inputs, valid, draws)["tokens"]
        return {"tokens": Loss(values=self.token_loss(inputs), counted=counted)}

    def token_loss(self, inputs: Inputs) -> Float[Tensor, "batch"]:
        """Return the mean cross-entropy of each row's target tokens; 0 for a row without any."""
        return next_token_loss(self.next_token_logits(inputs), inputs.tokens)

    def next_token_logits(self, inputs: Inputs) -> Float[Tensor, "batch next_token vocabulary"]:
        """Return, for each text token but the last, the float32 logits of the one that follows it.

        Positions count every token here, absent cameras and padding too, as openpi trains.
        """
        embeddings, valid, starts_block = self.backbone.embed(inputs, self.compute_dtype)
        count = torch.arange(valid.shape[1] - 1, device=valid.device)
        hidden, _ = self.backbone.language(
            embeddings[:, :-1],
            valid[:, :-1],
            starts_block[:, :-1],
            positions=count.expand(len(valid), -1),
        )
        num_next = inputs.tokens.ids.shape[1] - 1
        return self.backbone.next_token_logits(hidden[:, -num_next:])

    @torch.no_grad()
    def sample(
        self, inputs: Inputs, *, noise: Float[Tensor, "batch *noise_shape"]
    ) -> Int[Tensor, "batch token"]:
        """Return what the model writes after the prompt, to each row's own end; padding follows it.

        At a temperature, standard normal `noise` `[batch, token]` decides: token s is the one in which the
        distribution function of the tokens passes that of noise s.
        """
        language, table = self.backbone.language, self.backbone.embedding
        hidden, past = language(*self.backbone.embed(inputs, self.compute_dtype))
        num_rows = len(past.valid)
        steps = torch.arange(past.valid.shape[1], device=past.valid.device)
        last = torch.where(past.valid, steps, -1).amax(dim=1)
        hidden = hidden[torch.arange(num_rows, device=last.device), last]
        position = past.num_valid + self.config.skipped_positions
        finished = torch.zeros(num_rows, dtype=torch.bool, device=last.device)
        one = ~finished[:, None]
        written = []
        for step in range(self.config.max_new_tokens):
            token = self._choose(self.logits(hidden), noise[:, step])
            token = torch.where(finished, PAD, token)
            written.append(token)
            finished = finished | (token == END)
            if step + 1 == self.config.max_new_tokens or finished.all():
                break
            embedding = (F.embedding(token, table) * table.shape[1] ** 0.5).to(self.compute_dtype)
            new, cache = language(
                embedding[:, None], one, one, past=past, positions=(position + step)[:, None]
            )
            past, hidden = past.append(cache), new[:, 0]
        ids = torch.stack(written, dim=1)
        return F.pad(ids, (0, self.config.max_new_tokens - ids.shape[1]), value=PAD)

    def logits(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, "batch vocabulary"]:
        """Return float32 logits of the token that follows each row's last; computed in the compute dtype."""
        return F.linear(hidden, self.backbone.embedding.to(hidden.dtype)).float()

    def _choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        if self.config.temperature == 0.0:
            return logits.argmax(dim=-1)
        cumulative = (logits / self.config.temperature).softmax(dim=-1).double().cumsum(dim=-1)
        level = torch.special.ndtr(noise.double())[:, None] * cumulative[:, -1:]
        return (cumulative < level).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
