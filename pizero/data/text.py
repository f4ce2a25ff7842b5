"""Instructions as tokens. The byte-level tokenizer needs no file: one token a byte."""

from __future__ import annotations

import numpy as np

from pizero.types import Tokens

PAD, END, BEGIN = 0, 1, 2
NUM_SPECIAL = 3


class ByteTokenizer:
    """UTF-8 bytes shifted past padding (0), end (1) and begin (2), numbered as PaliGemma's."""

    vocab_size = NUM_SPECIAL + 256

    def encode(self, text: str) -> list[int]:
        """Return one id per byte."""
        return [byte + NUM_SPECIAL for byte in text.encode("utf-8")]

    def decode(self, ids: list[int]) -> str:
        """Return the text of the ids, leaving special tokens out."""
        return bytes(i - NUM_SPECIAL for i in ids if i >= NUM_SPECIAL).decode("utf-8")


def clean(instruction: str) -> str:
    """Strip an instruction, and turn underscores and line breaks into spaces (openpi's rule for π0)."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


def prompt_tokens(instruction: str, tokenizer: ByteTokenizer, max_tokens: int) -> Tokens:
    """Return π0's prompt, begin + instruction + line break, padded to `max_tokens`.

    ValueError if the instruction is empty or too long: a cut instruction would be another one.
    """
    text = clean(instruction)
    if not text:
        raise ValueError("the policy is told what to do by an instruction, and found an empty one")
    ids = [BEGIN, *tokenizer.encode(text), *tokenizer.encode("\n")]
    if len(ids) > max_tokens:
        raise ValueError(
            f"expected an instruction of at most {max_tokens - 2} tokens, found {len(ids) - 2} in {text!r}; "
            f"shorten it, or train with a larger max_tokens"
        )
    padding = max_tokens - len(ids)
    nothing = np.zeros(max_tokens, dtype=bool)
    return Tokens(
        ids=np.array(ids + [PAD] * padding, dtype=np.int64),
        valid=np.arange(max_tokens) < len(ids),
        causal=nothing,
        target=nothing,
    )
