"""The page on which a person at the server's machine watches its clients and stops them."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from pizero.contract import Contract
from pizero.data.images import resize_with_pad
from pizero.records import to_data
from pizero.serving.server.telemetry import Telemetry
from pizero.types import Observation

PERIOD = 0.2
"""Seconds between two pictures of what goes on."""

MAX_BROWSERS = 8
MAX_COMMAND = 4_096
"""Characters of what a browser sends."""

MAX_SIDE = 8_192
"""Pixels of a picture that is still resized for the page."""

QUALITY = 92

LIVE = "/dashboard/live"

FILES = {
    "/dashboard": ("index.html", "text/html; charset=utf-8"),
    "/dashboard/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard/style.css": ("style.css", "text/css; charset=utf-8"),
    "/dashboard/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/dashboard/drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "/dashboard/icon.svg": ("icon.svg", "image/svg+xml"),
}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: the page runs its own files, speaks to its own server, and stands in no other page."""

LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""A Host header by which this machine calls itself. A foreign site whose name was made to mean 127.0.0.1 (DNS
rebinding) sends its own name here.
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The answer to a plain GET."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class _Browser:
    connection: ServerConnection
    watched: str | None = None
    shown: dict[str, tuple[str, int]] = field(default_factory=dict)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Dashboard:
    """The files of the page, and what is sent to it while it is open.

    It is for a browser on the server's own machine: requests that name another host or come from another
    page are refused.
    """

    def __init__(self, telemetry: Telemetry, contract: Contract) -> None:
        self.telemetry = telemetry
        self.contract = contract
        self._browsers = 0
        self._pictures: dict[tuple[str, str], tuple[int, bytes]] = {}
        folder = files("pizero.serving.server") / "dashboard_page"
        self._files = {path: (folder / name).read_bytes() for path, (name, _) in FILES.items()}

    def page(self, path: str, headers: Mapping[str, str]) -> Page | None:
        """Return the answer to a GET; None if it is not of the dashboard, or opens `/dashboard/live`.

        `path` may have a query. `headers` are the request's.
        """
        place = path.partition("?")[0]
        if place != "/dashboard" and not place.startswith("/dashboard/"):
            return None
        refusal = self.refusal(headers, live=place == LIVE)
        if refusal is not None:
            return _text(403, refusal)
        if place == LIVE:
            return None
        if place not in FILES:
            return _text(404, "the dashboard has no such file")
        return _page(200, FILES[place][1], self._files[place])

    def refusal(self, headers: Mapping[str, str], *, live: bool) -> str | None:
        """Return why a request is refused, or None if it comes from this machine, and with `live` from our
        own page.
        """
        host, origin = headers.get("Host", ""), headers.get("Origin", "")
        if not LOOPBACK.fullmatch(host):
            return f"expected a Host of this machine, such as localhost, found {host[:200]!r}"
        if live and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return f"expected the Origin http://{host}, found {origin[:200]!r}"
        return None

    async def live(self, connection: ServerConnection) -> None:
        """Serve one browser until it goes: state and pictures to it, stops from it."""
        request = connection.request
        assert request is not None
        refusal = self.refusal(request.headers, live=True)
        if refusal is not None:
            await connection.close(1008, refusal[:100])
        elif self._browsers >= MAX_BROWSERS:
            await connection.close(1013, f"{MAX_BROWSERS} browsers are watching already")
        else:
            self._browsers += 1
            try:
                await self._serve(_Browser(connection))
            except ConnectionClosed:
                return
            finally:
                self._browsers -= 1
                if self._browsers == 0:
                    self._pictures.clear()

    async def _serve(self, browser: _Browser) -> None:
        await browser.connection.send(json.dumps(_facts(self.contract)))
        pushing = asyncio.create_task(self._push(browser))
        obeying = asyncio.create_task(self._obey(browser))
        try:
            done, _ = await asyncio.wait({pushing, obeying}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (pushing, obeying):
                task.cancel()
            await asyncio.gather(pushing, obeying, return_exceptions=True)

    async def _obey(self, browser: _Browser) -> None:
        async for message in browser.connection:
            command = _command(message)
            if command is None:
                await browser.connection.close(1008, "expected one of watch, stop and allow, and a client")
                return
            verb, client = command
            try:
                if verb == "watch":
                    browser.watched = client
                    browser.shown.clear()
                elif verb == "stop":
                    self.telemetry.request_stop(client)
                elif verb == "allow":
                    self.telemetry.allow(client)
            except ValueError as error:  # it left in the meantime
                await browser.connection.send(json.dumps({"kind": "refused", "why": str(error)}))
            browser.hurry.set()

    async def _push(self, browser: _Browser) -> None:
        while browser.connection.server.is_serving():
            browser.hurry.clear()
            text = await asyncio.to_thread(self._state, browser.watched)
            await browser.connection.send(text)
            for client, slot, number in self._due(browser):
                picture = await asyncio.to_thread(self._picture, client, slot, number)
                if picture is not None:
                    await browser.connection.send(picture)
            try:
                await asyncio.wait_for(browser.hurry.wait(), PERIOD)
            except TimeoutError:
                continue
            await asyncio.sleep(PERIOD / 10)  # a browser cannot make us hurry without end
        await browser.connection.close(1001, "the server is going away")

    def _state(self, watched: str | None) -> str:
        return json.dumps({"kind": "state", **self.telemetry.snapshot(watched=watched)}, allow_nan=False)

    def _due(self, browser: _Browser) -> list[tuple[str, str, int]]:
        """Return the pictures that a browser has not seen yet, of the client that it watches."""
        client = browser.watched
        latest = None if client is None else self.telemetry.latest(client)
        if client is None or latest is None:
            return []
        number, observation = latest
        due = []
        for slot in slots_of(self.contract):
            if slot in observation.images and browser.shown.get(slot) != (client, number):
                browser.shown[slot] = (client, number)
                due.append((client, slot, number))
        return due

    def _picture(self, client: str, slot: str, number: int) -> bytes | None:
        """Return a picture as one message: the length of a JSON text in 4 bytes, the text, a JPEG.

        Browsers that watch the same client share it. None if a picture is no picture.
        """
        kept = self._pictures.get((client, slot))
        if kept is not None and kept[0] == number:
            return kept[1]
        latest = self.telemetry.latest(client)
        if latest is None or (seen := seen_picture(latest[1], slot, self.contract)) is None:
            return None
        text = json.dumps({"client": client, "slot": slot, "number": latest[0]}).encode()
        message = len(text).to_bytes(4, "little") + text + jpeg(seen)
        if len(self._pictures) >= MAX_BROWSERS * len(slots_of(self.contract)):
            self._pictures.clear()
        self._pictures[client, slot] = (latest[0], message)
        return message


def slots_of(contract: Contract) -> list[str]:
    """Return the names of the pictures that a model reads, in its order, without those that this robot never
    has.
    """
    return [slot for slot in contract.slots or contract.embodiment.camera_names if slot]


def seen_picture(
    observation: Observation, slot: str, contract: Contract
) -> UInt8[np.ndarray, "size size 3"] | None:
    """Return a camera's picture as the model sees it, resized with padding as `Processor` does; None if it is
    no picture.
    """
    picture = observation.images.get(slot)
    if picture is None or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        return None
    short, long = sorted(picture.shape[:2])
    if long > MAX_SIDE or short * contract.image_size < long:  # nothing would be left of it
        return None
    return resize_with_pad(picture, contract.image_size)


def jpeg(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return a picture as a JPEG file, colours at full size."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="jpeg", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _facts(contract: Contract) -> dict[str, Any]:
    """Return what a page must know of a contract to write names, units and limits."""
    robot = contract.embodiment
    return {
        "kind": "contract",
        "robot": robot.name,
        "rate": robot.rate,
        "horizon": contract.horizon,
        "image_size": contract.image_size,
        "slots": slots_of(contract),
        "absent": "black" if contract.absent_valid else "hidden",
        "state": to_data(robot.state),
        "actions": to_data(robot.actions),
    }


def _command(message: str | bytes) -> tuple[str, str | None] | None:
    """Return a verb and a client (none: all) of a browser's message; None if it is no command."""
    if not isinstance(message, str) or len(message) > MAX_COMMAND:
        return None
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or len(found) != 1:
        return None
    ((verb, client),) = found.items()
    known = verb in ("watch", "stop", "allow") and (client is None or isinstance(client, str))
    return (verb, client) if known else None


def _page(status: int, kind: str, body: bytes) -> Page:
    ending = {"Content-Length": str(len(body)), "Connection": "close"}
    return Page(status=status, headers={"Content-Type": kind, **ending, **HEADERS}, body=body)


def _text(status: int, text: str) -> Page:
    return _page(status, "text/plain; charset=utf-8", f"{text}\n".encode())
