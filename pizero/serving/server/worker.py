"""The thread in which the model computes, so that the event loop never does."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from pizero.policy.policy import Policy
from pizero.serving.envelope import ServerError
from pizero.serving.server.metrics import Metrics
from pizero.serving.server.settings import ServerSettings
from pizero.serving.server.waiting import Request, Waiting
from pizero.types import ActionChunk, Observation

LOG = logging.getLogger("pizero.serving")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A chunk, and the noise that it was made from."""

    chunk: ActionChunk
    noise: Float32[np.ndarray, "*noise_shape"]


class Worker:
    """Takes what waits, lets the policy act, and hands each answer back to the event loop.

    `done` is told in this thread of each request that was computed, and its outcome.
    """

    def __init__(
        self,
        policy: Policy,
        waiting: Waiting,
        settings: ServerSettings,
        metrics: Metrics,
        done: Callable[[Request, Answer | ServerError], None],
    ) -> None:
        self.policy, self.waiting, self.settings, self.metrics = policy, waiting, settings, metrics
        self.done = done
        self.busy_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="pizero-model", daemon=True)

    def start(self) -> asyncio.Future[None]:
        """Start, with one request that nobody asked: the future is done once the policy can answer."""
        warm = self._loop.create_future()
        self._warm = warm
        self._thread.start()
        return warm

    def join(self, seconds: float) -> bool:
        """Wait until everything is computed after `Waiting.close`; False if that takes longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stuck(self) -> bool:
        """Return whether the model has been computing for longer than anybody waits."""
        since = self.busy_since
        return since is not None and time.monotonic() - since > self.settings.limits.answer_time

    def _run(self) -> None:
        try:
            self._answer(blank_observation(self.policy), torch.Generator().manual_seed(0))
        except Exception as error:
            self._hand_over(self._warm, error)
            return
        self._hand_over(self._warm, None)
        while (requests := self.waiting.take(self.settings.batch, self.settings.batch_wait)) is not None:
            self.metrics.computed(len(requests))
            for request in requests:
                self._serve(request)

    def _serve(self, request: Request) -> None:
        began = time.monotonic()
        if request.abandoned or began > request.expires:
            return  # who waited has been told, or is told by the timer in this moment
        request.seconds["queue"] = began - request.received - request.seconds.get("decode", 0.0)
        self.busy_since = began
        try:
            outcome: Answer | ServerError = self._answer(request.ask.observation, request.noise)
        except ServerError as error:
            outcome = error
        except Exception:
            incident = secrets.token_hex(4)
            LOG.exception("incident %s: a request of %s failed", incident, request.client)
            outcome = ServerError(
                "INTERNAL", f"the policy failed; see incident {incident} in the server's log"
            )
        self.busy_since = None
        request.seconds["infer"] = time.monotonic() - began
        self.done(request, outcome)
        self._hand_over(request.reply, outcome)

    def _answer(self, observation: Observation, generator: torch.Generator) -> Answer:
        noise = torch.randn(self.policy.model.noise_shape, generator=generator).numpy()
        return Answer(chunk=checked(self.policy.act(observation, noise=noise), self.policy), noise=noise)

    def _hand_over(self, future: asyncio.Future, outcome: object) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(outcome)

        try:
            self._loop.call_soon_threadsafe(settle)
        except RuntimeError:
            LOG.warning("an answer came after the server had ended")


def checked(chunk: ActionChunk, policy: Policy) -> ActionChunk:
    """Return a chunk that may be sent; ServerError BAD_OUTPUT for one that no robot should see."""
    expected = (policy.contract.horizon, policy.contract.embodiment.action_dim)
    if chunk.shape != expected or chunk.dtype != np.float32:
        raise ServerError(
            "BAD_OUTPUT",
            f"expected float32 {list(expected)} of the model, found {chunk.dtype} {list(chunk.shape)}",
        )
    if not np.isfinite(chunk).all():
        raise ServerError("BAD_OUTPUT", "the model's actions are not finite")
    return chunk


def blank_observation(policy: Policy) -> Observation:
    """Return a grey picture of each camera and the middle of each limit: to warm a policy up with."""
    robot = policy.contract.embodiment
    return Observation(
        images={
            camera.name: np.full((camera.height, camera.width, 3), 128, dtype=np.uint8)
            for camera in robot.cameras
        },
        state=np.array([(each.low + each.high) / 2 for each in robot.state], dtype=np.float32),
        instruction="warm up",
    )
