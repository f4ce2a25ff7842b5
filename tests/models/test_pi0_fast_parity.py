"""π0-FAST gives openpi's logits, losses, gradients and tokens on openpi's weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pizero.nn.gemma
from pizero.models.pi0_fast import Pi0FAST
from pizero.types import Inputs
from tests.golden_weights import (
    arrays,
    from_openpi,
    golden_config,
    golden_fast_inputs,
    golden_model,
    gradient_mismatches,
)
from tests.models.test_parity import OF_EMBEDDINGS, TO_TORCH, TOKEN_STRIDE, distance

JAX = "pi0_fast/outputs_jax.npz"
LOGIT_STRIDE = 3
"""Every third token's logits are kept."""
NO_NOISE = torch.zeros(2, 8)


def test_embeddings_of_a_whole_sequence() -> None:
    embeddings, _, _ = golden_model("pi0_fast").backbone.embed(golden_fast_inputs("train"), torch.float32)
    assert distance(embeddings[:, ::TOKEN_STRIDE], arrays(JAX)["train_input_embs"]) <= OF_EMBEDDINGS


@pytest.mark.parametrize("masked_camera", [False, True])
def test_logits_and_loss(masked_camera: bool) -> None:
    model, inputs = golden_model("pi0_fast"), golden_fast_inputs("train", masked_camera=masked_camera)
    suffix = "_masked_camera" if masked_camera else ""
    real = inputs.tokens.valid[:, :-1][:, ::LOGIT_STRIDE]
    logits = model.next_token_logits(inputs)[:, ::LOGIT_STRIDE]
    golden = arrays(JAX)[f"train_logits{suffix}"]
    assert distance(logits[real], golden[real.numpy()]) <= OF_EMBEDDINGS
    assert distance(model.token_loss(inputs), arrays(JAX)[f"train_loss{suffix}"]) <= TO_TORCH


def test_the_training_loss_counts_each_row_that_has_targets() -> None:
    model, inputs = golden_model("pi0_fast"), golden_fast_inputs("train")
    target = inputs.tokens.target & torch.tensor([[True], [False]])
    inputs = replace(inputs, tokens=replace(inputs.tokens, target=target))
    steps = torch.ones(2, 6, dtype=torch.bool)
    draws = model.draw(2, torch.Generator())
    (loss,) = model.losses(inputs, torch.zeros(2, 6, 10), steps, draws=draws).values()
    assert distance(loss.values[:1], arrays(JAX)["train_loss"][:1]) <= TO_TORCH
    assert loss.counted.tolist() == [True, False]


def test_log_probabilities_of_the_targets() -> None:
    model, inputs = golden_model("pi0_fast"), golden_fast_inputs("train")
    target = inputs.tokens.target[:, 1:]
    logp = model.next_token_logits(inputs).log_softmax(dim=-1)
    ours = logp.gather(-1, inputs.tokens.ids[:, 1:, None])[..., 0]
    assert distance(ours[target], arrays(JAX)["train_target_logp"][target.numpy()]) <= OF_EMBEDDINGS


def test_gradient_of_every_weight() -> None:
    model = golden_model("pi0_fast")
    model.token_loss(golden_fast_inputs("train")).mean().backward()
    assert gradient_mismatches(model, "pi0_fast") == []


def test_greedy_tokens_and_their_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, logits = golden_model("pi0_fast"), []
    inner = Pi0FAST.logits

    def watched(self: Pi0FAST, hidden: torch.Tensor) -> torch.Tensor:
        logits.append(inner(self, hidden))
        return logits[-1]

    monkeypatch.setattr(Pi0FAST, "logits", watched)
    ids = model.sample(golden_fast_inputs("infer"), noise=NO_NOISE)
    assert np.array_equal(ids.numpy(), arrays(JAX)["decode_tokens"])
    golden = arrays(JAX)["decode_logits"][:, : len(logits)]
    assert distance(torch.stack(logits, dim=1), golden) <= 1e-4
    assert distance(logits[0], arrays(JAX)["infer_prefill_last_logits"]) <= 1e-4


def test_a_row_stops_at_its_own_end_and_the_other_goes_on() -> None:
    weights = dict(arrays("pi0_fast/params_jax.safetensors"))
    table = weights["PaliGemma/llm/embedder/input_embedding"].copy()
    table[1] = arrays("pi0_fast/inputs.npz")["eos_embedding_row"]
    weights["PaliGemma/llm/embedder/input_embedding"] = table
    model = Pi0FAST(golden_config("pi0_fast"))
    model.load_state_dict(from_openpi(weights, model.config))
    both = model.sample(golden_fast_inputs("infer"), noise=NO_NOISE)
    golden = arrays(JAX)["eos_decode_tokens"]
    assert 1 in golden
    assert np.array_equal(both[:1].numpy(), golden)
    alone = model.sample(row(golden_fast_inputs("infer"), 1), noise=NO_NOISE[1:])
    assert torch.equal(both[1:], alone)
    assert len(set(both[1].tolist())) > 2


def row(inputs: Inputs, index: int) -> Inputs:
    """Return one row of a batch, as a batch."""
    tokens = inputs.tokens
    part = slice(index, index + 1)
    return Inputs(
        images=inputs.images[part],
        camera_valid=inputs.camera_valid[part],
        state=inputs.state[part],
        tokens=replace(
            tokens,
            **{name: getattr(tokens, name)[part] for name in ("ids", "valid", "causal", "target")},
        ),
    )


def test_cached_decoding_equals_a_whole_pass_over_what_was_written() -> None:
    """Without openpi's skipped position, tokens are what the training pass predicts (full cameras)."""
    model = golden_model("pi0_fast")
    model.config = replace(model.config, skipped_positions=0)
    inputs = row(golden_fast_inputs("infer"), 0)
    written = model.sample(inputs, noise=NO_NOISE[:1])[0]
    length = int(inputs.tokens.valid.sum())
    ids, valid = inputs.tokens.ids.clone(), inputs.tokens.valid.clone()
    ids[0, length : length + 8], valid[0, length : length + 8] = written, True
    causal = torch.zeros_like(valid)
    causal[0, length:] = True
    whole = replace(inputs, tokens=replace(inputs.tokens, ids=ids, valid=valid, causal=causal))
    predicted = model.next_token_logits(whole)[0].argmax(dim=-1)
    assert torch.equal(predicted[length - 1 : length + 7], written)


def test_the_skipped_position_matters() -> None:
    model = golden_model("pi0_fast")
    model.config = replace(model.config, skipped_positions=0)
    noise = torch.zeros(2, 8)
    logits = []
    original = model.logits
    model.logits = lambda hidden: logits.append(original(hidden)) or logits[-1]
    model.sample(golden_fast_inputs("infer"), noise=noise)
    assert distance(logits[1], arrays(JAX)["decode_logits"][:, 1]) > 1e-3


def test_temperature_draws_from_the_softmax() -> None:
    """The share of each token over many noises is its probability."""
    config = replace(golden_config("pi0_fast"), temperature=2.0, max_new_tokens=1)
    model = golden_model("pi0_fast")
    model.config = config
    logits = torch.linspace(-3.0, 3.0, 1024)
    noise = torch.randn(200_000)
    chosen = model._choose(logits.expand(len(noise), -1)[:, ::64], noise)
    share = torch.bincount(chosen, minlength=16) / len(noise)
    torch.testing.assert_close(share, (logits[::64] / 2.0).softmax(dim=-1), atol=4e-3, rtol=0)
    many = model._choose(logits.expand(1, -1), torch.tensor([9.0]))
    assert many.item() == 1023


def positions_of_real_tokens(patch: pytest.MonkeyPatch) -> None:
    forward = pizero.nn.gemma.Gemma.forward
    patch.setattr(
        pizero.nn.gemma.Gemma,
        "forward",
        lambda self, *arguments, positions=None, **rest: forward(self, *arguments, **rest),
    )


def bidirectional_actions(patch: pytest.MonkeyPatch) -> None:
    mask = pizero.nn.gemma.block_causal_mask
    patch.setattr(
        pizero.nn.gemma, "block_causal_mask", lambda valid, starts: mask(valid, torch.zeros_like(starts))
    )


def causal_prefix(patch: pytest.MonkeyPatch) -> None:
    mask = pizero.nn.gemma.block_causal_mask
    patch.setattr(
        pizero.nn.gemma, "block_causal_mask", lambda valid, starts: mask(valid, torch.ones_like(starts))
    )


def scaled_logits(patch: pytest.MonkeyPatch) -> None:
    linear = F.linear
    patch.setattr(
        F,
        "linear",
        lambda x, weight, bias=None: linear(x, weight * 8.0 if weight.shape[0] == 1024 else weight, bias),
    )


@pytest.mark.parametrize(
    "make_wrong", [positions_of_real_tokens, bidirectional_actions, causal_prefix, scaled_logits]
)
def test_a_wrong_variant_is_caught(make_wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = golden_model("pi0_fast"), golden_fast_inputs("train", masked_camera=True)
    make_wrong(monkeypatch)
    assert distance(model.token_loss(inputs), arrays(JAX)["train_loss_masked_camera"]) > TO_TORCH
