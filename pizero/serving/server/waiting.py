"""What waits for the model: of each client the newest request alone, and nobody overtakes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from pizero.serving.server.validation import Ask


@dataclass(eq=False, kw_only=True)
class Request:
    """One request on its way through the server.

    `client` is whose it is, `noise` the source of its client's random numbers, `reply` what the answer is put
    into, `expires` the moment (monotonic, in seconds) after which nobody waits for it, `abandoned` that
    nobody does. `seconds` collects what each stage took.
    """

    client: str
    ask: Ask
    noise: torch.Generator
    reply: Any
    received: float
    expires: float
    abandoned: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


class Waiting:
    """One place for each client, served in the order in which the places were taken; for any thread.

    A newer request takes its client's place, so that asking more often gains nobody more than the others.
    """

    def __init__(self) -> None:
        self._places: dict[str, Request] = {}
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._places)

    def put(self, request: Request) -> Request | None:
        """Let a request wait, and return the one whose place it took."""
        with self._changed:
            before = self._places.get(request.client)
            self._places[request.client] = request
            self._changed.notify()
            return before

    def remove(self, client: str) -> Request | None:
        """Take back what a client asked, if it still waits."""
        with self._changed:
            return self._places.pop(client, None)

    def discard(self, request: Request) -> None:
        """Take back one request, if it still waits."""
        with self._changed:
            if self._places.get(request.client) is request:
                del self._places[request.client]

    def take(self, most: int, wait: float) -> list[Request] | None:
        """Return the next requests, at most `most`, once there is one; None when nothing will come any more.

        For company the first waits at most `wait` seconds.
        """
        with self._changed:
            while not self._places:
                if self._closed:
                    return None
                self._changed.wait()
            until = time.monotonic() + wait
            while len(self._places) < most and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            names = list(self._places)[:most]
            return [self._places.pop(name) for name in names]

    def close(self) -> None:
        """Let what waits be served, and then end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
