"""One request to one server, which is neither trusted nor waited for longer than it was given."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit


class EndpointError(Exception):
    """A server did not answer, or not with what was asked for; the words hold nothing that it sent."""


def check_url(url: str) -> SplitResult:
    """Return the parts of an endpoint's address; ValueError unless it is https, or http on this machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected an address such as https://host/v1, found {url!r}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("expected an address without user, password, query and fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError(
            f"expected https for {parts.hostname}: pictures and the key would be readable on the way. http "
            f"is for servers on this machine"
        )
    return parts


def post_json(
    parts: SplitResult, path: str, data: Any, *, headers: Mapping[str, str], timeout: float, max_bytes: int
) -> Any:
    """Return the JSON that a server answers with; EndpointError for anything else.

    `timeout` seconds are for connecting, and again for all that follows, however slowly it comes; `max_bytes`
    are read at most. Redirects are not followed, for the pictures and the key are for this server alone.
    """
    assert parts.hostname is not None
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=ssl.create_default_context()
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    )
    late = threading.Event()
    timer: threading.Timer | None = None
    try:
        sent = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        body = json.dumps(data, allow_nan=False).encode()
        connection.connect()
        timer = threading.Timer(timeout, _cut, (connection.sock, late))
        timer.daemon = True
        timer.start()
        connection.request("POST", parts.path.rstrip("/") + path, body, sent)
        with connection.getresponse() as response:
            if response.status != HTTPStatus.OK:
                raise EndpointError(f"expected status 200, found {_status(response.status)}")
            found = response.read(max_bytes + 1)
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise EndpointError(f"no answer within {timeout:g} s") from None
        raise EndpointError(f"the connection to {parts.hostname} failed: {type(error).__name__}") from None
    finally:
        if timer is not None:
            timer.cancel()
        connection.close()
    if late.is_set():
        raise EndpointError(f"no answer within {timeout:g} s")
    if len(found) > max_bytes:
        raise EndpointError(f"expected an answer of at most {max_bytes} bytes, found more")
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        raise EndpointError("expected JSON, found something else") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _status(code: int) -> str:
    """Return a status by its number and its own phrase: a server's phrase may say anything."""
    try:
        status = HTTPStatus(code)
    except ValueError:
        return str(code)
    moved = ": give the address that it points to, redirects are not followed" if 300 <= code < 400 else ""
    return f"{code} ({status.phrase}){moved}"


def _cut(line: socket.socket, late: threading.Event) -> None:
    """End a connection under whoever reads from it."""
    late.set()
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        return
