"""Instructions as tokens, by bytes, which needs no file, or by PaliGemma's SentencePiece model; prompts.

The three prompts are openpi's, to the character (`models/tokenizer.py`); questions are PaliGemma's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64
from sentencepiece import SentencePieceProcessor

from pizero.contract import PromptFormat
from pizero.types import Tokens

PAD, END, BEGIN = 0, 1, 2
NUM_SPECIAL = 3
NUM_STATE_BINS = 256

PALIGEMMA_SHA256 = "8986bb4f423f07f8c7f70d0dbe3526fb2316056c17bae71b1ea975e77a168fc6"
"""Of PaliGemma's `tokenizer.model`, 4,264,023 bytes, 257,152 tokens with those of places and segments."""

PALIGEMMA_FILE = Path("big_vision") / "paligemma_tokenizer.model"


@runtime_checkable
class TextTokenizer(Protocol):
    """Text to ids and back; ids of padding (0), end (1) and begin (2) are never made of text."""

    @property
    def vocab_size(self) -> int:
        """Return how many ids there are."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without begin and end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, leaving special tokens out."""
        ...


class ByteTokenizer:
    """UTF-8 bytes shifted past padding (0), end (1) and begin (2), numbered as PaliGemma's."""

    vocab_size = NUM_SPECIAL + 256

    def encode(self, text: str) -> list[int]:
        """Return one id per byte."""
        return [byte + NUM_SPECIAL for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, leaving special tokens out."""
        return bytes(i - NUM_SPECIAL for i in ids if i >= NUM_SPECIAL).decode("utf-8")


class SentencePieceTokenizer:
    """A SentencePiece model whose special tokens are numbered as PaliGemma's."""

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self.processor = processor

    @classmethod
    def load(cls, path: Path, *, sha256: str | None) -> SentencePieceTokenizer:
        """Read a model file; ValueError if it is another one than `sha256` says, or none at all."""
        if not path.is_file():
            raise ValueError(f"expected a SentencePiece model at {path}, found no file there")
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise ValueError(
                f"{path} is another tokenizer than the one that was agreed on: expected sha256 {sha256}, "
                f"found {found}; its ids would mean other words. Put the agreed file there"
            )
        processor = SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(data)
        except RuntimeError:
            raise ValueError(f"{path} is not a SentencePiece model ({len(data)} bytes)") from None
        special = (processor.pad_id(), processor.eos_id(), processor.bos_id())
        if special != (PAD, END, BEGIN):
            raise ValueError(
                f"{path}: expected PaliGemma's ids of padding, end and begin, {(PAD, END, BEGIN)}, "
                f"found {special}"
            )
        return cls(processor)

    @property
    def vocab_size(self) -> int:
        """Return how many ids there are."""
        return int(self.processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without begin and end."""
        return list(self.processor.EncodeAsIds(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, leaving special tokens out."""
        return str(self.processor.DecodeIds([int(i) for i in ids if i not in (PAD, END, BEGIN)]))


def find_paligemma_tokenizer(given: Path | None) -> Path:
    """Return where PaliGemma's tokenizer lies: as given, in $PIZERO_TOKENIZER, or where openpi keeps it.

    ValueError says where it was looked for and where to get it.
    """
    if given is not None:
        places = [given]
    else:
        cache = Path(os.environ.get("OPENPI_DATA_HOME", Path.home() / ".cache" / "openpi"))
        named = os.environ.get("PIZERO_TOKENIZER")
        places = [*([Path(named)] if named else []), cache / PALIGEMMA_FILE]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(
        f"PaliGemma's tokenizer is needed, and there is none at {' or '.join(map(str, places))}. Get it with "
        f"`gcloud storage cp gs://big_vision/paligemma_tokenizer.model .` or, once you have accepted Gemma's "
        f"licence, `hf download google/paligemma-3b-pt-224 tokenizer.model --local-dir .`, and name it with "
        f"--tokenizer or $PIZERO_TOKENIZER. Its sha256 is {PALIGEMMA_SHA256}"
    )


def clean(instruction: str, prompt: PromptFormat = "pi0") -> str:
    """Return an instruction as openpi writes it into a prompt: stripped, underscores as blanks.

    π0 and π0.5 turn line breaks into blanks too; π0-FAST keeps them, and is lower case.
    """
    if prompt == "pi0_fast":
        return instruction.lower().strip().replace("_", " ")
    return instruction.strip().replace("_", " ").replace("\n", " ")


def digitize_state(state: Float32[np.ndarray, "state_dim"]) -> Int64[np.ndarray, "state_dim"]:
    """Return the bin, 0 … 255, of each normalised number in [-1, 1]; -1 below, 255 above (openpi)."""
    edges = np.linspace(-1.0, 1.0, NUM_STATE_BINS + 1)[:-1]
    return np.digitize(state, bins=edges).astype(np.int64) - 1


def prompt_text(prompt: PromptFormat, instruction: str, state: Float32[np.ndarray, "state_dim"]) -> str:
    """Return the first text of a prompt; π0's line break after it is a text of its own."""
    text = clean(instruction, prompt)
    if prompt == "pi0":
        return text
    numbers = " ".join(map(str, digitize_state(state)))
    return f"Task: {text}, State: {numbers};\n" + ("Action: " if prompt == "pi05" else "")


def prompt_tokens(
    prompt: PromptFormat,
    instruction: str,
    state: Float32[np.ndarray, "state_dim"],
    tokenizer: TextTokenizer,
    max_tokens: int,
    *,
    action_ids: Sequence[int] | None = None,
) -> Tokens:
    """Return a model's prompt, padded to `max_tokens`; `state` is normalised, and π0 does not read it.

    With `action_ids`, in the text vocabulary, the whole training sequence of π0-FAST or of a co-trained π0.5:
    what follows the prompt is causal, and the target; π0.5's prompt ends in "Action: ", which π0-FAST writes
    itself. ValueError if the instruction is empty, if π0's prompt is given actions, or if something does not
    fit: a cut instruction would be another one (openpi cuts).
    """
    if action_ids is not None and prompt == "pi0":
        raise ValueError(
            f"actions are written as tokens after the prompts 'pi05' and 'pi0_fast', found {prompt!r}"
        )
    text = clean(instruction, prompt)
    if not text:
        raise ValueError("the policy is told what to do by an instruction, and found an empty one")
    ids = [BEGIN, *tokenizer.encode(prompt_text(prompt, instruction, state))]
    if prompt == "pi0":
        ids += tokenizer.encode("\n")
    target = []
    if action_ids is not None:
        mark = tokenizer.encode("Action: ") if prompt == "pi0_fast" else []
        target = [*mark, *action_ids, *tokenizer.encode("|"), END]
    if len(ids) + len(target) > max_tokens:
        raise ValueError(_too_long(prompt, text, len(ids), len(target), max_tokens))
    return _sequence(ids, target, max_tokens)


def question_tokens(question: str, answer: str, tokenizer: TextTokenizer, max_tokens: int) -> Tokens:
    """Return a question and the answer to write, padded to `max_tokens`: PaliGemma's own sequence.

    The prompt is the question and a line break, which the published backbones learnt to answer pictures by
    (Beyer et al. 2024, on the architecture); without "Task: " and a state, it is never taken for a robot's.
    The answer and the end are causal, and the target. ValueError if one is empty, or both do not fit.
    """
    asked, written = clean(question), answer.strip()
    if not asked or not written:
        raise ValueError(f"expected a question and its answer, found {question!r} and {answer!r}")
    ids = [BEGIN, *tokenizer.encode(asked), *tokenizer.encode("\n")]
    target = [*tokenizer.encode(written), END]
    if len(ids) + len(target) > max_tokens:
        raise ValueError(
            f"expected at most {max_tokens} tokens, found {len(ids)} of the question and {len(target)} of "
            f"the answer in {asked!r}; shorten them, or train with a larger max_tokens"
        )
    return _sequence(ids, target, max_tokens)


def _sequence(prompt: list[int], target: list[int], max_tokens: int) -> Tokens:
    """Return a prompt that is read and a target that is written after it, and padding."""
    ids, place = [*prompt, *target], np.arange(max_tokens)
    follows = (place >= len(prompt)) & (place < len(ids))
    return Tokens(
        ids=np.array(ids + [PAD] * (max_tokens - len(ids)), dtype=np.int64),
        valid=place < len(ids),
        causal=follows,
        target=follows,
    )


def _too_long(prompt: PromptFormat, text: str, num_prompt: int, num_target: int, max_tokens: int) -> str:
    if prompt == "pi0":
        return (
            f"expected an instruction of at most {max_tokens - 2} tokens, found {num_prompt - 2} in "
            f"{text!r}; shorten it, or train with a larger max_tokens"
        )
    actions = f" and {num_target} of actions" if num_target else ""
    return (
        f"expected at most {max_tokens} tokens, found {num_prompt} of instruction and state{actions} "
        f"in {text!r}; shorten the instruction, or train with a larger max_tokens"
    )
