"""A vision-language model: images and text become one sequence of embeddings, read by one Gemma."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pizero.nn.gemma import Gemma, GemmaConfig, KeyValues
from pizero.nn.siglip import SigLIP, SigLIPConfig
from pizero.nn.vision import ResNet, ResNetConfig
from pizero.types import Inputs


@dataclass(frozen=True, kw_only=True)
class PaliGemmaConfig:
    """Sizes of the vision-language model; the image encoder is a choice, not a fork of the model."""

    vision: SigLIPConfig | ResNetConfig
    language: GemmaConfig
    vocab_size: int


class PaliGemma(nn.Module):
    """Image encoder, token embedding and Gemma."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        if isinstance(config.vision, SigLIPConfig):
            self.vision: SigLIP | ResNet = SigLIP(config.vision, width)
        else:
            self.vision = ResNet(config.vision, width)
        self.embedding = nn.Parameter(torch.randn(config.vocab_size, width) * 0.01)
        self.language = Gemma(config.language)

    def embed(
        self, inputs: Inputs, dtype: torch.dtype
    ) -> tuple[
        Float[Tensor, "batch prefix width"], Bool[Tensor, "batch prefix"], Bool[Tensor, "batch prefix"]
    ]:
        """Return the prefix [camera 1 | camera 2 | … | text] as embeddings, which are valid, and its blocks.

        Text embeddings are multiplied by √width, image tokens are not. Images and plain text form one
        bidirectional block; a `causal` text token opens a block of its own.
        """
        batch, num_cameras = inputs.images.shape[:2]
        images = self.vision(inputs.images.flatten(0, 1), dtype).unflatten(0, (batch, num_cameras))
        num_tokens = images.shape[2]
        text = F.embedding(inputs.tokens.ids, self.embedding) * self.config.language.width**0.5
        embeddings = torch.cat([images.flatten(1, 2), text.to(dtype)], dim=1)
        image_valid = inputs.camera_valid.repeat_interleave(num_tokens, dim=1)
        valid = torch.cat([image_valid, inputs.tokens.valid], dim=1)
        starts_block = torch.cat([torch.zeros_like(image_valid), inputs.tokens.causal], dim=1)
        return embeddings, valid, starts_block

    def next_token_logits(
        self, hidden: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token vocabulary"]:
        """Return float32 logits of the token that follows each, by the table that embeds tokens."""
        return F.linear(hidden.float(), self.embedding.float())

    def key_values(self, inputs: Inputs, dtype: torch.dtype) -> KeyValues:
        """Read images and text, and return what an action expert needs of them."""
        return self.language.key_values(*self.embed(inputs, dtype))
