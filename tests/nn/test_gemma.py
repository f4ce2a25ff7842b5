"""Gemma reads a sequence in pieces as it does whole; two Gemmas one after the other equal π0's joint pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pizero.nn.attention import attend, block_causal_mask, mask_bias, positions_of, rotate, rotation
from pizero.nn.gemma import Gemma, GemmaConfig, KeyValues

pytestmark = pytest.mark.usefixtures("double_precision")

LANGUAGE = GemmaConfig(width=16, depth=3, mlp_dim=24, num_heads=4, num_kv_heads=2, head_dim=8)
EXPERT = GemmaConfig(width=12, depth=3, mlp_dim=20, num_heads=4, num_kv_heads=2, head_dim=8)
EXACT = {"atol": 1e-12, "rtol": 0.0}

same_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(config: GemmaConfig) -> Gemma:
    """Return a Gemma in float64 whose norms do something."""
    model = Gemma(config).double()
    for name, parameter in model.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def draw_blocks(seed: int, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings, validity and block starts of two rows; each block begins with a valid token."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    embeddings = torch.randn(2, total, LANGUAGE.width, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, total, generator=generator) < 0.7
    starts = torch.zeros(2, total, dtype=torch.bool)
    for border in [sum(lengths[:index]) for index in range(len(lengths))]:
        valid[:, border] = starts[:, border] = True
    return embeddings, valid, starts


def joined(pieces: list[KeyValues]) -> KeyValues:
    first, *rest = pieces
    for piece in rest:
        first = first.append(piece)
    return first


def assert_equal_caches(one: KeyValues, other: KeyValues) -> None:
    assert torch.equal(one.valid, other.valid)
    for ours, theirs in ((one.keys, other.keys), (one.values, other.values)):
        for layer, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(layer[one.valid], expected[one.valid], **EXACT)


@same_fixture
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 99), st.data())
def test_reading_in_pieces_equals_reading_at_once(lengths: list[int], seed: int, data: st.DataObject) -> None:
    model = make(LANGUAGE)
    embeddings, valid, starts = draw_blocks(seed, lengths)
    whole, whole_cache = model(embeddings, valid, starts)
    borders = [sum(lengths[:index]) for index in range(1, len(lengths))]
    cuts = sorted(data.draw(st.sets(st.sampled_from(borders), min_size=1)))
    past, hidden = None, []
    for begin, end in zip([0, *cuts], [*cuts, sum(lengths)], strict=True):
        piece = (embeddings[:, begin:end], valid[:, begin:end], starts[:, begin:end])
        out, new = model(*piece, past=past)
        assert_equal_caches(model.key_values(*piece, past=past), new)
        past = new if past is None else past.append(new)
        hidden.append(out)
    torch.testing.assert_close(torch.cat(hidden, dim=1)[valid], whole[valid], **EXACT)
    assert past is not None
    assert_equal_caches(past, whole_cache)


@same_fixture
@given(st.integers(0, 99))
def test_invalid_tokens_change_nothing(seed: int) -> None:
    model = make(LANGUAGE)
    embeddings, valid, starts = draw_blocks(seed, [4, 3])
    hidden, _ = model(embeddings, valid, starts)
    other, _ = model(torch.where(valid[..., None], embeddings, 100.0), valid, starts)
    torch.testing.assert_close(other[valid], hidden[valid], **EXACT)

    row = valid[0]
    alone, _ = model(embeddings[:1, row], valid[:1, row], starts[:1, row])
    torch.testing.assert_close(alone[0], hidden[0, row], **EXACT)


def test_rows_of_a_batch_do_not_mix() -> None:
    model = make(LANGUAGE)
    embeddings, valid, starts = draw_blocks(3, [4, 3])
    both, _ = model(embeddings, valid, starts)
    second, _ = model(embeddings[1:], valid[1:], starts[1:])
    torch.testing.assert_close(second[0, valid[1]], both[1, valid[1]], **EXACT)


def test_repeated_past_serves_each_draw() -> None:
    model = make(LANGUAGE)
    embeddings, valid, starts = draw_blocks(5, [4, 3])
    past = model.key_values(embeddings[:, :4], valid[:, :4], starts[:, :4])
    draws = torch.randn(6, 3, LANGUAGE.width, dtype=torch.float64)
    valid, starts = (flags[:, 4:].repeat_interleave(3, dim=0) for flags in (valid, starts))
    together, _ = model(draws, valid, starts, past=past.repeat(3))
    for row in range(2):
        one = KeyValues(
            keys=tuple(keys[row : row + 1] for keys in past.keys),
            values=tuple(values[row : row + 1] for values in past.values),
            valid=past.valid[row : row + 1],
        )
        for index in range(3 * row, 3 * row + 3):
            here = slice(index, index + 1)
            alone, _ = model(draws[here], valid[here], starts[here], past=one)
            torch.testing.assert_close(together[here][valid[here]], alone[valid[here]], **EXACT)


def test_a_detached_past_gives_the_same_numbers_and_no_gradient() -> None:
    language, expert = make(LANGUAGE), make(EXPERT)
    embeddings, valid, starts = draw_blocks(7, [4])
    actions = torch.randn(2, 3, EXPERT.width, dtype=torch.float64)
    real = torch.ones(2, 3, dtype=torch.bool)
    past = language.key_values(embeddings, valid, starts)
    attached, _ = expert(actions, real, real, past=past)
    detached, _ = expert(actions, real, real, past=past.detach())
    assert torch.equal(attached, detached)
    detached.sum().backward()
    assert all(parameter.grad is None for parameter in language.parameters())
    assert all(parameter.grad is not None for parameter in expert.parameters())


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt() * (1.0 + scale)


def joint_forward(experts: list[Gemma], streams: list[Tensor], valid: Tensor, starts: Tensor) -> list[Tensor]:
    """π0's forward pass as the paper and openpi have it: one attention a layer over all experts' tokens.

    Written from the weights alone; of our code it shares masks, positions, rotation and attention, which have
    tests of their own.
    """
    bias = mask_bias(block_causal_mask(valid, starts))
    place = rotation(positions_of(valid), LANGUAGE.head_dim)
    lengths = [stream.shape[1] for stream in streams]
    for index in range(LANGUAGE.depth):
        layers = [expert.layers[index] for expert in experts]
        normed = [rms_norm(x, layer.attention_norm.scale) for x, layer in zip(streams, layers, strict=True)]

        def together(name: str, num_heads: int) -> Tensor:
            projected = [
                F.linear(x, getattr(layer.attention, name).weight)
                for x, layer in zip(normed, layers, strict=True)  # noqa: B023
            ]
            return torch.cat(projected, dim=1).unflatten(-1, (num_heads, LANGUAGE.head_dim))

        queries = rotate(together("query", LANGUAGE.num_heads), place)
        keys = rotate(together("key", LANGUAGE.num_kv_heads), place)
        mixed = attend(queries, keys, together("value", LANGUAGE.num_kv_heads), bias).flatten(-2)
        after = []
        for x, part, layer in zip(streams, mixed.split(lengths, dim=1), layers, strict=True):
            x = x + part @ layer.attention.output.weight.T
            feed = layer.feed_forward
            read = rms_norm(x, layer.feed_forward_norm.scale)
            gate = F.gelu(read @ feed.gate.weight.T, approximate="tanh")
            after.append(x + (gate * (read @ feed.up.weight.T)) @ feed.down.weight.T)
        streams = after
    return [rms_norm(x, expert.final_norm.scale) for x, expert in zip(streams, experts, strict=True)]


def test_one_gemma_after_the_other_equals_the_joint_pass_and_so_do_gradients() -> None:
    language, expert = make(LANGUAGE), make(EXPERT)
    prefix, prefix_valid, _ = draw_blocks(11, [9])
    prefix_valid[0, 4:7] = False  # as of a missing camera
    prefix_starts = torch.zeros_like(prefix_valid)
    state = torch.randn(2, 1, EXPERT.width, dtype=torch.float64)
    actions = torch.randn(2, 4, EXPERT.width, dtype=torch.float64)
    weighting = torch.randn(2, 4, EXPERT.width, dtype=torch.float64)
    one = torch.ones(2, 1, dtype=torch.bool)
    four = torch.ones(2, 4, dtype=torch.bool)
    first_of_four = torch.tensor([[True, False, False, False]]).expand(2, 4)

    def gradients(actions_out: Tensor) -> dict[str, Tensor | None]:
        for module in (language, expert):
            module.zero_grad(set_to_none=True)
        (actions_out * weighting).sum().backward()
        named = [*language.named_parameters("language"), *expert.named_parameters("expert")]
        return {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in named}

    past = language.key_values(prefix, prefix_valid, prefix_starts)
    past = past.append(expert.key_values(state, one, one, past=past))
    in_turn, _ = expert(actions, four, torch.zeros_like(four), past=past)
    ours = gradients(in_turn)

    _, suffix = joint_forward(
        [language, expert],
        [prefix, torch.cat([state, actions], dim=1)],
        torch.cat([prefix_valid, one, four], dim=1),
        torch.cat([prefix_starts, one, first_of_four], dim=1),
    )
    theirs = gradients(suffix[:, 1:])

    torch.testing.assert_close(in_turn, suffix[:, 1:], **EXACT)
    for name, gradient in theirs.items():
        mine = ours[name]
        if mine is None:
            assert gradient is None or not gradient.any(), name
        else:
            assert gradient is not None
            torch.testing.assert_close(mine, gradient, atol=1e-11, rtol=1e-11, msg=name)
