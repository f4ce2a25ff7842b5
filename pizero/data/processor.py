"""The one object between robot units and model units, in both directions, for training and serving alike."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pizero.contract import Contract, FieldStatistics, Normalization
from pizero.data.actions import ActionTransform
from pizero.data.images import resize_with_pad
from pizero.data.text import ByteTokenizer, prompt_tokens
from pizero.types import ActionChunk, Batch, Example, Inputs, Observation


class Normalizer:
    """An invertible affine map per dimension, from robot units to about [-1, 1].

    z-score: `(x - mean) / (std + 1e-6)`; quantile: `2 (x - q01) / (q99 - q01 + 1e-6) - 1` (openpi's
    formulas).
    """

    def __init__(self, statistics: FieldStatistics, normalization: Normalization) -> None:
        if normalization == "zscore":
            center, scale = np.array(statistics.mean), np.array(statistics.std) + 1e-6
        else:
            low, high = np.array(statistics.q01), np.array(statistics.q99)
            scale = (high - low + 1e-6) / 2.0
            center = low + scale
        self.center, self.scale = center, scale

    def encode(self, x: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch dimension"]:
        """Return model units, float32."""
        return ((x - self.center) / self.scale).astype(np.float32)

    def decode(self, x: Float[np.ndarray, "*batch dimension"]) -> Float[np.ndarray, "*batch dimension"]:
        """Return robot units, float32."""
        return (x * self.scale + self.center).astype(np.float32)


class Processor:
    """Everything that a contract says about the way in and the way out, as functions."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.tokenizer = ByteTokenizer()
        self.state = Normalizer(contract.statistics.state, contract.normalization)
        self.action_transform = ActionTransform(contract.statistics.action_form, contract.embodiment)
        self.actions = Normalizer(contract.statistics.actions, contract.normalization)

    def encode(self, observation: Observation) -> Inputs:
        """Return what the model reads, in numpy and unbatched; ValueError if the observation breaks the
        contract.
        """
        embodiment = self.contract.embodiment
        if observation.state.shape != (embodiment.state_dim,):
            raise ValueError(
                f"expected a state of {embodiment.state_dim} numbers "
                f"({', '.join(dimension.name for dimension in embodiment.state)}), "
                f"found shape {observation.state.shape}"
            )
        if not np.isfinite(observation.state).all():
            raise ValueError(f"expected a finite state, found {observation.state.tolist()}")
        names = embodiment.camera_names
        if set(observation.images) != set(names):
            raise ValueError(
                f"expected the cameras {', '.join(names)}, found {', '.join(observation.images) or 'none'}"
            )
        pictures = [
            resize_with_pad(self._picture(observation, name), self.contract.image_size) for name in names
        ]
        return Inputs(
            images=np.stack(pictures).transpose(0, 3, 1, 2),
            camera_valid=np.ones(len(names), dtype=bool),
            state=self.state.encode(observation.state),
            tokens=prompt_tokens(observation.instruction, self.tokenizer, self.contract.max_tokens),
        )

    def encode_example(self, example: Example) -> Batch:
        """Return one training sample, in numpy and unbatched, through the same `encode` that serving uses."""
        return Batch(
            inputs=self.encode(example.observation),
            actions=self.actions.encode(self.action_transform.encode(example.actions)),
            valid=example.valid,
        )

    def decode(self, actions: Float[np.ndarray, "horizon action_dim"]) -> ActionChunk:
        """Return the model's actions in robot units, ready to execute."""
        return self.action_transform.decode(self.actions.decode(actions))

    def _picture(self, observation: Observation, name: str) -> np.ndarray:
        picture = observation.images[name]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"expected camera {name!r} as uint8 [height, width, 3], "
                f"found {picture.dtype} {list(picture.shape)}"
            )
        return picture
