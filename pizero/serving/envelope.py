"""pizero's own protocol on top of openpi's messages: names, codes and the comparison of contracts.

A client that offers the websocket subprotocol `pizero.v1` speaks it; one that offers none is openpi's. Every
frame is one message (`messages.py`), a map with a `type`:

    server → hello    what the server is: contract, model, limits
    client → open     protocol, the episode's seed, and what the client expects of the server
    server → opened   or an error INCOMPATIBLE with the differences, and the end
    client → act      seq, observation; perhaps age and deadline in seconds, continuation, num_steps, report
    server → chunk    seq, actions, timing in seconds by stage
    client → reset    seq, seed of the next episode
    server → reset    seq
    server → error    seq or nil, code, message

The client needs this file and Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROTOCOL = 1
SUBPROTOCOL = f"pizero.v{PROTOCOL}"
OTHER_VERSIONS = "pizero."
"""Subprotocols that begin so and are not ours are of other versions of this protocol."""

CODES = {
    "BAD_MESSAGE": "the bytes are no message, or not one that this protocol has",
    "BAD_IMAGE": "a camera is missing or unknown, or its picture is none",
    "BAD_STATE": "the state has the wrong length, or a number that is not finite or far out of range",
    "BAD_PROMPT": "the instruction is empty, too long or not text",
    "BAD_CONTINUATION": "what the chunk shall go on from is not usable, or the policy cannot do it",
    "BAD_STEPS": "the number of flow steps is out of range, or the policy has none",
    "INCOMPATIBLE": "client and server do not agree on protocol or contract",
    "DEADLINE": "the answer would come too late, so there is none",
    "SUPERSEDED": "a newer request of the same client took the place of this one",
    "STOP_REQUESTED": "the server's operator pressed stop",
    "SHUTTING_DOWN": "the server is going away",
    "BAD_OUTPUT": "the model's actions are not finite or of the wrong shape",
    "INTERNAL": "the server failed; its log says why",
}
"""What an error's code means."""


class ServerError(Exception):
    """An answer that is an error: its code, one of `CODES`, and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


def error(code: str, message: str, seq: int | None = None) -> dict[str, Any]:
    """Return the message that reports an error; `seq` is that of the request, if it could be read."""
    return {"type": "error", "seq": seq, "code": code, "message": message}


def disagreements(expected: Any, found: Any, where: str = "") -> list[str]:
    """Return one line for each value that is expected and is not what was found.

    Of a map only the keys that are expected count, so a client may expect little; lists are compared whole,
    item by item if they are of one length.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lines = []
        for key, value in expected.items():
            path = f"{where}.{key}" if where else str(key)
            lines += disagreements(value, found[key], path) if key in found else [f"{path}: expected, absent"]
        return lines
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(expected) != len(found):
            return [f"{where}: expected {len(expected)} entries, found {len(found)}"]
        return [
            line
            for index, value in enumerate(expected)
            for line in disagreements(value, found[index], f"{where}[{index}]")
        ]
    return [] if expected == found else [f"{where}: expected {_short(expected)}, found {_short(found)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
