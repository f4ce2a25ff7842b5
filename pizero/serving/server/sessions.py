"""One connected client: its randomness, its place in the queue, and its two possible protocols."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from pizero.serving.envelope import PROTOCOL, ServerError, disagreements, error
from pizero.serving.messages import pack
from pizero.serving.server.identity import Identity
from pizero.serving.server.metrics import Metrics
from pizero.serving.server.openpi import error_text, read_request, result
from pizero.serving.server.settings import ServerSettings
from pizero.serving.server.telemetry import Telemetry
from pizero.serving.server.validation import SEEDS, Ask, Validator, decode, known_fields, shown, whole
from pizero.serving.server.waiting import Request, Waiting
from pizero.serving.server.worker import Answer

INLINE_BYTES = 256 * 1024
"""Longer messages are unpacked and checked in a thread: that can take the loop's five milliseconds."""

MAX_UNANSWERED = 4
"""Requests of a client that are computed, wait or are being told that they were superseded."""


class House:
    """What all sessions of a server share."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        identity: Identity,
        validator: Validator,
        waiting: Waiting,
        metrics: Metrics,
        telemetry: Telemetry | None,
    ) -> None:
        self.settings, self.identity, self.validator = settings, identity, validator
        self.waiting, self.metrics, self.telemetry = waiting, metrics, telemetry
        self.ready = asyncio.Event()
        self.draining = False
        self.decoder = ThreadPoolExecutor(1, thread_name_prefix="pizero-decode")


class Session:
    """A client from its first message to its last."""

    def __init__(self, connection: ServerConnection, name: str, house: House) -> None:
        self.connection, self.name, self.house = connection, name, house
        self.protocol = "openpi" if connection.subprotocol is None else "pizero"
        self.asked = 0
        self.answering: set[asyncio.Task[None]] = set()
        self.room = asyncio.Semaphore(MAX_UNANSWERED)
        self.reset(house.settings.seed)

    def reset(self, seed: int) -> None:
        """Begin an episode with its own noise, as `Policy.reset` does."""
        self.noise = torch.Generator().manual_seed(seed)

    @property
    def busy(self) -> bool:
        """Return whether the client waits for an answer."""
        return self.asked > 0

    async def serve(self) -> None:
        """Answer until the client goes, or does not take its answers; who is gone leaves nothing behind."""
        openpi = self.connection.subprotocol is None
        serving = asyncio.create_task(self._serve_openpi() if openpi else self._serve_pizero())
        closed = asyncio.create_task(self.connection.wait_closed())
        try:
            await asyncio.wait({serving, closed}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                with contextlib.suppress(ConnectionClosed):
                    serving.result()
        finally:
            serving.cancel()
            closed.cancel()
            gone = self.house.waiting.remove(self.name)
            if gone is not None:
                gone.abandoned = True
            for task in self.answering:
                task.cancel()
            if self.house.telemetry is not None:
                self.house.telemetry.left(self.name)

    async def _serve_openpi(self) -> None:
        """Take one request after the other, as openpi's server does: its clients know no numbers."""
        await self.house.ready.wait()
        await self._send(pack(self.house.identity.metadata()))
        previous: float | None = None
        async for data in self.connection:
            began = time.monotonic()
            seconds: dict[str, float] = {}
            self.asked = 1
            try:
                ask = await self._decoded(data, self._read_openpi)
                seconds["decode"] = time.monotonic() - began
                if ask.seed is not None:
                    self.reset(ask.seed)
                answer = await self._computed(ask, began, seconds)
                frame: bytes | str = pack(result(answer.chunk, seconds["infer"], previous))
            except ServerError as failure:
                self._count(failure.code, {})
                await self._send(error_text(failure))
                self.asked = 0
                continue
            await self._send(frame)
            self.asked = 0
            previous = time.monotonic() - began
            self._count("OK", {**seconds, "total": previous})

    async def _serve_pizero(self) -> None:
        await self.house.ready.wait()
        await self._send(pack(self.house.identity.hello(self.name)))
        if not await self._opened():
            return
        async for data in self.connection:
            began = time.monotonic()
            seq: int | None = None
            try:
                message = await self._decoded(data, decode)
                seq = _seq(message)
                await self._take(message, began)
            except ServerError as failure:
                self._count(failure.code, {})
                await self._send(pack(error(failure.code, failure.message, seq)))

    async def _opened(self) -> bool:
        """Hold the server to what the client expects of it; False after a refusal."""
        found = self.house.identity.hello(self.name)
        async with asyncio.timeout(self.house.settings.limits.open_time):
            data = await self.connection.recv()
        differences: list[str] = []
        try:
            message = await self._decoded(data, decode)
            known_fields(message, {"type", "protocol", "seed", "expected"}, needed=("type", "protocol"))
            if message["type"] != "open":
                raise ServerError(
                    "BAD_MESSAGE", f"expected the type open first, found {shown(message['type'])}"
                )
            if message["protocol"] != PROTOCOL:
                differences = disagreements({"protocol": message["protocol"]}, found)
            else:
                seed = message.get("seed")
                self.reset(
                    self.house.settings.seed if seed is None else whole(seed, "seed", low=0, high=SEEDS)
                )
                differences = disagreements(message.get("expected") or {}, found)
            if differences:
                raise ServerError("INCOMPATIBLE", f"client and server disagree: {'; '.join(differences[:5])}")
        except ServerError as failure:
            self._count(failure.code, {})
            refusal = {**error(failure.code, failure.message), "differences": differences[:100]}
            await self._send(pack(refusal))
            await self.connection.close(1008, failure.code)
            return False
        await self._send(pack({"type": "opened"}))
        return True

    async def _take(self, message: Mapping[str, Any], began: float) -> None:
        kind = message.get("type")
        if kind == "reset":
            known_fields(message, {"type", "seq", "seed"}, needed=("seq", "seed"))
            self.reset(whole(message["seed"], "seed", low=0, high=SEEDS))
            self._supersede(self.house.waiting.remove(self.name))
            await self._send(pack({"type": "reset", "seq": _seq(message)}))
            return
        if kind != "act":
            raise ServerError("BAD_MESSAGE", f"expected the type act or reset, found {shown(kind)}")
        ask = self.house.validator.act(message)
        seconds = {"decode": time.monotonic() - began}
        await self.room.acquire()
        self.asked += 1
        task = asyncio.create_task(self._answer(ask, began, seconds))
        self.answering.add(task)
        task.add_done_callback(self._finished)
        await asyncio.sleep(0)  # let it take its place before the next message is read

    async def _answer(self, ask: Ask, began: float, seconds: dict[str, float]) -> None:
        try:
            answer = await self._computed(ask, began, seconds)
            timing = {**seconds, "total": time.monotonic() - began}
            frame = pack({"type": "chunk", "seq": ask.seq, "actions": answer.chunk, "timing": timing})
            outcome = "OK"
        except ServerError as failure:
            frame, outcome = pack(error(failure.code, failure.message, ask.seq)), failure.code
        try:
            await self._send(frame)
        except ConnectionClosed:
            return
        total = {**seconds, "total": time.monotonic() - began}
        self._count(outcome, total if outcome == "OK" else {})

    async def _computed(self, ask: Ask, began: float, seconds: dict[str, float]) -> Answer:
        """Let a request wait for the model, and return its answer; ServerError if there is none in time."""
        house = self.house
        if house.draining:
            raise ServerError("SHUTTING_DOWN", "the server is going away; connect again in a moment")
        self._observe(ask)
        limit = house.settings.limits.answer_time
        allowed = limit if ask.deadline is None else min(ask.deadline, limit)
        request = Request(
            client=self.name,
            ask=ask,
            noise=self.noise,
            reply=asyncio.get_running_loop().create_future(),
            received=began,
            expires=began + allowed,
            seconds=seconds,
        )
        if allowed <= 0:
            raise ServerError("DEADLINE", f"the request was {-allowed:.3f} s too old when it came")
        self._supersede(house.waiting.put(request))
        try:
            async with asyncio.timeout(max(request.expires - time.monotonic(), 0.0)):
                outcome = await request.reply
        except TimeoutError:
            raise ServerError("DEADLINE", f"there was no answer within {allowed:.3f} s") from None
        finally:
            request.abandoned = True
            house.waiting.discard(request)
        if isinstance(outcome, ServerError):
            raise outcome
        if house.telemetry is not None:
            house.telemetry.answered(self.name, outcome.chunk, seconds)
            self._refuse_if_stopped(house.telemetry)  # pressed while it was computed
        return outcome

    def _observe(self, ask: Ask) -> None:
        """Show the dashboard what came, and let its operator stop the client."""
        telemetry = self.house.telemetry
        if telemetry is None:
            return
        telemetry.observed(self.name, ask.observation)
        if ask.report is not None:
            try:
                telemetry.reported(self.name, ask.report)
            except ValueError as failure:
                raise ServerError("BAD_MESSAGE", f"report: {failure}") from None
        self._refuse_if_stopped(telemetry)

    def _refuse_if_stopped(self, telemetry: Telemetry) -> None:
        if telemetry.stop_requested(self.name):
            raise ServerError("STOP_REQUESTED", "the server's operator pressed stop")

    async def _decoded(self, data: bytes | str, read: Any) -> Any:
        self.house.metrics.received(len(data))
        if len(data) <= INLINE_BYTES:
            return read(data)
        return await asyncio.get_running_loop().run_in_executor(self.house.decoder, read, data)

    def _read_openpi(self, data: bytes | str) -> Ask:
        return read_request(decode(data), self.house.validator)

    def _supersede(self, older: Request | None) -> None:
        if older is not None and not older.reply.done():
            older.reply.set_result(ServerError("SUPERSEDED", "a newer request took the place of this one"))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self.answering.discard(task)
        self.asked -= 1
        self.room.release()

    async def _send(self, frame: bytes | str) -> None:
        """Send, or end the connection if the client does not take what it is sent."""
        try:
            async with asyncio.timeout(self.house.settings.limits.send_time):
                await self.connection.send(frame)
        except TimeoutError:
            self.house.metrics.dropped("slow reader")
            self.connection.transport.abort()
            raise ConnectionResetError from None

    def _count(self, outcome: str, seconds: Mapping[str, float]) -> None:
        self.house.metrics.answered(self.protocol, outcome, seconds)


def _seq(message: Mapping[str, Any]) -> int | None:
    seq = message.get("seq")
    return seq if type(seq) is int else None
