"""Writes down what is asked and answered, beside the server's work and within bounds."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from pizero.serving.envelope import ServerError
from pizero.serving.recording import Line, RecordedPolicy, RecordedRequest, begin_recording, write_request
from pizero.serving.server.identity import Identity
from pizero.serving.server.metrics import Metrics
from pizero.serving.server.waiting import Request
from pizero.serving.server.worker import Answer

LOG = logging.getLogger("pizero.serving")

MAX_UNWRITTEN = 64
"""Requests that wait to be written; a disk that is slower than the clients costs requests, not memory."""


class Recorder:
    """A thread that writes; what does not fit into `max_bytes`, or comes too fast, is counted and left."""

    def __init__(self, folder: Path, max_bytes: int, identity: Identity, metrics: Metrics) -> None:
        self.folder, self.max_bytes, self.metrics = folder, max_bytes, metrics
        begin_recording(
            folder,
            RecordedPolicy(name=identity.name, manifest=identity.manifest, contract=identity.contract.sha256),
        )
        self._unwritten: queue.Queue[RecordedRequest | None] = queue.Queue(MAX_UNWRITTEN)
        self._number = self._bytes = 0
        self._thread = threading.Thread(target=self._run, name="pizero-record", daemon=True)
        self._thread.start()

    def record(self, request: Request, outcome: Answer | ServerError) -> None:
        """Take what was computed, or went wrong while it was; called in the model's thread."""
        ask, answer = request.ask, outcome if isinstance(outcome, Answer) else None
        continuation = ask.continuation
        line = Line(
            number=self._number,
            client=request.client,
            instruction=ask.observation.instruction,
            outcome="OK" if answer is not None else outcome.code if isinstance(outcome, ServerError) else "",
            seq=ask.seq,
            num_steps=ask.num_steps,
            delay=-1 if continuation is None else continuation.delay,
            execution=0 if continuation is None else continuation.execution,
            method="guided" if continuation is None else continuation.method,
            seconds=dict(request.seconds),
        )
        self._number += 1
        try:
            self._unwritten.put_nowait(
                RecordedRequest(
                    line=line,
                    observation=ask.observation,
                    noise=None if answer is None else answer.noise,
                    continuation=continuation,
                    actions=None if answer is None else answer.chunk,
                )
            )
        except queue.Full:
            self.metrics.not_recorded.inc()

    def close(self) -> None:
        """Write what is left, and end."""
        self._unwritten.put(None)
        self._thread.join()

    def _run(self) -> None:
        full = False
        while (request := self._unwritten.get()) is not None:
            if full:
                self.metrics.not_recorded.inc()
                continue
            try:
                self._bytes += write_request(self.folder, request)
            except OSError as error:
                LOG.warning("the recording in %s ends: %s", self.folder, error)
                full = True
                self.metrics.not_recorded.inc()
                continue
            self.metrics.recorded.inc()
            if self._bytes >= self.max_bytes:
                LOG.warning("the recording in %s is full", self.folder)
                full = True
