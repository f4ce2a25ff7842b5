"""The vocabulary that every room shares: what a robot shows, what a model reads, what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

Array = Any
"""A numpy array before collation, a tensor after; shape and dtype are checked either way, without torch."""

ContinuationMethod = Literal["guided", "guided_identity", "trained"]

ActionChunk = Float32[np.ndarray, "horizon action_dim"]
"""Future actions in robot units, one row per control tick, ready to execute."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the robot shows at one instant, in robot units.

    `images` maps a camera's name to `uint8 [height, width, 3]`, RGB; `state` is `float32 [state_dim]`.
    """

    images: Mapping[str, UInt8[np.ndarray, "height width 3"]]
    state: Float32[np.ndarray, "state_dim"]
    instruction: str = ""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a new chunk has to go on from while a robot is moving: the actions that are already planned.

    Row i of `actions`, `float32 [planned, action_dim]` in robot units, is what would be executed i control
    ticks after the observation that the new chunk is made from. The first `delay` of them will be, for the
    new chunk is not there yet (the papers' d); the next chunk is asked for after `execution` ticks (s).
    `method` says how a chunk is made to go on: `guided` by the paper's vector-Jacobian products,
    `guided_identity` by the cheap form that takes the network's Jacobian for the identity, and `trained` by a
    network that learnt to be given its first actions (Black et al. 2025, arXiv 2506.07339 and 2512.05964).
    """

    actions: Float32[np.ndarray, "planned action_dim"]
    delay: int
    execution: int
    method: ContinuationMethod = "guided"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One supervised sample in robot units: an observation and the actions that followed it.

    `actions` is `float32 [horizon, action_dim]`; `valid` is `bool [horizon]`, False past the episode's end.
    """

    observation: Observation
    actions: ActionChunk
    valid: Bool[np.ndarray, "horizon"]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The text part of a model's input.

    `valid` marks real tokens, `causal` those that earlier tokens may not see, `target` those that a
    next-token loss predicts. Shapes `[token]` in numpy before collation, `[batch, token]` as tensors after.
    """

    ids: Int64[Array, "*batch token"]
    valid: Bool[Array, "*batch token"]
    causal: Bool[Array, "*batch token"]
    target: Bool[Array, "*batch token"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model reads, in model units: numpy and unbatched before collation, tensors and batched after.

    `images` keep their `uint8` values until an encoder scales them to [-1, 1].
    """

    images: UInt8[Array, "*batch camera 3 height width"]
    camera_valid: Bool[Array, "*batch camera"]
    state: Float32[Array, "*batch state_dim"]
    tokens: Tokens


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a training step reads: inputs, normalised actions, and which steps and dimensions are real.

    `valid` is False past an episode's end, `real` for dimensions that another robot of a mixture has.
    """

    inputs: Inputs
    actions: Float32[Array, "*batch horizon action_dim"]
    valid: Bool[Array, "*batch horizon"]
    real: Bool[Array, "*batch action_dim"]
