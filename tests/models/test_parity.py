"""π0 and π0.5 give openpi's numbers on openpi's weights, and would not if any one convention were another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pizero.models.pi0
import pizero.models.pi05
import pizero.nn.gemma
from pizero.generative.flow import FlowMatching
from pizero.models.build import construct
from pizero.nn.attention import Rotation
from pizero.nn.gemma import KeyValues
from pizero.nn.layers import AdaptiveRMSNorm
from pizero.nn.lora import LoRAConfig, LoRAIntoHeads, LoRAOutOfHeads, is_adapter, merged_weights
from tests.golden_weights import (
    arrays,
    from_openpi,
    golden_config,
    golden_inputs,
    golden_model,
    gradient_mismatches,
    with_lora,
)

KINDS = ("pi0", "pi05")
TO_JAX, TO_TORCH, OF_EMBEDDINGS = 1e-4, 2e-5, 5e-5
"""How close actions must come; openpi's own two implementations are 7e-5 apart (see `time_embedding`)."""
TOKEN_STRIDE = 7
"""Every seventh token of the golden prefixes is kept."""
TINY_LORA = LoRAConfig(attention_rank=4, attention_alpha=4.0, feed_forward_rank=4)


def jax(kind: str) -> dict[str, np.ndarray]:
    """Return what openpi's JAX code computed."""
    return arrays(f"{kind}/outputs_jax.npz")


def port(kind: str) -> dict[str, np.ndarray]:
    """Return what openpi's PyTorch port computed."""
    return arrays(f"{kind}/outputs_torch.npz")


def distance(ours: Tensor, golden: np.ndarray) -> float:
    """Return the largest difference of two equally shaped arrays."""
    assert ours.shape == golden.shape
    return (ours.detach() - torch.from_numpy(golden)).abs().max().item()


def sampled(model: Any, kind: str = "pi0", num_steps: int = 10) -> Tensor:
    """Return the actions that a model makes of the golden noise."""
    model.process = FlowMatching(num_steps=num_steps)
    noise = torch.from_numpy(arrays(f"{kind}/inputs.npz")["sample_noise"])
    return model.sample(golden_inputs(kind), noise=noise)


def losses(model: Any, kind: str = "pi0") -> Tensor:
    """Return the loss at the golden noise and times."""
    raw = {name: torch.from_numpy(array) for name, array in arrays(f"{kind}/inputs.npz").items()}
    context = model.observe(golden_inputs(kind))
    return model.prediction_error(context, raw["actions"], noise=raw["loss_noise"], time=raw["loss_time"])


@pytest.mark.parametrize("kind", [*KINDS, "pi0_fast"])
def test_every_openpi_weight_has_one_place(kind: str) -> None:
    golden = arrays(f"{kind}/params_jax.safetensors")
    ours = from_openpi(golden, golden_config(kind))
    assert sum(tensor.numel() for tensor in ours.values()) == sum(array.size for array in golden.values())
    total = sum(tensor.double().sum().item() for tensor in ours.values())
    assert total == pytest.approx(sum(array.sum(dtype=np.float64) for array in golden.values()), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_embeddings(kind: str) -> None:
    embeddings, valid, starts_block = golden_model(kind).backbone.embed(golden_inputs(kind), torch.float32)
    assert distance(embeddings[:, ::TOKEN_STRIDE], jax(kind)["prefix_embs"]) <= OF_EMBEDDINGS
    assert np.array_equal(valid.numpy(), jax(kind)["prefix_pad_mask"])
    assert not starts_block.any()


@pytest.mark.parametrize("kind", KINDS)
def test_cached_keys_and_values_of_real_tokens(kind: str) -> None:
    cache = golden_model(kind).backbone.key_values(golden_inputs(kind), torch.float32)
    real = jax(kind)["prefix_pad_mask"][:, ::TOKEN_STRIDE]
    for ours, golden in ((cache.keys, "kv_cache_k"), (cache.values, "kv_cache_v")):
        for layer, theirs in zip(ours, jax(kind)[golden], strict=True):
            kept = layer[:, ::TOKEN_STRIDE][torch.from_numpy(real)]
            assert distance(kept, theirs[real]) <= OF_EMBEDDINGS


def test_action_token_embeddings() -> None:
    model, time = golden_model(), torch.from_numpy(arrays("pi0/inputs.npz")["loss_time"])
    ours = model.embed_actions(torch.from_numpy(jax("pi0")["x_t"]), time)
    assert distance(ours, jax("pi0")["suffix_embs"][:, 1:]) <= TO_JAX


def test_condition_of_the_expert() -> None:
    time = torch.from_numpy(arrays("pi05/inputs.npz")["loss_time"])
    assert distance(golden_model("pi05").embed_time(time), jax("pi05")["adarms_cond"]) <= TO_JAX


@pytest.mark.parametrize("kind", KINDS)
def test_velocity(kind: str) -> None:
    model, time = golden_model(kind), torch.from_numpy(arrays(f"{kind}/inputs.npz")["loss_time"])
    velocity = model.denoise(model.observe(golden_inputs(kind)), torch.from_numpy(jax(kind)["x_t"]), time)
    assert distance(velocity, jax(kind)["v_t"]) <= TO_JAX


@pytest.mark.parametrize("kind", KINDS)
def test_loss(kind: str) -> None:
    loss = losses(golden_model(kind), kind)
    assert distance(loss, jax(kind)["loss"]) <= TO_JAX
    assert distance(loss, port(kind)["loss_unreduced"].mean(axis=-1)) <= TO_TORCH


@pytest.mark.parametrize("num_steps", [10, 5, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_actions(kind: str, num_steps: int) -> None:
    actions = sampled(golden_model(kind), kind, num_steps)
    assert distance(actions, port(kind)[f"sample_actions_steps{num_steps}"]) <= TO_TORCH
    assert distance(actions, jax(kind)[f"sample_actions_steps{num_steps}"]) <= TO_JAX


@pytest.mark.parametrize("kind", KINDS)
def test_velocity_and_actions_with_openpi_s_float32_clock(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time embedding in float32, as JAX has it, its own numbers are met ten times closer."""

    def in_float32(time: Tensor, width: int) -> Tensor:
        exponent = torch.linspace(0.0, 1.0, width // 2)
        phase = time[..., None] * (1.0 / (4e-3 * 1000.0**exponent) * 2.0 * torch.pi)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    for module in (pizero.models.pi0, pizero.models.pi05):
        monkeypatch.setattr(module, "time_embedding", in_float32)
    model, time = golden_model(kind), torch.from_numpy(arrays(f"{kind}/inputs.npz")["loss_time"])
    velocity = model.denoise(model.observe(golden_inputs(kind)), torch.from_numpy(jax(kind)["x_t"]), time)
    assert distance(velocity, jax(kind)["v_t"]) <= TO_TORCH
    assert distance(losses(model, kind), jax(kind)["loss"]) <= TO_TORCH


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_every_weight(kind: str) -> None:
    model = golden_model(kind)
    losses(model, kind).mean().backward()
    assert gradient_mismatches(model, kind) == []
    model.action_out.weight.grad *= 1.001
    assert len(gradient_mismatches(model, kind)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_as_close_to_float32_as_openpi_s(kind: str) -> None:
    model = golden_model(kind)
    model.config = replace(model.config, compute_dtype="bfloat16")
    actions, loss = sampled(model, kind), losses(model, kind)
    assert actions.dtype == loss.dtype == torch.float32
    for ours, name in ((actions, "sample_actions_steps10"), (loss, "loss")):
        theirs = np.abs(arrays(f"{kind}/outputs_bf16.npz")[name] - jax(kind)[name]).max()
        assert 1e-3 < distance(ours, jax(kind)[name]) < 2.0 * theirs
    loss.mean().backward()
    assert all(
        parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in model.parameters()
    )


def lora_model(kind: str) -> Any:
    """Return the golden model with the golden adapters."""
    config = with_lora(golden_config(kind), TINY_LORA)
    weights = arrays(f"{kind}/params_jax.safetensors") | arrays(f"{kind}/lora/lora_params_jax.safetensors")
    model = construct(config)
    model.load_state_dict(from_openpi(weights, config))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_adapters(kind: str) -> None:
    model, golden = lora_model(kind), arrays(f"{kind}/lora/outputs.npz")
    assert distance(losses(model, kind), golden["loss"]) <= TO_JAX
    for num_steps in (10, 1):
        assert distance(sampled(model, kind, num_steps), golden[f"sample_actions_steps{num_steps}"]) <= TO_JAX
    moved = np.abs(golden["sample_actions_steps10"] - jax(kind)["sample_actions_steps10"]).max()
    assert moved > 100 * TO_JAX


@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_act_as_before(kind: str) -> None:
    adapted, plain = lora_model(kind), construct(golden_config(kind))
    merged = merged_weights(adapted)
    assert set(merged) == set(plain.state_dict())
    assert sum(is_adapter(name) for name in adapted.state_dict()) == 2 * 2 * 7 * 3
    plain.load_state_dict(merged)
    assert (
        distance(sampled(plain, kind), arrays(f"{kind}/lora/outputs.npz")["sample_actions_steps10"]) <= TO_JAX
    )


def scale_of_the_feed_forward_too(model: Any) -> None:
    for name, module in model.named_modules():
        if isinstance(module, LoRAIntoHeads) and "feed_forward" in name:
            module.scale = 2.0  # the golden alpha / rank, which openpi does not apply there


def heads_summed_after_the_product(model: Any) -> None:
    def forward(module: LoRAOutOfHeads, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (module.lora_a.shape[0], -1))
        delta = torch.einsum("...hd,hrd,hor->...o", heads, module.lora_a, module.lora_b)
        return F.linear(x, module.weight) + module.scale * delta

    for module in model.modules():
        if isinstance(module, LoRAOutOfHeads):
            module.forward = forward.__get__(module)


@pytest.mark.parametrize(
    "make_wrong", [scale_of_the_feed_forward_too, heads_summed_after_the_product], ids=lambda f: f.__name__
)
def test_a_wrong_adapter_is_caught(make_wrong: Callable[[Any], None]) -> None:
    model = lora_model("pi0")
    make_wrong(model)
    assert distance(sampled(model), arrays("pi0/lora/outputs.npz")["sample_actions_steps10"]) > TO_JAX


def exact_gelu(model: Any, patch: pytest.MonkeyPatch) -> None:
    gelu = F.gelu
    patch.setattr(F, "gelu", lambda x, approximate: gelu(x))


def larger_rms_epsilon(model: Any, patch: pytest.MonkeyPatch) -> None:
    rms_norm = F.rms_norm
    patch.setattr(
        F, "rms_norm", lambda x, shape, weight=None, eps=0.0: rms_norm(x, shape, weight, 10.0 * eps)
    )


def scale_without_one(model: Any, patch: pytest.MonkeyPatch) -> None:
    rms_norm = F.rms_norm

    def wrong(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float = 0.0) -> Tensor:
        return rms_norm(x, shape, None if weight is None else weight - 1.0, eps)

    patch.setattr(F, "rms_norm", wrong)


def positions_that_count_masked_tokens(model: Any, patch: pytest.MonkeyPatch) -> None:
    positions_of = pizero.nn.gemma.positions_of
    patch.setattr(
        pizero.nn.gemma, "positions_of", lambda valid, past: positions_of(torch.ones_like(valid), past)
    )
    patch.setattr(KeyValues, "num_valid", property(lambda past: torch.ones_like(past.valid).sum(dim=-1)))


def causal_actions(model: Any, patch: pytest.MonkeyPatch) -> None:
    mask = pizero.nn.gemma.block_causal_mask
    patch.setattr(
        pizero.nn.gemma,
        "block_causal_mask",
        lambda valid, starts: mask(valid, starts | (valid.shape[1] == model.horizon)),
    )


def actions_see_masked_tokens(model: Any, patch: pytest.MonkeyPatch) -> None:
    mask_bias = pizero.nn.gemma.mask_bias
    patch.setattr(
        pizero.nn.gemma,
        "mask_bias",
        lambda mask: mask_bias(mask if mask.shape[1] != model.horizon else torch.ones_like(mask)),
    )


def cosines_before_sines(model: Any, patch: pytest.MonkeyPatch) -> None:
    embed = pizero.models.pi0.time_embedding
    for module in (pizero.models.pi0, pizero.models.pi05):
        patch.setattr(module, "time_embedding", lambda t, width: embed(t, width).roll(width // 2, -1))


def time_the_other_way(model: Any, patch: pytest.MonkeyPatch) -> None:
    embed = pizero.models.pi0.time_embedding
    for module in (pizero.models.pi0, pizero.models.pi05):
        patch.setattr(module, "time_embedding", lambda t, width: embed(1.0 - t, width))


def interleaved_rotation(model: Any, patch: pytest.MonkeyPatch) -> None:
    def rotate(x: Tensor, by: Rotation) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        sin, cos = by.sin[:, :, None], by.cos[:, :, None]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    patch.setattr(pizero.nn.gemma, "rotate", rotate)


def unscaled_text(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.backbone.embedding.data /= model.config.backbone.language.width**0.5


def gate_and_up_swapped(model: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in model.expert.layers:
        layer.feed_forward.gate, layer.feed_forward.up = layer.feed_forward.up, layer.feed_forward.gate


WRONG = [
    exact_gelu,
    larger_rms_epsilon,
    scale_without_one,
    positions_that_count_masked_tokens,
    causal_actions,
    actions_see_masked_tokens,
    cosines_before_sines,
    time_the_other_way,
    interleaved_rotation,
    unscaled_text,
    gate_and_up_swapped,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make_wrong", WRONG, ids=lambda make_wrong: make_wrong.__name__)
def test_a_wrong_variant_is_caught(
    make_wrong: Callable[[Any, pytest.MonkeyPatch], Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden_model(kind)
    make_wrong(model, monkeypatch)
    assert distance(sampled(model, kind), port(kind)["sample_actions_steps10"]) > TO_TORCH


def gate_left_out(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pizero.nn.gemma, "add", lambda hidden, update, gate: hidden + update)


def shift_before_scale(model: Any, patch: pytest.MonkeyPatch) -> None:
    forward = AdaptiveRMSNorm.forward

    def swapped(norm: AdaptiveRMSNorm, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        for name in ("weight", "bias"):
            shift, scale, gate = getattr(norm.modulation, name).data.chunk(3)
            getattr(norm.modulation, name).data = torch.cat([scale, shift, gate])
        return forward(norm, x, condition)

    patch.setattr(AdaptiveRMSNorm, "forward", swapped)


def no_activation_after_the_clock(model: Any, patch: pytest.MonkeyPatch) -> None:
    def embed_time(time: Tensor) -> Tensor:
        clock = pizero.models.pi05.time_embedding(time, model.config.expert.width)
        return model.time_out(F.silu(model.time_in(clock)))

    model.embed_time = embed_time


@pytest.mark.parametrize(
    "make_wrong",
    [gate_left_out, shift_before_scale, no_activation_after_the_clock],
    ids=lambda make_wrong: make_wrong.__name__,
)
def test_a_wrong_condition_is_caught(
    make_wrong: Callable[[Any, pytest.MonkeyPatch], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden_model("pi05")
    make_wrong(model, monkeypatch)
    assert distance(sampled(model, "pi05", 1), port("pi05")["sample_actions_steps1"]) > TO_TORCH


@pytest.mark.parametrize("kind", KINDS)
def test_another_layer_norm_epsilon_is_caught_in_the_prefix(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer_norm = F.layer_norm
    monkeypatch.setattr(
        F, "layer_norm", lambda x, shape, scale, bias, eps: layer_norm(x, shape, scale, bias, 10 * eps)
    )
    embeddings, _, _ = golden_model(kind).backbone.embed(golden_inputs(kind), torch.float32)
    assert distance(embeddings[:, ::TOKEN_STRIDE], jax(kind)["prefix_embs"]) > OF_EMBEDDINGS
