"""π0 gives openpi's numbers on openpi's weights, and would not if any one convention were another."""

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
import pizero.nn.gemma
from pizero.generative.flow import FlowMatching
from pizero.models.pi0 import PI0, Pi0
from pizero.nn.attention import Rotation
from pizero.nn.gemma import KeyValues
from tests.golden_weights import arrays, from_openpi, golden_config, golden_inputs, golden_model

JAX, TORCH = "pi0/outputs_jax.npz", "pi0/outputs_torch.npz"
TO_JAX, TO_TORCH, OF_EMBEDDINGS = 1e-4, 2e-5, 5e-5
"""How close actions must come; openpi's own two implementations are 7e-5 apart (see `time_embedding`)."""


def distance(ours: Tensor, golden: np.ndarray) -> float:
    """Return the largest difference of two equally shaped arrays."""
    assert ours.shape == golden.shape
    return (ours.detach() - torch.from_numpy(golden)).abs().max().item()


def sampled(model: Pi0, num_steps: int = 10) -> Tensor:
    """Return the actions that a model makes of the golden noise."""
    model.process = FlowMatching(num_steps=num_steps)
    return model.sample(golden_inputs(), noise=torch.from_numpy(arrays("pi0/inputs.npz")["sample_noise"]))


def losses(model: Pi0) -> Tensor:
    """Return the loss at the golden noise and times."""
    raw = {name: torch.from_numpy(array) for name, array in arrays("pi0/inputs.npz").items()}
    context = model.observe(golden_inputs())
    return model.prediction_error(context, raw["actions"], noise=raw["loss_noise"], time=raw["loss_time"])


def test_every_openpi_weight_has_one_place() -> None:
    golden = arrays("pi0/params_jax.safetensors")
    ours = from_openpi(golden, golden_config())
    assert sum(tensor.numel() for tensor in ours.values()) == sum(array.size for array in golden.values())
    total = sum(tensor.double().sum().item() for tensor in ours.values())
    assert total == pytest.approx(sum(array.sum(dtype=np.float64) for array in golden.values()), abs=1e-9)


def test_prefix_embeddings() -> None:
    embeddings, valid, starts_block = golden_model().backbone.embed(golden_inputs(), torch.float32)
    assert distance(embeddings, arrays(JAX)["prefix_embs"]) <= OF_EMBEDDINGS
    assert np.array_equal(valid.numpy(), arrays(JAX)["prefix_pad_mask"])
    assert not starts_block.any()


def test_cached_keys_and_values_of_real_tokens() -> None:
    cache = golden_model().backbone.key_values(golden_inputs(), torch.float32)
    real = arrays(JAX)["prefix_pad_mask"]
    for ours, golden in ((cache.keys, "kv_cache_k"), (cache.values, "kv_cache_v")):
        for layer, theirs in zip(ours, arrays(JAX)[golden], strict=True):
            assert distance(layer[torch.from_numpy(real)], theirs[real]) <= OF_EMBEDDINGS


def test_action_token_embeddings() -> None:
    model, time = golden_model(), torch.from_numpy(arrays("pi0/inputs.npz")["loss_time"])
    ours = model.embed_actions(torch.from_numpy(arrays(JAX)["x_t"]), time)
    assert distance(ours, arrays(JAX)["suffix_embs"][:, 1:]) <= TO_JAX


def test_loss() -> None:
    loss = losses(golden_model())
    assert distance(loss, arrays(JAX)["loss"]) <= OF_EMBEDDINGS
    assert distance(loss, arrays(TORCH)["loss_unreduced"].mean(axis=-1)) <= TO_TORCH


@pytest.mark.parametrize("num_steps", [10, 5, 1])
def test_sampled_actions(num_steps: int) -> None:
    actions = sampled(golden_model(), num_steps)
    assert distance(actions, arrays(TORCH)[f"sample_actions_steps{num_steps}"]) <= TO_TORCH
    assert distance(actions, arrays(JAX)[f"sample_actions_steps{num_steps}"]) <= TO_JAX


def test_gradient_of_every_weight() -> None:
    model = golden_model()
    losses(model).mean().backward()
    golden = from_openpi(arrays("pi0/grads_jax.safetensors"), model.config)
    for name, parameter in model.named_parameters():
        largest = golden[name].abs().max().item()
        if parameter.grad is None:
            assert largest == 0.0, f"{name}: openpi has a gradient, we have none"
        else:
            # A key's bias shifts all logits of a row alike: its gradient is 0 but for rounding, hence 1e-7.
            assert distance(parameter.grad, golden[name].numpy()) <= 1e-4 * largest + 1e-7, name


def test_bfloat16_is_as_close_to_float32_as_openpi_s() -> None:
    model = golden_model()
    model.config = replace(model.config, compute_dtype="bfloat16")
    actions, loss = sampled(model), losses(model)
    assert actions.dtype == loss.dtype == torch.float32
    for ours, name in ((actions, "sample_actions_steps10"), (loss, "loss")):
        theirs = np.abs(arrays("pi0/outputs_bf16.npz")[name] - arrays(JAX)[name]).max()
        assert 1e-3 < distance(ours, arrays(JAX)[name]) < 2.0 * theirs
    loss.mean().backward()
    assert all(
        parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in model.parameters()
    )


def exact_gelu(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    gelu = F.gelu
    patch.setattr(F, "gelu", lambda x, approximate: gelu(x))


def larger_rms_epsilon(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    rms_norm = F.rms_norm
    patch.setattr(F, "rms_norm", lambda x, shape, weight, eps: rms_norm(x, shape, weight, 10.0 * eps))


def scale_without_one(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    rms_norm = F.rms_norm
    patch.setattr(F, "rms_norm", lambda x, shape, weight, eps: rms_norm(x, shape, weight - 1.0, eps))


def positions_that_count_masked_tokens(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    positions_of = pizero.nn.gemma.positions_of
    patch.setattr(
        pizero.nn.gemma, "positions_of", lambda valid, past: positions_of(torch.ones_like(valid), past)
    )
    patch.setattr(KeyValues, "num_valid", property(lambda past: torch.ones_like(past.valid).sum(dim=-1)))


def causal_actions(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    mask = pizero.nn.gemma.block_causal_mask
    patch.setattr(
        pizero.nn.gemma,
        "block_causal_mask",
        lambda valid, starts: mask(valid, starts | (valid.shape[1] == model.horizon)),
    )


def actions_see_masked_tokens(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    mask_bias = pizero.nn.gemma.mask_bias
    patch.setattr(
        pizero.nn.gemma,
        "mask_bias",
        lambda mask: mask_bias(mask if mask.shape[1] != model.horizon else torch.ones_like(mask)),
    )


def cosines_before_sines(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    embed = pizero.models.pi0.time_embedding
    patch.setattr(pizero.models.pi0, "time_embedding", lambda t, width: embed(t, width).roll(width // 2, -1))


def time_the_other_way(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    embed = pizero.models.pi0.time_embedding
    patch.setattr(pizero.models.pi0, "time_embedding", lambda t, width: embed(1.0 - t, width))


def interleaved_rotation(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    def rotate(x: Tensor, by: Rotation) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        sin, cos = by.sin[:, :, None], by.cos[:, :, None]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    patch.setattr(pizero.nn.gemma, "rotate", rotate)


def unscaled_text(model: Pi0, patch: pytest.MonkeyPatch) -> None:
    model.backbone.embedding.data /= model.config.backbone.language.width**0.5


def gate_and_up_swapped(model: Pi0, patch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("make_wrong", WRONG, ids=lambda make_wrong: make_wrong.__name__)
def test_a_wrong_variant_is_caught(
    make_wrong: Callable[[Pi0, pytest.MonkeyPatch], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden_model()
    make_wrong(model, monkeypatch)
    assert distance(sampled(model), arrays(TORCH)["sample_actions_steps10"]) > TO_TORCH


def test_another_layer_norm_epsilon_is_caught_in_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    layer_norm = F.layer_norm
    monkeypatch.setattr(
        F, "layer_norm", lambda x, shape, scale, bias, eps: layer_norm(x, shape, scale, bias, 10 * eps)
    )
    embeddings, _, _ = golden_model().backbone.embed(golden_inputs(), torch.float32)
    assert distance(embeddings, arrays(JAX)["prefix_embs"]) > OF_EMBEDDINGS


def test_full_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        model = Pi0(PI0)

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(model.backbone.vision) == 414_803_696
    assert model.backbone.embedding.numel() == 526_647_296
    assert count(model.backbone.language) == 1_981_884_416
    assert count(model) == 3_238_048_528
