"""Asks a server through openpi's own client; runs in an environment that has `openpi-client` and not pizero.

Reads requests from standard input, each a length of eight bytes and an `.npz` of that many, and writes the
answers' actions to standard output in the same way.
"""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker  # pyright: ignore[reportMissingImports]
from openpi_client.websocket_client_policy import (  # pyright: ignore[reportMissingImports]
    WebsocketClientPolicy,
)


def request_of(arrays: Any) -> dict[str, Any]:
    """Return a request with pictures, state and prompt; `seed` begins an episode."""
    names = [name for name in arrays.files if name.startswith("images/")]
    request = {
        "images": {name.split("/", 1)[1]: arrays[name] for name in names},
        "state": arrays["state"],
        "prompt": str(arrays["prompt"]),
    }
    if "seed" in arrays.files:
        request["seed"] = int(arrays["seed"])
    return request


def main() -> None:
    """Answer until the input ends; the arguments are host, port and how many actions of a chunk are used."""
    host, port, used = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    broker = ActionChunkBroker(WebsocketClientPolicy(host, port), used)
    while len(length := sys.stdin.buffer.read(8)) == 8:
        with np.load(io.BytesIO(sys.stdin.buffer.read(*struct.unpack("<Q", length)))) as arrays:
            action = np.ascontiguousarray(broker.infer(request_of(arrays))["actions"], dtype="<f4").tobytes()
        sys.stdout.buffer.write(struct.pack("<Q", len(action)) + action)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
