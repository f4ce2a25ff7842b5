"""A policy behind a server, called as if it were in this process.

Needs Python 3.9, numpy 1 or 2, msgpack and websockets, and nothing else of pizero:

    policy = RemotePolicy("ws://127.0.0.1:8000", expected={"embodiment": {"name": "metaworld"}})
    chunk = policy.act(Shown(images={"right": right, "left": left}, state=state, instruction="open the door"))
"""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from pizero.serving.envelope import PROTOCOL, SUBPROTOCOL, ServerError, disagreements
from pizero.serving.messages import pack, unpack

__all__ = [
    "ConnectionLostError",
    "IncompatibleError",
    "RemotePolicy",
    "ServerError",
    "Shown",
    "StopRequestedError",
    "Times",
]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to connect: doubled after each, and varied, lest robots come at once."""

MAX_EXECUTED = 512
"""Actions that a report holds at most."""

MAX_ANSWER_BYTES = 64 * 2**20
TRANSIENT_STATUS = (429, 502, 503, 504)
"""HTTP statuses of a server that may let us in later."""


class ConnectionLostError(ConnectionError):
    """There is no connection at this moment; a later call tries again."""


class StopRequestedError(RuntimeError):
    """The server's operator pressed stop: the robot is to stop."""


class IncompatibleError(ValueError):
    """Client and server do not agree; `differences` has one line for each value."""

    def __init__(self, message: str, differences: list[str]) -> None:
        super().__init__("\n".join([message, *(f"  {line}" for line in differences)]))
        self.differences = differences


class Shown(NamedTuple):
    """What the robot shows: pictures `uint8 [height, width, 3]` by camera, state in robot units, instruction.

    A `pizero.types.Observation` has the same fields and does as well.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str = ""


class Times(NamedTuple):
    """How long the client waits, in seconds.

    `connect` for the first connection, all attempts together; `attempt` for one of them; `answer` for an
    answer, which the server is told, so that it computes nothing that comes too late.
    """

    connect: float = 60.0
    attempt: float = 5.0
    answer: float = 5.0


class RemotePolicy:
    """Observation in, action chunk out, both in robot units, computed by a server.

    Before the first action the server is held to what is `expected` of it: a map like its `metadata`, of
    which only the keys that are given count. IncompatibleError lists every difference. If the connection
    breaks, `act` raises ConnectionLostError and connects again, with growing pauses, when it is called again;
    noise begins anew from the seed of the last `reset`. An observation is never sent twice.

    A server without our protocol is taken for openpi's. It says nothing about its policy: `horizon` is then
    that of the first chunk and `rate` the one given, and `request_of` makes the request for its robot.
    """

    def __init__(
        self,
        uri: str,
        *,
        token: str = "",
        expected: Mapping[str, Any] | None = None,
        times: Times = Times(),  # noqa: B008
        tls: ssl.SSLContext | None = None,
        rate: float = 0.0,
        request_of: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        self.uri, self.times = uri, times
        self.metadata: dict[str, Any] = {}
        """What the server said of itself."""
        self.timing: dict[str, float] = {}
        """Seconds that the server spent on the last answer, by stage."""
        self._headers = {"Authorization": f"Api-Key {token}"} if token else {}
        self._expected, self._tls, self._rate, self._horizon = dict(expected or {}), tls, rate, 0
        self._request_of = request_of or plain_request
        self._seed, self._seq = 0, 0
        self._report: Mapping[str, Any] | None = None
        self._lock = threading.Lock()
        self._held = contextlib.ExitStack()
        self._connection: ClientConnection | None = None
        self._ours = True
        self._pause, self._next_try = FIRST_PAUSE, 0.0
        with self._lock:
            self._connect_patiently()

    @property
    def horizon(self) -> int:
        """Return how many actions a chunk has; 0 as long as an openpi server has sent none."""
        return self._horizon

    @property
    def rate(self) -> float:
        """Return the control ticks a second that the actions are for; 0 if nobody said."""
        return self._rate

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise, now or with the next connection.

        openpi's servers have no episodes, and go on as they were.
        """
        with self._lock:
            self._seed = seed
            if self._connection is not None and self._ours:
                self._seq += 1
                self._exchange({"type": "reset", "seq": self._seq, "seed": seed}, "reset")

    def report(self, report: Mapping[str, Any]) -> None:
        """Let the next request tell the server's dashboard what was executed, and what was not told yet."""
        self._report = _joined(self._report, report)

    def act(self, observation: Any, *, continuation: Any = None, num_steps: int | None = None) -> np.ndarray:
        """Return the next actions, `float32 [horizon, action_dim]`, as `Policy.act` does.

        `observation` has the fields of `Shown`, `continuation` those of `pizero.types.Continuation`.
        ServerError says what the server found wrong, or DEADLINE if there was no answer in time;
        ConnectionLostError that there is no connection now; StopRequestedError that the robot is to stop;
        IncompatibleError that a server which came back is another one.
        """
        with self._lock:
            if self._connection is None:
                self._connect_again()
            if not self._ours:
                if continuation is not None or num_steps is not None:
                    raise ServerError(
                        "BAD_CONTINUATION", "openpi's servers take an observation and nothing else"
                    )
                return self._act_openpi(observation)
            self._seq += 1
            message: dict[str, Any] = {
                "type": "act",
                "seq": self._seq,
                "observation": {
                    "images": dict(observation.images),
                    "state": observation.state,
                    "instruction": observation.instruction,
                },
                "deadline": self.times.answer,
            }
            if continuation is not None:
                message["continuation"] = {
                    "actions": continuation.actions,
                    "delay": continuation.delay,
                    "execution": continuation.execution,
                    "method": continuation.method,
                }
            if num_steps is not None:
                message["num_steps"] = num_steps
            report, self._report = self._report, None
            if report is not None:
                message["report"] = report
            answer = self._exchange(message, "chunk")
            self.timing = dict(answer.get("timing") or {})
            return _actions(answer.get("actions"))

    def close(self) -> None:
        """Part from the server; calling it twice is harmless."""
        with self._lock:
            self._drop()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _exchange(self, message: Mapping[str, Any], expected_type: str) -> dict[str, Any]:
        """Send a message and return its answer; older answers are thrown away."""
        until = time.monotonic() + self.times.answer
        self._send(pack(message))
        while True:
            answer = self._message(self._receive(until))
            seq, kind = answer.get("seq"), answer.get("type")
            if isinstance(seq, int) and seq < message["seq"]:
                continue
            if kind == "error":
                if answer.get("code") == "STOP_REQUESTED":
                    raise StopRequestedError(str(answer.get("message")))
                raise ServerError(str(answer.get("code")), str(answer.get("message")))
            if kind != expected_type or seq != message["seq"]:
                raise self._lost(
                    f"expected the answer {message['seq']} ({expected_type}), found {seq} ({kind})"
                )
            return answer

    def _act_openpi(self, observation: Any) -> np.ndarray:
        """Ask a server of openpi's; answers have no number, so waiting too long ends the connection."""
        self._send(pack(self._request_of(observation)))
        try:
            frame = self._receive(time.monotonic() + self.times.answer)
        except ServerError:
            self._drop()
            raise
        if isinstance(frame, str):
            raise ServerError("INTERNAL", (frame.strip().splitlines() or ["no reason given"])[-1][:500])
        actions = _actions(self._message(frame).get("actions"))
        self._horizon = len(actions)
        return actions

    def _connect_patiently(self) -> None:
        until = time.monotonic() + self.times.connect
        while True:
            try:
                return self._connect(until)
            except ConnectionLostError as failure:
                left = until - time.monotonic()
                if left <= 0:
                    raise ConnectionLostError(
                        f"no connection to {self.uri} within {self.times.connect} s: {failure}"
                    ) from None
                time.sleep(max(min(self._next_try - time.monotonic(), left), 0.0))

    def _connect_again(self) -> None:
        left = self._next_try - time.monotonic()
        if left > 0:
            raise ConnectionLostError(f"no connection to {self.uri}; the next attempt is in {left:.1f} s")
        self._connect(time.monotonic() + self.times.attempt)

    def _connect(self, until: float) -> None:
        """Open a connection and agree on what is served, or say when the next attempt may be."""
        try:
            self._connection = self._held.enter_context(
                connect(
                    self.uri,
                    additional_headers=self._headers,
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    compression=None,
                    max_size=MAX_ANSWER_BYTES,
                    open_timeout=self.times.attempt,
                    close_timeout=1.0,
                    ssl=self._tls,
                )
            )
        except InvalidStatus as failure:
            status = failure.response.status_code
            if status in TRANSIENT_STATUS:
                raise self._lost(f"HTTP status {status}") from None
            raise ConnectionRefusedError(
                f"{self.uri} refuses this client: HTTP status {status}{_hint(status)}"
            ) from None
        except (OSError, InvalidHandshake, EOFError) as failure:
            if isinstance(failure, ssl.SSLCertVerificationError):
                raise
            raise self._lost(str(failure) or type(failure).__name__) from None
        try:
            self._agree(until)
        except (IncompatibleError, ServerError):
            self._drop()
            raise
        self._pause, self._next_try = FIRST_PAUSE, 0.0

    def _agree(self, until: float) -> None:
        """Hold the server to what is expected of it, and tell it what we expect."""
        assert self._connection is not None
        self._ours = self._connection.subprotocol == SUBPROTOCOL
        self.metadata = self._message(self._receive(until))
        differences = disagreements(self._expected, self.metadata)
        if differences:
            raise IncompatibleError(f"{self.uri} is not the server that was expected:", differences)
        if not self._ours:
            return
        opening = {"type": "open", "protocol": PROTOCOL, "seed": self._seed, "expected": self._expected}
        self._send(pack(opening))
        answer = self._message(self._receive(until))
        if answer.get("code") == "INCOMPATIBLE":
            raise IncompatibleError(str(answer.get("message")), list(answer.get("differences") or []))
        if answer.get("type") != "opened":
            raise ServerError(str(answer.get("code")), str(answer.get("message")))
        self._horizon, self._rate = int(self.metadata["horizon"]), float(self.metadata["rate"])

    def _send(self, data: bytes) -> None:
        assert self._connection is not None
        try:
            self._connection.send(data)
        except (ConnectionClosed, OSError) as failure:
            raise self._lost(str(failure)) from None

    def _receive(self, until: float) -> bytes | str:
        assert self._connection is not None
        try:
            return self._connection.recv(timeout=max(until - time.monotonic(), 0.0))
        except TimeoutError:
            raise ServerError("DEADLINE", "there was no answer in time") from None
        except (ConnectionClosed, OSError, EOFError) as failure:
            raise self._lost(str(failure)) from None

    def _message(self, frame: bytes | str) -> dict[str, Any]:
        try:
            message = unpack(frame) if isinstance(frame, bytes) else None
        except ValueError as failure:
            raise self._lost(str(failure)) from None
        if not isinstance(message, dict):
            raise self._lost(f"expected a message, found {str(frame)[:200]!r}")
        return message

    def _lost(self, reason: str) -> ConnectionLostError:
        """Give the connection up, and return the error that says why."""
        self._drop()
        self._next_try = time.monotonic() + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return ConnectionLostError(f"no connection to {self.uri}: {reason}")

    def _drop(self) -> None:
        self._connection = None
        self._held.close()


def plain_request(observation: Any) -> dict[str, Any]:
    """Return a request of openpi's form, as its ALOHA policies and pizero's servers read it."""
    return {
        "images": dict(observation.images),
        "state": observation.state,
        "prompt": observation.instruction,
    }


def _actions(actions: Any) -> np.ndarray:
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
        raise ServerError("BAD_OUTPUT", f"expected actions [horizon, action_dim], found {str(actions)[:80]}")
    if not np.isfinite(actions).all():
        raise ServerError("BAD_OUTPUT", "the actions are not finite")
    return actions.astype(np.float32)


def _joined(older: Mapping[str, Any] | None, newer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with what the one before it had executed; rows for ticks of which nothing is known are
    not finite.
    """
    found = dict(newer)
    if older is None or "executed" not in older or "executed" not in newer:
        return found
    before, after = np.asarray(older["executed"]), np.asarray(newer["executed"])
    missing = newer["tick"] - len(after) - older["tick"]
    if before.shape[1:] == after.shape[1:] and 0 <= missing < MAX_EXECUTED:
        between = np.full((missing, *after.shape[1:]), np.nan, np.float32)
        found["executed"] = np.concatenate([before, between, after])[-MAX_EXECUTED:]
    return found


def _hint(status: int) -> str:
    return ": give the token" if status == 401 else ""
