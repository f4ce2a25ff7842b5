"""The one object between robot units and model units, in both directions, for training and serving alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from pizero.contract import ActionTokens, Contract, FieldStatistics, Normalization, TokenFile
from pizero.data.action_tokens import FastTokenizer, extract_action_ids
from pizero.data.actions import ActionTransform
from pizero.data.conventions import find_convention
from pizero.data.images import resize_with_pad
from pizero.data.text import (
    ByteTokenizer,
    SentencePieceTokenizer,
    TextTokenizer,
    prompt_tokens,
    question_tokens,
)
from pizero.types import ActionChunk, Batch, Example, Inputs, Observation, Tokens


class Normalizer:
    """An invertible affine map per dimension, from robot units to about [-1, 1].

    z-score: `(x - mean) / (std + ε)`; quantile: `2 (x - q01) / (q99 - q01 + ε) - 1` (openpi's formulas, with
    ε = 1e-6). A spread below the statistics' floor is widened to it, about its middle.
    """

    def __init__(
        self, statistics: FieldStatistics, normalization: Normalization, epsilon: float = 1e-6
    ) -> None:
        floor = np.array(statistics.floor or 0.0)
        if normalization == "zscore":
            center, scale = np.array(statistics.mean), np.maximum(statistics.std, floor / 4.0) + epsilon
        else:
            low, high = np.array(statistics.q01), np.array(statistics.q99)
            missing = np.maximum(floor - (high - low), 0.0)
            low, high = low - missing / 2.0, high + missing / 2.0
            scale = (high - low + epsilon) / 2.0
            center = low + scale
        self.center, self.scale = center, scale

    def encode(self, x: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch dimension"]:
        """Return model units, float32."""
        return ((x - self.center) / self.scale).astype(np.float32)

    def decode(self, x: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch dimension"]:
        """Return robot units, float32."""
        return (x * self.scale + self.center).astype(np.float32)


class Processor:
    """Everything that a contract says about the way in and the way out, as functions.

    `files` is the folder in which the contract's tokenizers lie; one that uses bytes needs none.
    """

    def __init__(self, contract: Contract, files: Path | None = None) -> None:
        self.contract = contract
        self.tokenizer: TextTokenizer = ByteTokenizer()
        if contract.tokenizer is not None:
            path = _file(contract.tokenizer, files)
            self.tokenizer = SentencePieceTokenizer.load(path, sha256=contract.tokenizer.sha256)
        self.action_tokenizer: FastTokenizer | None = None
        if contract.action_tokens is not None:
            tokens = contract.action_tokens
            self.action_tokenizer = FastTokenizer.load(
                _file(tokens.file, files),
                scale=tokens.scale,
                min_token=tokens.min_token,
                sha256=tokens.file.sha256,
            )
        self.convention = find_convention(contract.convention)
        self.action_transform = ActionTransform(
            contract.statistics.action_form, contract.embodiment, contract.statistics.absolute
        )
        self.state = Normalizer(contract.statistics.state, contract.normalization, contract.epsilon)
        self.actions = Normalizer(contract.statistics.actions, contract.normalization, contract.epsilon)
        self.slots = contract.slots or contract.embodiment.camera_names

    def encode(self, observation: Observation) -> Inputs:
        """Return what the model reads, in numpy and unbatched; ValueError if the observation breaks the
        contract.
        """
        return self._encode(observation, action_ids=None)

    def encode_example(self, example: Example) -> Batch:
        """Return one training sample, in numpy and unbatched, through the same function that serving uses."""
        contract, embodiment = self.contract, self.contract.embodiment
        expected = (contract.horizon, embodiment.action_dim)
        if example.actions.shape != expected:
            raise ValueError(
                f"expected actions of shape {list(expected)} ({embodiment.name}), "
                f"found {list(example.actions.shape)}"
            )
        actions = self.encode_actions(example.actions, example.observation)
        action_ids = None
        if self.action_tokenizer is not None and contract.action_tokens is not None:
            first, written = contract.action_tokens.first_id, actions[:, : embodiment.action_dim]
            action_ids = [first - index for index in self.action_tokenizer.encode(written)]
        return Batch(
            inputs=self._encode(example.observation, action_ids=action_ids),
            actions=actions,
            valid=example.valid,
            real=self._real(),
        )

    def encode_actions(
        self, actions: Float[np.ndarray, "step action_dim"], observation: Observation
    ) -> Float[np.ndarray, "step width"]:
        """Return actions in robot units, the first for the instant of an observation, in model units, padded.

        They may be fewer than a chunk has. Whatever form actions have for the model, they are written as seen
        from that observation.
        """
        state = self.convention.encode_state(observation.state)
        written = self.action_transform.encode(self.convention.encode_actions(actions), state)
        return self._pad(self.actions.encode(written))

    def encode_question(self, images: Mapping[str, np.ndarray], question: str, answer: str) -> Batch:
        """Return a question about pictures, by camera, as a training sample of text alone, in numpy.

        Its state and its actions are zeros, and none of its steps is valid. ValueError if a picture is none
        of the contract's cameras', or the text does not fit.
        """
        contract, embodiment = self.contract, self.contract.embodiment
        tokens = self.question_tokens(images, question, answer)
        state = np.zeros(embodiment.state_dim, dtype=np.float32)
        actions = np.zeros((contract.horizon, embodiment.action_dim), dtype=np.float32)
        return Batch(
            inputs=self._inputs(images, self._pad(state), tokens),
            actions=self._pad(actions),
            valid=np.zeros(contract.horizon, dtype=bool),
            real=self._real(),
        )

    def question_tokens(self, cameras: Iterable[str], question: str, answer: str) -> Tokens:
        """Return a question about pictures of some cameras as tokens; ValueError if it does not fit."""
        if self.contract.prompt == "pi0":
            raise ValueError("a model with the prompt 'pi0' learns no text: leave the questions out")
        known = [slot for slot in self.slots if slot]
        unknown = [camera for camera in cameras if camera not in known]
        if unknown:
            raise ValueError(
                f"expected pictures of the cameras {', '.join(known)}, found {', '.join(unknown)}"
            )
        return question_tokens(question, answer, self.tokenizer, self.contract.max_tokens)

    def decode(
        self,
        written: Float[np.ndarray, "horizon width"] | Int[np.ndarray, "token"],
        observation: Observation,
    ) -> ActionChunk:
        """Return what a model made of an observation as actions in robot units, ready to execute.

        ValueError if the model wrote tokens that are no actions.
        """
        state = self.convention.encode_state(observation.state)
        unscaled = self.actions.decode(self.read(written))
        executable = self.convention.decode_actions(self.action_transform.decode(unscaled, state))
        return executable.astype(np.float32)

    def read(
        self, written: Float[np.ndarray, "horizon width"] | Int[np.ndarray, "token"]
    ) -> Float[np.ndarray, "horizon action_dim"]:
        """Return what a model made as normalised actions; ValueError if it wrote tokens that are none.

        Only a π0-FAST acts by tokens; a co-trained π0.5 learns from them, and acts by numbers.
        """
        contract, tokenizer = self.contract, self.action_tokenizer
        if contract.prompt == "pi0_fast" and tokenizer is not None and contract.action_tokens is not None:
            return self._decode_tokens(written.tolist(), tokenizer, contract.action_tokens)
        return written[:, : contract.embodiment.action_dim]

    def _encode(self, observation: Observation, *, action_ids: list[int] | None) -> Inputs:
        contract = self.contract
        self._check(observation)
        state = self.state.encode(self.convention.encode_state(observation.state))
        padded = self._pad(state)
        tokens = prompt_tokens(
            contract.prompt,
            observation.instruction or contract.instruction,
            padded if contract.padded_prompt_state else state,
            self.tokenizer,
            contract.max_tokens,
            action_ids=action_ids,
        )
        return self._inputs(observation.images, padded, tokens)

    def _inputs(self, images: Mapping[str, np.ndarray], state: np.ndarray, tokens: Tokens) -> Inputs:
        pictures, valid = zip(*(self._picture(images, slot) for slot in self.slots), strict=True)
        return Inputs(
            images=np.stack(pictures).transpose(0, 3, 1, 2),
            camera_valid=np.array(valid),
            state=state,
            tokens=tokens,
        )

    def _check(self, observation: Observation) -> None:
        embodiment = self.contract.embodiment
        if observation.state.shape != (embodiment.state_dim,):
            raise ValueError(
                f"expected a state of {embodiment.state_dim} numbers "
                f"({', '.join(dimension.name for dimension in embodiment.state)}), "
                f"found shape {observation.state.shape}"
            )
        if not np.isfinite(observation.state).all():
            raise ValueError(f"expected a finite state, found {observation.state.tolist()}")
        required = [camera.name for camera in embodiment.cameras if camera.required]
        if not set(required) <= set(observation.images) <= set(embodiment.camera_names):
            optional = [camera.name for camera in embodiment.cameras if not camera.required]
            allowed = f" and perhaps {', '.join(optional)}" if optional else ""
            raise ValueError(
                f"expected the cameras {', '.join(required)}{allowed}, "
                f"found {', '.join(observation.images) or 'none'}"
            )

    def _picture(self, images: Mapping[str, np.ndarray], slot: str) -> tuple[np.ndarray, bool]:
        size = self.contract.image_size
        if slot not in images:
            return np.zeros((size, size, 3), dtype=np.uint8), self.contract.absent_valid
        picture = images[slot]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"expected camera {slot!r} as uint8 [height, width, 3], "
                f"found {picture.dtype} {list(picture.shape)}"
            )
        return resize_with_pad(picture, size), True

    def _real(self) -> np.ndarray:
        action_dim = self.contract.embodiment.action_dim
        return np.arange(max(self.contract.width, action_dim)) < action_dim

    def _pad(self, x: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch width"]:
        missing = max(self.contract.width - x.shape[-1], 0)
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x

    def _decode_tokens(
        self, ids: list[int], tokenizer: FastTokenizer, tokens: ActionTokens
    ) -> Float[np.ndarray, "horizon action_dim"]:
        fast = extract_action_ids(ids, self.tokenizer, tokens.first_id, tokenizer.vocab_size)
        strict = tokens.decoding == "strict"
        shape = (self.contract.horizon, self.contract.embodiment.action_dim)
        return tokenizer.decode(fast, *shape, strict=strict)


def _file(file: TokenFile, folder: Path | None) -> Path:
    if folder is None:
        raise ValueError(f"the contract names the tokenizer file {file.name}; give the folder that holds it")
    return folder / file.name
