"""What the model is given of a sample, taken from the processor that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from pizero.diagnose.explain.samples import Sample
from pizero.policy.policy import Policy

NO_CAMERA = "no camera"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as the model reads it: its slot's camera, and whether it is masked out."""

    slot: str
    valid: bool
    pixels: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A sample as the model reads it; `prompt` is the text of its valid tokens, `state` is normalised."""

    frame: int
    pictures: tuple[Picture, ...]
    prompt: str
    num_tokens: int
    max_tokens: int
    state: tuple[float, ...]


def seen(policy: Policy, samples: Sequence[Sample]) -> list[Seen]:
    """Return the inputs of some samples."""
    found = []
    for sample in samples:
        inputs = policy.processor.encode(sample.observation)
        pictures = tuple(
            Picture(
                slot=slot or NO_CAMERA,
                valid=bool(inputs.camera_valid[place]),
                pixels=np.ascontiguousarray(inputs.images[place].transpose(1, 2, 0)),
            )
            for place, slot in enumerate(policy.processor.slots)
        )
        ids = inputs.tokens.ids[inputs.tokens.valid].tolist()
        found.append(
            Seen(
                frame=sample.frame,
                pictures=pictures,
                prompt=policy.processor.tokenizer.decode(ids),
                num_tokens=len(ids),
                max_tokens=policy.contract.max_tokens,
                state=tuple(inputs.state.tolist()),
            )
        )
    return found
