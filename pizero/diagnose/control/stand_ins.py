"""A robot without motors and a policy without a network, to see how well a machine keeps time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.embodiment import Camera, Embodiment
from pizero.policy.acting import Acting
from pizero.policy.clock import MonotonicTime
from pizero.policy.robot import Stamped
from pizero.types import ActionChunk, Continuation, Observation

NUM_FRAMES = 4
"""Pictures of a camera, shown in turn: no two ticks see the same one."""

LAG = 0.05
"""Seconds in which a joint covers most of the way (1 - 1/e) to where it was told to be."""

SWING = 0.2
"""Of its range: how far the network-free policy swings each number to either side of its middle."""


class SimulatedRobot:
    """Follows what it is told with a lag, and shows pictures of noise; implements `Robot`.

    The i-th number of its state follows the i-th number of an action: positions and grippers approach what
    they are told, velocities move it by a quarter of its range a second at full speed.
    """

    def __init__(self, embodiment: Embodiment, instruction: str = "", *, seed: int = 0) -> None:
        self.embodiment, self.instruction, self.time = embodiment, instruction, MonotonicTime()
        rng = np.random.default_rng(seed)
        self.frames = {camera.name: noise_of(camera, rng) for camera in embodiment.cameras}
        self.low = np.array([dimension.low for dimension in embodiment.state])
        self.high = np.array([dimension.high for dimension in embodiment.state])
        self.state = (self.low + self.high) / 2
        self.moved_at, self.looks = self.time.now(), 0
        self.goal: Float32[np.ndarray, "action_dim"] | None = None

    def observe(self) -> Stamped:
        """Return the present: the state where it has come to, and the next picture of each camera."""
        now = self.time.now()
        self._move(now)
        self.looks += 1
        images = {name: frames[self.looks % NUM_FRAMES] for name, frames in self.frames.items()}
        state = self.state.astype(np.float32)
        seen = Observation(images=images, state=state, instruction=self.instruction)
        return Stamped(observation=seen, time=now)

    def command(self, action: Float32[np.ndarray, "action_dim"]) -> None:
        """Go on from here to what an action says."""
        self._move(self.time.now())
        self.goal = action

    def hold(self) -> None:
        """Stay."""
        self.goal = None

    def stop(self) -> None:
        """Stay for good."""
        self.goal = None

    def _move(self, now: float) -> None:
        passed, self.moved_at = now - self.moved_at, now
        if self.goal is None:
            return
        share = 1.0 - np.exp(-passed / LAG)
        for place, dimension in enumerate(self.embodiment.actions[: len(self.state)]):
            told = float(self.goal[place])
            if dimension.kind == "velocity":
                full = max(abs(dimension.low), abs(dimension.high))
                self.state[place] += told / full * 0.25 * passed * (self.high[place] - self.low[place])
            else:
                self.state[place] += share * (told - self.state[place])
        self.state = np.clip(self.state, self.low, self.high)


def noise_of(camera: Camera, rng: np.random.Generator) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Return pictures of coarse noise, as hard to compress as they come."""
    shape = (camera.height // 2, camera.width // 2, 3)
    coarse = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(NUM_FRAMES)]
    return [picture.repeat(2, axis=0).repeat(2, axis=1) for picture in coarse]


class SwingingPolicy:
    """Answers with slow swings, or with what goes on from a plan; implements `Acting`.

    The swings begin with the first call, in the middle of each range. Each chunk is a little off the swing,
    by noise of its seed, as a network's would be.
    """

    def __init__(self, embodiment: Embodiment, *, horizon: int) -> None:
        self.embodiment, self.horizon, self.rate = embodiment, horizon, embodiment.rate
        low = np.array([dimension.low for dimension in embodiment.actions])
        high = np.array([dimension.high for dimension in embodiment.actions])
        self.middle, self.reach = (low + high) / 2, SWING * (high - low)
        self.began: float | None = None
        self.reset(seed=0)

    def reset(self, *, seed: int) -> None:
        """Start with the noise of a seed."""
        self.rng = np.random.default_rng(seed)

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        """Return a swing from now on; with a plan to go on from, it fades from there within half a second."""
        ticks = np.arange(self.horizon)
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        moments = now - self.began + ticks / self.rate
        speeds = 0.6 + 0.1 * np.arange(len(self.middle))
        swing = self.middle + self.reach * np.sin(moments[:, None] * speeds)
        chunk = swing + 0.02 * self.reach * self.rng.standard_normal(len(self.middle))
        if continuation is not None:
            planned = continuation.actions
            chunk[: continuation.delay] = planned[: continuation.delay]
            last = min(continuation.delay, len(planned) - 1)
            fading = np.exp(-np.arange(self.horizon - continuation.delay) / (0.15 * self.rate))
            away = planned[last] - chunk[continuation.delay] if continuation.delay < self.horizon else 0.0
            chunk[continuation.delay :] += fading[:, None] * away
        return chunk.astype(np.float32)


class Delayed:
    """A policy whose answers are as late as if a network lay between; implements `Acting`."""

    def __init__(self, policy: Acting, seconds: float) -> None:
        self.policy, self.seconds = policy, seconds

    @property
    def horizon(self) -> int:
        """Return how many actions a chunk has."""
        return self.policy.horizon

    @property
    def rate(self) -> float:
        """Return the control ticks a second that they are for."""
        return self.policy.rate

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise."""
        self.policy.reset(seed=seed)

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        """Answer as the policy does, some time later."""
        given: Mapping[str, Any] = {"continuation": continuation, "num_steps": num_steps}
        chunk = self.policy.act(
            observation, **{name: value for name, value in given.items() if value is not None}
        )
        time.sleep(self.seconds)
        return chunk
