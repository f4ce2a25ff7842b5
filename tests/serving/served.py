"""A server in a thread of its own, with a policy of a few thousand weights, and clients that know bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from pizero.models.pi0 import Pi0
from pizero.policy.policy import Policy
from pizero.policy.prepared import Prepared
from pizero.robots import NAVIGATION2D, Embodiment
from pizero.serving.client import Times
from pizero.serving.messages import pack, unpack
from pizero.serving.server.app import Server
from pizero.serving.server.identity import Identity
from pizero.serving.server.settings import Limits, ServerSettings
from pizero.types import ActionChunk, Observation
from tests.examples import TINY_PI0, contract, observation

PATIENCE = 60.0
"""Seconds after which a test gives up on something that takes milliseconds."""

QUICK = Times(connect=PATIENCE, attempt=PATIENCE, answer=PATIENCE)


def tiny_policy(embodiment: Embodiment = NAVIGATION2D) -> Policy:
    """Return a policy with random weights, always the same, for any robot of the catalog."""
    config = replace(TINY_PI0, state_dim=embodiment.state_dim, action_dim=embodiment.action_dim)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Policy(Pi0(config), replace(contract(embodiment), max_tokens=40))


class Scripted(Policy):
    """A policy whose answers a test chooses, by a function of the observation, called where it computes."""

    def __init__(self, answer: Callable[[Observation], Any]) -> None:
        tiny = tiny_policy()
        super().__init__(tiny.model, tiny.contract)
        self.answer = answer
        self.asked: list[Observation] = []

    def infer(self, requests: Sequence[Prepared]) -> list[np.ndarray]:
        return [self._scripted(request.observation) for request in requests]

    def finish(self, request: Prepared, written: np.ndarray) -> ActionChunk:
        return written

    def _scripted(self, observation: Observation) -> np.ndarray:
        if observation.instruction == "warm up":
            return np.zeros((3, 2), dtype=np.float32)
        self.asked.append(observation)
        return self.answer(observation)


class Running:
    """A server that listens, as its clients see it and as it sees itself."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop, self.port = server, loop, server.port
        self.uri = f"ws://127.0.0.1:{self.port}"

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def figure(self, name: str, **labels: str) -> float:
        """Return a figure of the metrics; 0 if nothing was counted."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so; the server has as long as a test can take."""
        event = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if condition():
                return
            event.wait(0.01)
        raise AssertionError(f"waited {PATIENCE} s in vain: {what}")


@contextmanager
def running(
    policy: Policy | None = None,
    *,
    limits: Limits | None = None,
    warm: bool = True,
    port: int = 0,
    **settings: Any,
) -> Iterator[Running]:
    """Serve a policy on a free port of this machine."""
    served = policy or tiny_policy()
    chosen = ServerSettings(port=port, limits=limits or Limits(drain_time=PATIENCE), **settings)
    identity = Identity(name="tiny", manifest="0" * 64, contract=served.contract, limits=chosen.limits)
    started, ended = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    async def live() -> None:
        over = asyncio.Event()
        async with Server(served, identity, chosen) as server:
            if warm:
                await server.warm()
            found.update(server=server, loop=asyncio.get_running_loop(), over=over)
            started.set()
            await over.wait()

    def body() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            found["error"] = error
        finally:
            started.set()
            ended.set()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    if "error" in found:
        raise found["error"]
    try:
        yield Running(found["server"], found["loop"])
    finally:
        found["loop"].call_soon_threadsafe(found["over"].set)
        assert ended.wait(PATIENCE)
        thread.join()
    if "error" in found:
        raise found["error"]


@contextmanager
def dialled(server: Running, *, token: str = "", ours: bool = True) -> Iterator[ClientConnection]:
    """Open a connection in our protocol or in openpi's; nothing was said yet."""
    with connect(
        server.uri,
        compression=None,
        subprotocols=[Subprotocol("pizero.v1")] if ours else None,
        additional_headers={"Authorization": f"Api-Key {token}"} if token else None,
        max_size=None,
        close_timeout=1,
    ) as connection:
        yield connection


@contextmanager
def raw(server: Running, *, token: str = "", ours: bool = True, seed: int = 0) -> Iterator[ClientConnection]:
    """Open a connection that is ready for requests."""
    with dialled(server, token=token, ours=ours) as connection:
        assert isinstance(heard(connection), dict)
        if ours:
            assert ask(connection, {"type": "open", "protocol": 1, "seed": seed}) == {"type": "opened"}
        yield connection


def heard(connection: ClientConnection) -> dict[str, Any]:
    """Return the next message."""
    answer = connection.recv(PATIENCE)
    assert isinstance(answer, bytes), answer
    return unpack(answer)


def ask(connection: ClientConnection, message: Any) -> dict[str, Any]:
    """Send one message, and return the next that comes."""
    connection.send(message if isinstance(message, bytes | str) else pack(message))
    return heard(connection)


def act_message(seq: int = 1, seen: Observation | None = None, **fields: Any) -> dict[str, Any]:
    """Return a request of our protocol."""
    shown = seen or observation()
    body = {"images": dict(shown.images), "state": shown.state, "instruction": shown.instruction}
    return {"type": "act", "seq": seq, "observation": body, **fields}


def openpi_message(seen: Observation | None = None, **fields: Any) -> dict[str, Any]:
    """Return a request of openpi's form for a robot that it does not know."""
    shown = seen or observation()
    return {"images": dict(shown.images), "state": shown.state, "prompt": shown.instruction, **fields}
