"""Masks, positions, rotary embedding and attention, each against a definition of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pizero.nn.attention import attend, block_causal_mask, mask_bias, positions_of, rotate, rotation

Flags = list[bool]


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Flags, Flags]:
    """Draw which tokens of a sequence are valid, and which start a block."""
    length = draw(st.integers(1, 12))
    flags = st.lists(st.booleans(), min_size=length, max_size=length)
    return draw(flags), draw(flags)


def bits(text: str) -> Tensor:
    return torch.tensor([[character == "1" for character in text]])


def test_mask_of_openpi_s_example() -> None:
    """openpi's result for this sequence, but that the invalid third token sees itself."""
    mask = block_causal_mask(valid=bits("1101111"), starts_block=bits("0000110"))[0]
    openpi = ["1101000", "1101000", "0000000", "1101000", "1101100", "1101111", "1101111"]
    expected = torch.cat([bits(row) for row in openpi])
    expected[2, 2] = True
    assert torch.equal(mask, expected)


@given(sequences())
def test_mask_is_what_its_rule_says_token_by_token(sequence: tuple[Flags, Flags]) -> None:
    valid, starts = sequence
    mask = block_causal_mask(torch.tensor([valid]), torch.tensor([starts]))[0].tolist()
    for query in range(len(valid)):
        for key in range(len(valid)):
            borders_between = any(starts[query + 1 : key + 1])  # a later block begins before the key
            real = valid[query] and valid[key] and not borders_between
            assert mask[query][key] == (real or query == key)


@given(sequences())
def test_who_is_seen_by_whom_i_see_i_see_too(sequence: tuple[Flags, Flags]) -> None:
    mask = block_causal_mask(*(torch.tensor([flags]) for flags in sequence))[0]
    sees_over_two = (mask.float() @ mask.float()) > 0
    assert torch.equal(sees_over_two, mask)


@given(sequences(), st.data())
def test_what_follows_a_block_does_not_change_it(sequence: tuple[Flags, Flags], data: st.DataObject) -> None:
    valid, starts = sequence
    borders = [index for index, starts_here in enumerate(starts) if starts_here and index > 0]
    cut = data.draw(st.sampled_from([*borders, len(valid)]))
    whole = block_causal_mask(torch.tensor([valid]), torch.tensor([starts]))
    part = block_causal_mask(torch.tensor([valid[:cut]]), torch.tensor([starts[:cut]]))
    assert torch.equal(whole[:, :cut, :cut], part)
    assert not whole[:, :cut, cut:].any()


@given(sequences(), st.integers(0, 1000))
def test_positions_count_valid_tokens_only(sequence: tuple[Flags, Flags], num_past: int) -> None:
    valid = torch.tensor([sequence[0]])
    assert positions_of(valid)[valid].tolist() == list(range(int(valid.sum())))
    later = positions_of(valid, torch.tensor([num_past]))
    assert later[valid].tolist() == list(range(num_past, num_past + int(valid.sum())))


def test_an_unseen_key_gets_no_weight_at_all() -> None:
    logits = torch.tensor([[[80.0, -80.0]]]) + mask_bias(torch.tensor([[[False, True]]]))
    assert logits.softmax(dim=-1).tolist() == [[[0.0, 1.0]]]


def numpy_rotation(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rotate complex numbers whose real parts are the first half of the features, imaginary the second."""
    half = x.shape[-1] // 2
    angles = np.array([[p / 10_000.0 ** (i / half) for i in range(half)] for p in positions])
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


@given(st.lists(st.integers(0, 900), min_size=1, max_size=5), st.sampled_from([2, 6, 16]))
def test_rotation_agrees_with_complex_numbers(positions: list[int], head_dim: int) -> None:
    x = torch.randn(1, len(positions), 3, head_dim, generator=torch.Generator().manual_seed(len(positions)))
    turned = rotate(x, rotation(torch.tensor([positions]), head_dim))
    expected = numpy_rotation(x[0].double().numpy(), np.array(positions))
    np.testing.assert_allclose(turned[0].numpy(), expected, atol=4e-4)  # 900 rad in float32


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_products_depend_on_relative_positions_only(first: int, second: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(first + second)
    query, key = torch.randn(2, 1, 1, 1, 32, generator=generator)

    def product(query_position: int, key_position: int) -> float:
        turned_query = rotate(query, rotation(torch.tensor([[query_position]]), 32))
        turned_key = rotate(key, rotation(torch.tensor([[key_position]]), 32))
        return (turned_query * turned_key).sum().item()

    assert product(first + shift, second + shift) == pytest.approx(product(first, second), abs=1e-3)


def test_rotation_keeps_lengths_and_leaves_position_zero_alone() -> None:
    x = torch.randn(2, 9, 3, 16)
    turned = rotate(x, rotation(torch.arange(9).expand(2, 9), 16))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, 0], x[:, 0])
    assert (turned[:, 1:] - x[:, 1:]).abs().amax() > 0.1


def test_rotation_keeps_the_dtype() -> None:
    assert (
        rotate(torch.randn(1, 4, 2, 8).bfloat16(), rotation(torch.arange(4)[None], 8)).dtype == torch.bfloat16
    )


@given(
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_attend_agrees_with_torch(
    batch: int, num_queries: int, num_keys: int, num_kv_heads: int, groups: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(tokens: int, heads: int) -> Tensor:
        return torch.randn(batch, tokens, heads, 8, generator=generator, dtype=torch.float64)

    queries = draw(num_queries, groups * num_kv_heads)
    keys, values = draw(num_keys, num_kv_heads), draw(num_keys, num_kv_heads)
    mask = torch.rand(batch, num_queries, num_keys, generator=generator) < 0.6
    mask[:, :, 0] = True
    ours = attend(queries, keys, values, mask_bias(mask))
    theirs = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (queries, keys, values)), attn_mask=mask[:, None], enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs.transpose(1, 2), atol=1e-12, rtol=0)


def test_attend_in_bfloat16_is_near_float32() -> None:
    queries, keys, values = torch.randn(2, 5, 8, 16), torch.randn(2, 11, 2, 16), torch.randn(2, 11, 2, 16)
    bias = mask_bias(torch.rand(2, 5, 11) < 0.7)
    exact = attend(queries, keys, values, bias)
    rounded = attend(queries.bfloat16(), keys.bfloat16(), values.bfloat16(), bias)
    assert rounded.dtype == torch.bfloat16
    assert 1e-4 < (rounded.float() - exact).abs().max() < 0.03
