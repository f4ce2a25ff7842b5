"""A server that behaves as openpi's does on the wire, written with websockets and msgpack alone."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
from websockets.sync.server import ServerConnection, serve


def plain(value: Any) -> Any:
    """Return an array as the map of bytes, dtype and shape that openpi sends."""
    return {
        b"__ndarray__": True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


def built(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return np.frombuffer(value[b"data"], value[b"dtype"]).reshape(value[b"shape"])
    return value


def packed(message: dict[str, Any]) -> bytes:
    data = msgpack.packb(message, default=plain)
    assert data is not None
    return data


@contextmanager
def openpi_server(
    infer: Callable[[dict[str, Any]], dict[str, Any]], metadata: dict[str, Any], *, port: int = 0
) -> Iterator[str]:
    """Serve a function: metadata, then one answer for each request; or a traceback as text, and the end."""

    def handle(connection: ServerConnection) -> None:
        connection.send(packed(metadata))
        for data in connection:
            try:
                answer = infer(msgpack.unpackb(data, object_hook=built, strict_map_key=False))
            except Exception:
                connection.send(traceback.format_exc())
                connection.close(1011, "Internal server error. Traceback included in previous frame.")
                return
            connection.send(packed(answer))

    with serve(handle, "127.0.0.1", port, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()
