"""FAST: a chunk of actions as few tokens, by a cosine transform and byte-pair encoding (Pertsch et al. 2025).

The published tokenizer's files are data; its own code is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import operator
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import dct, idct
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.trainers import BpeTrainer

from pizero.data.text import END, TextTokenizer

TOKENIZER, CONFIG = "tokenizer.json", "processor_config.json"
LAST_CHARACTER = 0xD7FF
"""The last before the surrogates, which are no text: larger coefficients are cut to it."""


class FastTokenizer:
    """Chunks `[horizon, action_dim]` in about [-1, 1] to token ids, and back.

    Orthonormal DCT-II over time, `round(coefficient · scale)`, all dimensions of the lowest frequency first,
    less `min_token`, each number as one character, then byte-pair encoding.
    """

    def __init__(self, bpe: Tokenizer, *, scale: float, min_token: int) -> None:
        _check_scale(scale)
        self.bpe, self.scale, self.min_token = bpe, scale, min_token

    @classmethod
    def load(cls, path: Path, *, scale: float, min_token: int, sha256: str | None = None) -> FastTokenizer:
        """Read a `tokenizer.json`; ValueError if it is another one than `sha256` says, or none at all."""
        if not path.is_file():
            raise ValueError(f"expected a FAST tokenizer at {path}, found no file there")
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise ValueError(
                f"{path} is another tokenizer than the one that was agreed on: expected sha256 {sha256}, "
                f"found {found}; its ids would mean other actions. Put the file back that the policy was "
                f"trained with"
            )
        try:
            bpe = Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a tokenizer's JSON: {str(error)[:200]}") from None
        return cls(bpe, scale=scale, min_token=min_token)

    @classmethod
    def load_folder(cls, folder: Path) -> FastTokenizer:
        """Read a folder as `physical-intelligence/fast` is published; what it says about code is ignored."""
        path = folder / CONFIG
        if not path.is_file():
            raise ValueError(
                f"expected {TOKENIZER} and {CONFIG} in {folder}, as in physical-intelligence/fast on the "
                f"hub; found no {CONFIG}"
            )
        try:
            config: Any = json.loads(path.read_text(encoding="utf-8"))
            scale, min_token, vocab_size = (config[key] for key in ("scale", "min_token", "vocab_size"))
            scale, min_token = float(scale), operator.index(min_token)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected JSON with scale (a number), min_token and vocab_size (integers); {error!r}"
            ) from None
        tokenizer = cls.load(folder / TOKENIZER, scale=scale, min_token=min_token)
        if tokenizer.vocab_size != vocab_size:
            raise ValueError(
                f"{folder}: {CONFIG} says {vocab_size} tokens, {TOKENIZER} has {tokenizer.vocab_size}"
            )
        return tokenizer

    @classmethod
    def fit(
        cls,
        chunks: Iterable[Float[np.ndarray, "horizon action_dim"]],
        *,
        scale: float = 10.0,
        vocab_size: int = 1024,
        whole_alphabet: bool = True,
    ) -> FastTokenizer:
        """Learn a vocabulary from chunks, as FAST does; the same chunks give the same tokenizer.

        With `whole_alphabet`, every byte is a token, so that no later chunk loses a coefficient that these
        never have; the reference leaves those out. ValueError if there is no chunk, if a number is not
        finite, or if the numbers alone need more than `vocab_size` tokens.
        """
        _check_scale(scale)
        numbers = [_coefficients(chunk, scale).ravel() for chunk in chunks]
        if not numbers:
            raise ValueError("expected at least one chunk of actions to learn from, found none")
        low = int(min(each.min() for each in numbers))
        high = int(max(each.max() for each in numbers))
        needed = max(high - low + 1, 256 if whole_alphabet else 0)
        if needed > vocab_size or high - low > LAST_CHARACTER:
            raise ValueError(
                f"the coefficients take {high - low + 1} values, from {low} to {high}, more than "
                f"{vocab_size} tokens can tell (at least {needed} are needed); normalise the actions to "
                f"[-1, 1], or take a larger vocabulary or a smaller scale"
            )
        bpe = Tokenizer(BPE())
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        bpe.decoder = ByteLevelDecoder()
        bpe.post_processor = ByteLevelProcessor(trim_offsets=False)
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=ByteLevel.alphabet()
            if whole_alphabet
            else [chr(number) for number in range(high - low + 1)],
            max_token_length=10_000,
        )
        bpe.train_from_iterator((_text(each, low) for each in numbers), trainer, length=len(numbers))
        return cls(bpe, scale=scale, min_token=low)

    @property
    def vocab_size(self) -> int:
        """Return how many ids there are."""
        return self.bpe.get_vocab_size()

    def save(self, folder: Path) -> None:
        """Write a folder in the published layout, whole or not at all; ValueError if it exists."""
        if folder.exists():
            raise ValueError(f"{folder} exists already; nothing was overwritten. Name another folder")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.bpe.save(str(partial / TOKENIZER))
        config = {"scale": self.scale, "min_token": self.min_token, "vocab_size": self.vocab_size}
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)

    def encode(self, chunk: Float[np.ndarray, "horizon action_dim"]) -> list[int]:
        """Return the ids of a chunk; ValueError if a number is not finite."""
        return list(self.bpe.encode(_text(_coefficients(chunk, self.scale), self.min_token)).ids)

    def decode(
        self, ids: Sequence[int], horizon: int, action_dim: int, *, strict: bool = True
    ) -> Float[np.ndarray, "horizon action_dim"]:
        """Return the chunk of the ids.

        ValueError for an id that there is not, for ids that are no whole characters (the reference makes
        actions of thousands of units of them) and, if `strict`, for a sequence of another length than the
        chunk's; else it is cut, or filled with zeros (LeRobot's rule).
        """
        unknown = [index for index in ids if not 0 <= index < self.vocab_size]
        if unknown:
            raise ValueError(f"expected FAST ids below {self.vocab_size}, found {unknown[:5]}")
        characters = [ord(character) for character in self.bpe.decode(list(ids))]
        expected = horizon * action_dim
        broken = sum(character > LAST_CHARACTER for character in characters[:expected])
        if broken:
            raise ValueError(
                f"expected tokens of whole coefficients, found {broken} that are broken: the model wrote "
                f"what no chunk is written as"
            )
        numbers = np.array(characters, dtype=np.int64) + self.min_token
        if strict and len(numbers) != expected:
            raise ValueError(
                f"expected tokens of {horizon} × {action_dim} = {expected} coefficients, found "
                f"{len(numbers)}: the model did not write a whole chunk"
            )
        numbers = np.pad(numbers[:expected], (0, max(expected - len(numbers), 0)))
        return np.asarray(idct(numbers.reshape(horizon, action_dim) / self.scale, axis=0, norm="ortho"))


def extract_action_ids(
    ids: Sequence[int], tokenizer: TextTokenizer, first_id: int, num_fast: int
) -> list[int]:
    """Return the FAST ids that a model wrote between "Action: " and "|" or the end.

    The ids are taken as they are; openpi goes through text and encodes it again, which can change them.
    ValueError if the mark is missing, or if something else than an action stands after it.
    """
    written = list(ids[: ids.index(END)] if END in ids else ids)
    mark, bar = tokenizer.encode("Action: "), tokenizer.encode("|")
    starts = [i for i in range(len(written) - len(mark) + 1) if written[i : i + len(mark)] == mark]
    if not starts:
        raise ValueError(f"the model wrote no actions: expected 'Action: ', found {written[:10]}")
    rest = written[starts[0] + len(mark) :]
    stops = [i for i in range(len(rest) - len(bar) + 1) if rest[i : i + len(bar)] == bar]
    fast = [first_id - index for index in (rest[: stops[0]] if stops else rest)]
    strangers = [first_id - index for index in fast if not 0 <= index < num_fast]
    if strangers:
        raise ValueError(f"the model wrote something else than actions among them: ids {strangers[:5]}")
    return fast


def _check_scale(scale: float) -> None:
    if not (scale > 0.0 and np.isfinite(scale)):
        raise ValueError(f"expected a scale above 0, by which coefficients are rounded, found {scale}")


def _coefficients(
    chunk: Float[np.ndarray, "horizon action_dim"], scale: float
) -> Int[np.ndarray, "horizon action_dim"]:
    if not np.isfinite(chunk).all():
        raise ValueError("expected finite actions to tokenise, found some that are not: leave that chunk out")
    frequencies = np.asarray(dct(np.asarray(chunk, dtype=np.float64), axis=0, norm="ortho"))
    return np.clip(np.around(frequencies * scale), -1e9, 1e9).astype(np.int64)


def _text(numbers: Int[np.ndarray, "*shape"], min_token: int) -> str:
    shifted = np.clip(numbers.ravel() - min_token, 0, LAST_CHARACTER)
    return "".join(map(chr, shifted.tolist()))
