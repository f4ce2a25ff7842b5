"""The thread in which the model computes, so that the event loop never does."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from pizero.policy.policy import Policy
from pizero.policy.prepared import Prepared
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
            self._warm_up()
        except Exception as error:
            self._hand_over(self._warm, error)
            return
        self._hand_over(self._warm, None)
        while (requests := self.waiting.take(self.settings.batch, self.settings.batch_wait)) is not None:
            # Of a request that is too old, who waited has been told, or is told by the timer in this moment.
            now = time.monotonic()
            alive = [request for request in requests if not request.abandoned and now <= request.expires]
            if alive:
                self.metrics.computed(len(alive))
                self._serve(alive)

    def _warm_up(self) -> None:
        """Answer a request that nobody asked, in the sizes that will be computed."""
        noise = self.policy.draw_noise(torch.Generator().manual_seed(0))
        blank = self.policy.prepare(blank_observation(self.policy), noise=noise)
        rows = [
            checked(self.policy, blank, written) for written in self._infer([blank] * self.settings.batch)
        ]
        if any(not np.array_equal(row, rows[0]) for row in rows):
            LOG.warning(
                "in batches of %d an answer's last bits depend on its place in the batch", self.settings.batch
            )

    def _serve(self, requests: list[Request]) -> None:
        """Compute some requests in one turn; what goes wrong with one is told to it alone."""
        began = self.busy_since = time.monotonic()
        prepared: list[tuple[Request, Prepared]] = []
        for request in requests:
            request.seconds["queue"] = began - request.received - request.seconds.get("decode", 0.0)
            with self._failing(request):
                prepared.append((request, self._prepared(request)))
        if prepared:
            self._compute(prepared)
        self.busy_since = None

    def _compute(self, prepared: list[tuple[Request, Prepared]]) -> None:
        began = time.monotonic()
        try:
            written = self._infer([each for _, each in prepared])
        except Exception as error:
            for request, _ in prepared:
                self._finish(request, self._failure(request, error))
            return
        seconds = time.monotonic() - began
        for (request, each), numbers in zip(prepared, written, strict=True):
            request.seconds["infer"] = seconds
            with self._failing(request):
                self._finish(request, Answer(chunk=checked(self.policy, each, numbers), noise=each.noise))

    def _prepared(self, request: Request) -> Prepared:
        ask, began = request.ask, time.monotonic()
        noise = self.policy.draw_noise(request.noise)
        try:
            prepared = self.policy.prepare(
                ask.observation, noise=noise, continuation=ask.continuation, num_steps=ask.num_steps
            )
        except ValueError as error:
            if ask.continuation is None and ask.num_steps is None:
                raise
            code = "BAD_STEPS" if ask.continuation is None else "BAD_CONTINUATION"
            raise ServerError(code, str(error)) from None
        request.seconds["encode"] = time.monotonic() - began
        return prepared

    def _infer(self, prepared: list[Prepared]) -> list[np.ndarray]:
        """Compute some requests, always in batches of one size: what others ask then changes no bit."""
        size = self.settings.batch
        if size == 1:
            return [self.policy.infer([each])[0] for each in prepared]
        kinds: dict[tuple[str, int], list[int]] = {}
        for place, each in enumerate(prepared):
            kinds.setdefault(each.kind, []).append(place)
        found: dict[int, np.ndarray] = {}
        for places in kinds.values():
            rows = [prepared[place] for place in places]
            written = self.policy.infer(rows + [rows[-1]] * (size - len(rows)))
            found.update(zip(places, written, strict=False))
        return [found[place] for place in range(len(prepared))]

    @contextmanager
    def _failing(self, request: Request) -> Iterator[None]:
        """Answer a request with what goes wrong."""
        try:
            yield
        except Exception as error:
            self._finish(request, self._failure(request, error))

    def _failure(self, request: Request, error: Exception) -> ServerError:
        if isinstance(error, ServerError):
            return error
        incident = secrets.token_hex(4)
        LOG.error("incident %s: a request of %s failed", incident, request.client, exc_info=error)
        return ServerError("INTERNAL", f"the policy failed; see incident {incident} in the server's log")

    def _finish(self, request: Request, outcome: Answer | ServerError) -> None:
        self.done(request, outcome)
        self._hand_over(request.reply, outcome)

    def _hand_over(self, future: asyncio.Future, outcome: object) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(outcome)

        try:
            self._loop.call_soon_threadsafe(settle)
        except RuntimeError:
            LOG.warning("an answer came after the server had ended")


def checked(policy: Policy, prepared: Prepared, written: np.ndarray) -> ActionChunk:
    """Return what a model made as a chunk that may be sent; ServerError BAD_OUTPUT for what no robot should
    see.
    """
    if not np.isfinite(written).all():
        raise ServerError("BAD_OUTPUT", "the model's actions are not finite")
    chunk = policy.finish(prepared, written)
    expected = (policy.contract.horizon, policy.contract.embodiment.action_dim)
    if chunk.shape != expected or chunk.dtype != np.float32 or not np.isfinite(chunk).all():
        raise ServerError(
            "BAD_OUTPUT",
            f"expected finite float32 {list(expected)} of the model, found {chunk.dtype} {list(chunk.shape)}",
        )
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
