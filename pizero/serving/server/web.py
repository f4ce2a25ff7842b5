"""What the port answers to plain HTTP, and who may open a websocket on it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pizero.serving.envelope import OTHER_VERSIONS, SUBPROTOCOL
from pizero.serving.server.authentication import may_enter
from pizero.serving.server.dashboard import LIVE, Dashboard
from pizero.serving.server.sessions import House

TEXT = "text/plain; charset=utf-8"


def answer(
    connection: ServerConnection, request: Request, house: House, dashboard: Dashboard | None, trouble: str
) -> Response | None:
    """Return the answer to a request; None if it may open a websocket.

    `trouble` says why the server is not ready, or nothing. Health and readiness are for everybody and tell
    nothing else; figures and websockets need the token.
    """
    path = request.path.partition("?")[0]
    if path == "/healthz":
        return respond(HTTPStatus.OK, b"OK\n")
    if path == "/readyz":
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        return respond(status, f"{trouble or 'ready'}\n".encode())
    authorization = request.headers.get_all("Authorization")
    sent = _as_bearer(authorization[0]) if len(authorization) == 1 else ""
    known = may_enter(house.settings.token, sent)
    if dashboard is not None:
        page = dashboard.page(request.path, request.headers)
        if not known and (path == LIVE or (page is not None and page.status == HTTPStatus.OK)):
            house.metrics.refused("token")
            return _unauthorized('Basic realm="pizero: any name, the token as password"')
        if page is not None:
            return Response(page.status, HTTPStatus(page.status).phrase, Headers(page.headers), page.body)
        if path == LIVE:
            return None
    if path not in ("/", "/metrics"):
        house.metrics.refused("path")
        return respond(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
    if not known:
        house.metrics.refused("token")
        return _unauthorized("Bearer")
    if path == "/metrics":
        return respond(HTTPStatus.OK, house.metrics.page(), house.metrics.content_type)
    if "Origin" in request.headers:
        house.metrics.refused("origin")
        return respond(HTTPStatus.FORBIDDEN, b"web pages may not drive robots\n")
    return None


def _as_bearer(authorization: str) -> str:
    """Return an `Authorization` header; that of a browser, whose user gave the token as password, as others
    send it.
    """
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        return "Bearer " + base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def _unauthorized(challenge: str) -> Response:
    response = respond(HTTPStatus.UNAUTHORIZED, b"a token is needed\n")
    response.headers["WWW-Authenticate"] = challenge
    return response


def respond(status: HTTPStatus, body: bytes, content_type: str = TEXT) -> Response:
    """Return an answer after which the connection ends."""
    headers = Headers({"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)


def choose_protocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Return our protocol if a client offers it, none for openpi's; refuse other versions of ours."""
    if SUBPROTOCOL in offered:
        return Subprotocol(SUBPROTOCOL)
    if any(name.startswith(OTHER_VERSIONS) for name in offered):
        raise NegotiationError(f"this server speaks {SUBPROTOCOL}, the client {', '.join(offered)}"[:200])
    return None
