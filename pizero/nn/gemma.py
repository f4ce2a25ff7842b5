"""Gemma, the transformer of both the vision-language model and the action expert, with an explicit cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pizero.nn.attention import (
    Rotation,
    attend,
    block_causal_mask,
    mask_bias,
    positions_of,
    rotate,
    rotation,
)
from pizero.nn.layers import AdaptiveRMSNorm, Linear, RMSNorm
from pizero.nn.lora import LoRAConfig, LoRAIntoHeads, LoRAOutOfHeads

Condition = Float[Tensor, "batch width"] | Float[Tensor, "batch token width"]
"""What steers the norms: one vector for each row of a batch, or one for each token."""


@dataclass(frozen=True, kw_only=True)
class GemmaConfig:
    """Sizes of one Gemma: residual width, layers, feed-forward width, and attention heads.

    The norms of a `conditioned` one are steered by a vector of its width; `lora` adds adapters to every
    linear map.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    conditioned: bool = False
    lora: LoRAConfig | None = None


@dataclass(frozen=True)
class KeyValues:
    """What later tokens need of earlier ones: rotated keys and values per layer, and who is real."""

    keys: tuple[Float[Tensor, "batch token kv_head head_dim"], ...]
    values: tuple[Float[Tensor, "batch token kv_head head_dim"], ...]
    valid: Bool[Tensor, "batch token"]

    @property
    def num_valid(self) -> Int[Tensor, "batch"]:
        """Return how many positions are taken."""
        return self.valid.sum(dim=-1)

    def append(self, other: KeyValues) -> KeyValues:
        """Return these tokens followed by those of `other`."""
        return KeyValues(
            keys=tuple(torch.cat(pair, dim=1) for pair in zip(self.keys, other.keys, strict=True)),
            values=tuple(torch.cat(pair, dim=1) for pair in zip(self.values, other.values, strict=True)),
            valid=torch.cat([self.valid, other.valid], dim=1),
        )

    def repeat(self, times: int) -> KeyValues:
        """Return each row of the batch `times` times in a row."""
        return KeyValues(
            keys=tuple(keys.repeat_interleave(times, dim=0) for keys in self.keys),
            values=tuple(values.repeat_interleave(times, dim=0) for values in self.values),
            valid=self.valid.repeat_interleave(times, dim=0),
        )

    def detach(self) -> KeyValues:
        """Return the same numbers without their history: gradients stop here (knowledge insulation)."""
        return KeyValues(
            keys=tuple(keys.detach() for keys in self.keys),
            values=tuple(values.detach() for values in self.values),
            valid=self.valid,
        )


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; no biases."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.query = self._into_heads(config.num_heads)
        self.key = self._into_heads(config.num_kv_heads)
        self.value = self._into_heads(config.num_kv_heads)
        self.output = self._out_of_heads()

    def key_values(
        self, x: Float[Tensor, "batch token width"], place: Rotation
    ) -> tuple[Float[Tensor, "batch token kv_head head_dim"], Float[Tensor, "batch token kv_head head_dim"]]:
        """Return rotated keys, and values."""
        heads = (self.config.num_kv_heads, self.config.head_dim)
        return rotate(self.key(x).unflatten(-1, heads), place), self.value(x).unflatten(-1, heads)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        keys: Float[Tensor, "batch key kv_head head_dim"],
        values: Float[Tensor, "batch key kv_head head_dim"],
        bias: Float[Tensor, "batch token key"],
        place: Rotation,
    ) -> Float[Tensor, "batch token width"]:
        """Mix `values` for each token of `x`."""
        heads = (self.config.num_heads, self.config.head_dim)
        queries = rotate(self.query(x).unflatten(-1, heads), place)
        return self.output(attend(queries, keys, values, bias).flatten(-2))

    def _into_heads(self, num_heads: int) -> Linear:
        width, heads_width, lora = self.config.width, num_heads * self.config.head_dim, self.config.lora
        if lora is None:
            return Linear(width, heads_width)
        scale = lora.attention_alpha / lora.attention_rank
        return LoRAIntoHeads(width, heads_width, rank=lora.attention_rank, scale=scale, num_heads=num_heads)

    def _out_of_heads(self) -> Linear:
        config, lora = self.config, self.config.lora
        heads_width = config.num_heads * config.head_dim
        if lora is None:
            return Linear(heads_width, config.width)
        scale = lora.attention_alpha / lora.attention_rank
        return LoRAOutOfHeads(
            heads_width, config.width, rank=lora.attention_rank, scale=scale, num_heads=config.num_heads
        )


class FeedForward(nn.Module):
    """GeGLU: `down(gelu_tanh(gate(x)) · up(x))`; no biases."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()

        def linear(in_features: int, out_features: int) -> Linear:
            if config.lora is None:
                return Linear(in_features, out_features)
            return LoRAIntoHeads(in_features, out_features, rank=config.lora.feed_forward_rank)

        self.gate = linear(config.width, config.mlp_dim)
        self.up = linear(config.width, config.mlp_dim)
        self.down = linear(config.mlp_dim, config.width)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Transform each token by itself."""
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


def make_norm(config: GemmaConfig) -> RMSNorm | AdaptiveRMSNorm:
    """Return the norm of one place of a Gemma."""
    return AdaptiveRMSNorm(config.width, config.width) if config.conditioned else RMSNorm(config.width)


def normalize(
    norm: nn.Module, hidden: Float[Tensor, "batch token width"], condition: Tensor | None
) -> tuple[Float[Tensor, "batch token width"], Tensor | None]:
    """Return normalised tokens, and the gate of what is made of them; a plain norm has none."""
    if not isinstance(norm, AdaptiveRMSNorm):
        return norm(hidden), None
    if condition is None:
        raise ValueError(
            "this Gemma is conditioned: give its forward pass a condition, [batch, width] or [batch, token, "
            "width]"
        )
    return norm(hidden, condition)


def add(hidden: Tensor, update: Tensor, gate: Tensor | None) -> Float[Tensor, "batch token width"]:
    """Return the residual stream with an update, scaled by the gate if there is one."""
    return hidden + (update if gate is None else update * gate)


class GemmaLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        hidden: Float[Tensor, "batch token width"],
        bias: Float[Tensor, "batch token key"],
        place: Rotation,
        past: tuple[Tensor, Tensor] | None,
        condition: Condition | None,
    ) -> tuple[Float[Tensor, "batch token width"], tuple[Tensor, Tensor]]:
        """Return the new residual stream, and the keys and values of these tokens alone."""
        normed, gate = normalize(self.attention_norm, hidden, condition)
        new = self.attention.key_values(normed, place)
        keys, values = (
            new if past is None else (torch.cat(pair, dim=1) for pair in zip(past, new, strict=True))
        )
        hidden = add(hidden, self.attention(normed, keys, values, bias, place), gate)
        normed, gate = normalize(self.feed_forward_norm, hidden, condition)
        return add(hidden, self.feed_forward(normed), gate), new

    def key_values(
        self,
        hidden: Float[Tensor, "batch token width"],
        place: Rotation,
        condition: Condition | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the keys and values of these tokens, and compute nothing else."""
        normed, _ = normalize(self.attention_norm, hidden, condition)
        return self.attention.key_values(normed, place)


class Gemma(nn.Module):
    """A stack of layers that reads embeddings after an optional past, and returns its own keys and values.

    π0's mask is block-causal, so running a second, narrower `Gemma` over the state and the actions with the
    vision-language model's keys and values as its past equals the joint forward pass of the paper.
    """

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(GemmaLayer(config) for _ in range(config.depth))
        self.final_norm = make_norm(config)

    def forward(
        self,
        embeddings: Float[Tensor, "batch token width"],
        valid: Bool[Tensor, "batch token"],
        starts_block: Bool[Tensor, "batch token"],
        *,
        past: KeyValues | None = None,
        positions: Int[Tensor, "batch token"] | None = None,
        condition: Condition | None = None,
    ) -> tuple[Float[Tensor, "batch token width"], KeyValues]:
        """Return the normalised hidden states, and the keys and values of these tokens.

        Without `positions`, the valid tokens are numbered after those of the past.
        """
        bias, place = self._geometry(valid, starts_block, past, positions)
        hidden, new = self._run(self.config.depth, embeddings, bias, place, past, condition)
        keys, values = zip(*new, strict=True)
        normed, _ = normalize(self.final_norm, hidden, condition)
        return normed, KeyValues(keys=keys, values=values, valid=valid)

    def key_values(
        self,
        embeddings: Float[Tensor, "batch token width"],
        valid: Bool[Tensor, "batch token"],
        starts_block: Bool[Tensor, "batch token"],
        *,
        past: KeyValues | None = None,
        condition: Condition | None = None,
    ) -> KeyValues:
        """Return only what later tokens read: the last layer stops after its keys and values."""
        bias, place = self._geometry(valid, starts_block, past, None)
        hidden, new = self._run(self.config.depth - 1, embeddings, bias, place, past, condition)
        last = self.layers[-1]
        assert isinstance(last, GemmaLayer)
        new.append(last.key_values(hidden, place, condition))
        keys, values = zip(*new, strict=True)
        return KeyValues(keys=keys, values=values, valid=valid)

    def _geometry(
        self, valid: Tensor, starts_block: Tensor, past: KeyValues | None, positions: Tensor | None
    ) -> tuple[Tensor, Rotation]:
        mask = block_causal_mask(valid, starts_block)
        if positions is None:
            positions = positions_of(valid, None if past is None else past.num_valid)
        if past is not None:
            sees_past = past.valid[:, None, :].expand(-1, valid.shape[1], -1)
            mask = torch.cat([sees_past, mask], dim=-1)
        return mask_bias(mask), rotation(positions, self.config.head_dim)

    def _run(
        self,
        num_layers: int,
        hidden: Tensor,
        bias: Tensor,
        place: Rotation,
        past: KeyValues | None,
        condition: Tensor | None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        new = []
        for index in range(num_layers):
            layer_past = None if past is None else (past.keys[index], past.values[index])
            hidden, key_values = self.layers[index](hidden, bias, place, layer_past, condition)
            new.append(key_values)
        return hidden, new
