"""A policy behind a port: from listening to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.typing import Subprotocol

from pizero.policy.policy import Policy
from pizero.serving.envelope import SUBPROTOCOL, ServerError
from pizero.serving.server.dashboard import LIVE, Dashboard
from pizero.serving.server.identity import Identity
from pizero.serving.server.metrics import Metrics
from pizero.serving.server.recorder import Recorder
from pizero.serving.server.sessions import House, Session
from pizero.serving.server.settings import ServerSettings
from pizero.serving.server.telemetry import Telemetry
from pizero.serving.server.validation import Validator
from pizero.serving.server.waiting import Request, Waiting
from pizero.serving.server.web import answer, choose_protocol, respond
from pizero.serving.server.worker import Answer, Worker

LOG = logging.getLogger("pizero.serving")

HANDSHAKES = 64
"""Connections that are being opened, or ask for a page, beside those of clients."""


class Server:
    """Serves one policy. `async with` it listens, and afterwards everything is answered and closed."""

    def __init__(self, policy: Policy, identity: Identity, settings: ServerSettings) -> None:
        self.policy, self.settings = policy, settings
        self.metrics = Metrics()
        self.waiting = Waiting()
        self.telemetry = Telemetry() if settings.dashboard else None
        self.dashboard: Dashboard | None = None
        if self.telemetry is not None:
            self.dashboard = Dashboard(self.telemetry, policy.contract)
        self.house = House(
            settings=settings,
            identity=identity,
            validator=Validator(policy.contract, policy.processor, settings.limits),
            waiting=self.waiting,
            metrics=self.metrics,
            telemetry=self.telemetry,
        )
        self.recorder: Recorder | None = None
        if settings.record is not None:
            self.recorder = Recorder(settings.record, settings.record_bytes, identity, self.metrics)
        self._sessions: dict[str, Session] = {}
        self._open = 0
        self._count = 0

    async def __aenter__(self) -> Server:
        self.worker = Worker(self.policy, self.waiting, self.settings, self.metrics, self._done)
        limits = self.settings.limits
        self.listener: Listener = await serve(
            self._connected,
            self.settings.host,
            self.settings.port,
            ssl=self.settings.tls(),
            process_request=self._asked,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            select_subprotocol=choose_protocol,
            compression=None,
            server_header=None,
            max_size=limits.message_bytes,
            max_queue=1,
            open_timeout=limits.open_time,
            ping_interval=limits.ping_time,
            ping_timeout=limits.ping_time,
            close_timeout=limits.send_time,
            create_connection=self._limited(),
            logger=_quiet(),
        )
        self.warming = self.worker.start()
        self._announcing = asyncio.create_task(self._announce())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.drain()

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return next(iter(self.listener.sockets)).getsockname()[1]

    async def warm(self) -> None:
        """Wait until the policy has answered its first request; its error if it cannot."""
        outcome = await asyncio.shield(self.warming)
        if isinstance(outcome, Exception):
            raise outcome

    async def drain(self) -> None:
        """Take no more requests, answer what was asked, and part from everybody with a clean close."""
        self.house.draining = True
        self.listener.close(close_connections=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.limits.drain_time):
                while any(session.busy for session in self._sessions.values()):
                    await asyncio.sleep(0.01)
        parting = [
            connection.close(1001, "the server is going away") for connection in self.listener.connections
        ]
        await asyncio.gather(*parting, return_exceptions=True)
        await self.listener.wait_closed()
        self.waiting.close()
        await asyncio.to_thread(self.worker.join, self.settings.limits.drain_time)
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        self._announcing.cancel()
        self.house.decoder.shutdown(wait=False, cancel_futures=True)

    def trouble(self) -> str:
        """Return why no request should be sent here, or nothing."""
        if self.house.draining:
            return "going away"
        if not self.house.ready.is_set():
            return "warming up"
        return "the model does not answer" if self.worker.stuck() else ""

    async def _announce(self) -> None:
        if await asyncio.shield(self.warming) is None:
            self.metrics.ready.set(1)
            self.house.ready.set()

    def _asked(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        response = answer(connection, request, self.house, self.dashboard, self.trouble())
        path = request.path.partition("?")[0]
        if response is None and path != LIVE and len(self._sessions) >= self.settings.limits.clients:
            self.metrics.refused("full")
            return respond(HTTPStatus.SERVICE_UNAVAILABLE, b"the server has as many clients as it takes\n")
        return response

    async def _connected(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        if self.dashboard is not None and connection.request.path.partition("?")[0] == LIVE:
            await self.dashboard.live(connection)
            return
        self._count += 1
        host, port = connection.remote_address[:2]
        session = Session(connection, f"{host}:{port} #{self._count}", self.house)
        self._sessions[session.name] = session
        self.metrics.clients.set(len(self._sessions))
        try:
            await session.serve()
        except (ConnectionResetError, TimeoutError):
            connection.transport.abort()
        finally:
            del self._sessions[session.name]
            self.metrics.clients.set(len(self._sessions))

    def _done(self, request: Request, outcome: Answer | ServerError) -> None:
        self.metrics.waiting.set(len(self.waiting))
        if self.recorder is not None:
            self.recorder.record(request, outcome)

    def _limited(self) -> type[ServerConnection]:
        """Return a connection that is cut at once if there are too many."""
        server, most = self, self.settings.limits.clients + HANDSHAKES

        class Limited(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                server._open += 1
                if server._open > most:
                    server.metrics.refused("too many connections")
                    self.transport.abort()

            def connection_lost(self, exc: Exception | None) -> None:
                server._open -= 1
                super().connection_lost(exc)

        return Limited


async def run(
    folder: Path, policy: Policy, settings: ServerSettings, announce: Callable[[Server], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was asked; `announce` is called once it is ready."""
    identity = Identity.of(folder, policy.contract, settings.limits)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Server(policy, identity, settings) as server:
        stopped = asyncio.create_task(stop.wait())
        warm = asyncio.create_task(server.warm())
        await asyncio.wait((stopped, warm), return_when=asyncio.FIRST_COMPLETED)
        if warm.done():
            warm.result()
            announce(server)
        await stopped


def _quiet() -> logging.Logger:
    """Return a log for what the library says of broken connections: anybody can cause as many as he likes."""
    logger = logging.getLogger("pizero.serving.connections")
    logger.setLevel(logging.CRITICAL)
    return logger
