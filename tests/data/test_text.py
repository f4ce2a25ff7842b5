"""Instructions survive as tokens, and the prompt is openpi's, but for its alphabet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.text import BEGIN, END, PAD, ByteTokenizer, clean, prompt_tokens
from tests.golden_weights import GOLDEN

TOKENIZER = ByteTokenizer()
PROMPTS = json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8"))


@given(st.text())
def test_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode([BEGIN, *ids, END, PAD]) == text
    assert all(max(PAD, END, BEGIN) < token < TOKENIZER.vocab_size for token in ids)


@given(st.text(), st.text())
def test_tokens_of_joined_texts_are_joined(first: str, second: str) -> None:
    assert TOKENIZER.encode(first + second) == TOKENIZER.encode(first) + TOKENIZER.encode(second)


def test_special_tokens_are_numbered_as_in_paligemma() -> None:
    assert (PAD, END, BEGIN) == (0, 1, 2)
    assert TOKENIZER.encode("aé") == [ord("a") + 3, 0xC3 + 3, 0xA9 + 3]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: repr(prompt["instruction"]))
def test_instructions_are_cleaned_as_openpi_cleans_them(prompt: dict[str, str]) -> None:
    assert clean(prompt["instruction"]) == prompt["text"]


def test_blanks_are_stripped_before_underscores_become_blanks() -> None:
    """openpi's order; the other one would strip what underscores leave."""
    assert clean(" _go_to\nit_ ") == " go to it "


@given(st.text(min_size=1, max_size=20).filter(lambda text: clean(text) != ""), st.integers(0, 9))
def test_a_prompt_is_begin_text_line_break_and_padding(instruction: str, spare: int) -> None:
    text = clean(instruction).encode()
    max_tokens = len(text) + 2 + spare
    tokens = prompt_tokens(instruction, TOKENIZER, max_tokens)
    assert tokens.ids.tolist() == [2, *(byte + 3 for byte in text), ord("\n") + 3, *[0] * spare]
    assert tokens.valid.tolist() == [True] * (len(text) + 2) + [False] * spare
    assert tokens.ids.dtype == np.int64
    assert not tokens.causal.any()
    assert not tokens.target.any()
    with pytest.raises(ValueError, match=f"at most {len(text) - 1} tokens, found {len(text)}"):
        prompt_tokens(instruction, TOKENIZER, len(text) + 1)


@pytest.mark.parametrize("instruction", ["", "  ", "\n\t "])
def test_an_empty_instruction_is_refused(instruction: str) -> None:
    with pytest.raises(ValueError, match="found an empty one"):
        prompt_tokens(instruction, TOKENIZER, 16)
