"""Instructions survive as tokens, and the prompt is openpi's, but for its alphabet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.contract import PromptFormat
from pizero.data.text import (
    BEGIN,
    END,
    PAD,
    PALIGEMMA_SHA256,
    ByteTokenizer,
    SentencePieceTokenizer,
    clean,
    digitize_state,
    find_paligemma_tokenizer,
    prompt_text,
    prompt_tokens,
    question_tokens,
)
from pizero.types import Tokens
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


NOTHING = np.zeros(0, dtype=np.float32)


@given(st.text(min_size=1, max_size=20).filter(lambda text: clean(text) != ""), st.integers(0, 9))
def test_a_prompt_is_begin_text_line_break_and_padding(instruction: str, spare: int) -> None:
    text = clean(instruction).encode()
    max_tokens = len(text) + 2 + spare
    tokens = prompt_tokens("pi0", instruction, NOTHING, TOKENIZER, max_tokens)
    assert tokens.ids.tolist() == [2, *(byte + 3 for byte in text), ord("\n") + 3, *[0] * spare]
    assert tokens.valid.tolist() == [True] * (len(text) + 2) + [False] * spare
    assert tokens.ids.dtype == np.int64
    assert not tokens.causal.any()
    assert not tokens.target.any()
    with pytest.raises(ValueError, match=f"at most {len(text) - 1} tokens, found {len(text)}"):
        prompt_tokens("pi0", instruction, NOTHING, TOKENIZER, len(text) + 1)


@pytest.mark.parametrize("instruction", ["", "  ", "\n\t "])
@pytest.mark.parametrize("prompt", ["pi0", "pi05", "pi0_fast"])
def test_an_empty_instruction_is_refused(instruction: str, prompt: Any) -> None:
    with pytest.raises(ValueError, match="found an empty one"):
        prompt_tokens(prompt, instruction, NOTHING, TOKENIZER, 64)


GOLDEN_TOKENS = json.loads((GOLDEN / "preprocessing" / "tokenizer.json").read_text(encoding="utf-8"))
MODEL = GOLDEN / "preprocessing" / "mini_paligemma_tokenizer.model"
CASES = [case for case in GOLDEN_TOKENS["cases"] if case["prompt"].strip()]
EMPTY = [case for case in GOLDEN_TOKENS["cases"] if not case["prompt"].strip()]
FORMS: dict[str, PromptFormat] = {
    "pi0": "pi0",
    "pi05": "pi05",
    "fast_infer": "pi0_fast",
    "fast_train": "pi0_fast",
}


@pytest.fixture(scope="module")
def pieces() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.load(MODEL, sha256=None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['prompt'].strip()!r}-{case['max_len']}")
def test_tokens_are_openpi_s(case: dict[str, Any], form: str, pieces: SentencePieceTokenizer) -> None:
    """All of openpi's tokens where they fit; where openpi cuts, we refuse, and its tokens begin ours."""
    golden, state = case[form], np.array(case["state"], dtype=np.float32)
    assert prompt_text(FORMS[form], case["prompt"], state) == golden["texts"][0]
    action_ids = None
    if form == "fast_train":
        action_ids = GOLDEN_TOKENS["fast"]["paligemma_ids"][golden["test_chunk_index"]]

    def tokens(max_tokens: int) -> Tokens:
        return prompt_tokens(FORMS[form], case["prompt"], state, pieces, max_tokens, action_ids=action_ids)

    num_golden = len(golden["tokens"])
    ours = tokens(300)
    length = int(ours.valid.sum())
    assert ours.ids[:num_golden].tolist() == golden["tokens"]
    if "ar_mask" in golden:
        assert ours.causal[:num_golden].tolist() == [bool(flag) for flag in golden["ar_mask"]]
        assert ours.target[:num_golden].tolist() == [bool(flag) for flag in golden["loss_mask"]]
    if length <= case["max_len"]:
        assert length == num_golden
        assert np.array_equal(tokens(case["max_len"]).ids, ours.ids[: case["max_len"]])
    else:
        with pytest.raises(
            ValueError, match=f"at most {case['max_len'] - (2 if form == 'pi0' else 0)} tokens"
        ):
            tokens(case["max_len"])


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_instruction_is_refused_where_openpi_writes_one(
    form: str, pieces: SentencePieceTokenizer
) -> None:
    assert len(CASES) + len(EMPTY) == 15
    for case in EMPTY:
        state = np.array(case["state"], dtype=np.float32)
        assert prompt_text(FORMS[form], case["prompt"], state) == case[form]["texts"][0]
        with pytest.raises(ValueError, match="found an empty one"):
            prompt_tokens(FORMS[form], case["prompt"], state, pieces, 300)


def test_no_actions_follow_the_prompt_of_pi0() -> None:
    with pytest.raises(ValueError, match="after the prompts 'pi05' and 'pi0_fast', found 'pi0'"):
        prompt_tokens("pi0", "go", NOTHING, TOKENIZER, 64, action_ids=[300])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['prompt'].strip()!r}-{case['max_len']}")
def test_pi05_writes_after_its_prompt_what_pi0_fast_writes_after_the_mark(
    case: dict[str, Any], pieces: SentencePieceTokenizer
) -> None:
    """openpi's tokens of π0.5's prompt, then those that its π0-FAST has to write, but for "Action: "."""
    golden, state = case["fast_train"], np.array(case["state"], dtype=np.float32)
    action_ids = GOLDEN_TOKENS["fast"]["paligemma_ids"][golden["test_chunk_index"]]
    tokens = prompt_tokens("pi05", case["prompt"], state, pieces, 300, action_ids=action_ids)
    prompt = prompt_tokens("pi05", case["prompt"], state, pieces, 300)
    length = int(prompt.valid.sum())
    kept = min(length, len(case["pi05"]["tokens"]))
    assert tokens.ids[:kept].tolist() == case["pi05"]["tokens"][:kept]
    fast = prompt_tokens("pi0_fast", case["prompt"], state, pieces, 300, action_ids=action_ids)
    mark = pieces.encode("Action: ")
    written = fast.ids[fast.target].tolist()
    assert written[: len(mark)] == mark
    assert tokens.ids[tokens.target].tolist() == written[len(mark) :]
    assert tokens.target.tolist() == [length <= i < length + len(written) - len(mark) for i in range(300)]
    assert np.array_equal(tokens.causal, tokens.target)
    assert tokens.valid.tolist() == [i < length + len(written) - len(mark) for i in range(300)]
    assert not tokens.ids[~tokens.valid].any()


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12), st.integers(0, 5))
def test_a_question_is_paligemma_s(question: str, answer: str, spare: int) -> None:
    """[begin | question | line break] to read, [answer | end] to write, byte by byte."""
    asked, written = clean(question).encode(), answer.strip().encode()
    prompt, target = [2, *(byte + 3 for byte in asked), ord("\n") + 3], [*(byte + 3 for byte in written), 1]
    length = len(prompt) + len(target)
    if not asked or not written:
        with pytest.raises(ValueError, match="expected a question and its answer, found"):
            question_tokens(question, answer, TOKENIZER, length + spare)
        return
    tokens = question_tokens(question, answer, TOKENIZER, length + spare)
    assert tokens.ids.tolist() == [*prompt, *target, *[0] * spare]
    assert tokens.valid.tolist() == [True] * length + [False] * spare
    expected = [False] * len(prompt) + [True] * len(target) + [False] * spare
    assert tokens.target.tolist() == tokens.causal.tolist() == expected
    with pytest.raises(ValueError, match=rf"{len(prompt)} of the question and {len(target)} of the answer"):
        question_tokens(question, answer, TOKENIZER, length - 1)


def test_the_line_break_after_a_question_is_a_piece_of_its_own(pieces: SentencePieceTokenizer) -> None:
    ids = question_tokens("pick up the fork", "yes", pieces, 64).ids.tolist()
    text = pieces.processor
    assert ids[: ids.index(END) + 1] == [
        BEGIN,
        *text.EncodeAsIds("pick up the fork"),
        *text.EncodeAsIds("\n"),
        *text.EncodeAsIds("yes"),
        END,
    ]


def test_what_is_too_long_is_told_apart() -> None:
    with pytest.raises(ValueError, match=r"at most 40 tokens, found \d+ of instruction and state in"):
        prompt_tokens("pi05", "a" * 40, NOTHING, TOKENIZER, 40)
    num_actions = len("Action: ") + 50 + len("|") + 1
    with pytest.raises(ValueError, match=rf"of instruction and state and {num_actions} of actions in"):
        prompt_tokens("pi0_fast", "a", NOTHING, TOKENIZER, 40, action_ids=[300] * 50)


def test_state_bins_are_openpi_s() -> None:
    for number, expected in GOLDEN_TOKENS["digitize_examples"]:
        assert digitize_state(np.array([number], dtype=np.float32)).tolist() == [expected]
    for case in GOLDEN_TOKENS["cases"]:
        assert digitize_state(np.array(case["state"], np.float32)).tolist() == case["discretized_state"]


def test_pieces_come_back_as_text(pieces: SentencePieceTokenizer) -> None:
    ids = pieces.encode("pick up the fork")
    assert pieces.decode([BEGIN, *ids, END, PAD]) == "pick up the fork"
    assert not {PAD, END, BEGIN} & set(ids)
    assert pieces.vocab_size == GOLDEN_TOKENS["vocab_size"]


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected sha256 {PALIGEMMA_SHA256}, found"):
        SentencePieceTokenizer.load(MODEL, sha256=PALIGEMMA_SHA256)
    sha256 = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert SentencePieceTokenizer.load(MODEL, sha256=sha256).vocab_size > 0
    (tmp_path / "text.model").write_text("no model at all", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        SentencePieceTokenizer.load(tmp_path / "text.model", sha256=None)
    with pytest.raises(ValueError, match="found no file there"):
        SentencePieceTokenizer.load(tmp_path / "absent.model", sha256=None)


def test_the_tokenizer_is_looked_for_where_openpi_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIZERO_TOKENIZER", raising=False)
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"none at {tmp_path}/big_vision.*gcloud.*{PALIGEMMA_SHA256}"):
        find_paligemma_tokenizer(None)
    cached = tmp_path / "big_vision" / "paligemma_tokenizer.model"
    cached.parent.mkdir()
    cached.write_bytes(MODEL.read_bytes())
    assert find_paligemma_tokenizer(None) == cached
    monkeypatch.setenv("PIZERO_TOKENIZER", str(MODEL))
    assert find_paligemma_tokenizer(None) == MODEL
    with pytest.raises(ValueError, match=r"none at nowhere\.model"):
        find_paligemma_tokenizer(Path("nowhere.model"))
