"""How much a message may hold, counted before anything of it is built.

A few bytes of msgpack can announce a million keys or ten thousand levels; unpacking would make an object of
each. Counting first costs microseconds, for pictures are one item each.
"""

from __future__ import annotations

MAX_ITEMS = 4096
"""Values and keys of one message: a request has about fifty."""

MAX_DEPTH = 16
"""Maps and lists inside each other: a request has four."""

FIXED_BYTES = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0),  # nil, false, true
    **dict.fromkeys((0xCC, 0xD0), 1),  # numbers of 8, 16, 32 and 64 bits
    **dict.fromkeys((0xCD, 0xD1), 2),
    **dict.fromkeys((0xCE, 0xD2, 0xCA), 4),
    **dict.fromkeys((0xCF, 0xD3, 0xCB), 8),
    **{0xD4 + power: 1 + 2**power for power in range(5)},  # extensions: a byte of their type, and 1 to 16
}
"""Bytes that follow a first byte, for items of a known size (msgpack's specification)."""

SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
"""Bytes of the length that follows a first byte, for bytes, text and extensions."""

COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the count that follows a first byte, and how many items each entry has: lists one, maps two."""


def check_structure(data: bytes, *, max_items: int = MAX_ITEMS, max_depth: int = MAX_DEPTH) -> None:
    """Raise ValueError unless bytes are one msgpack message of at most so many items, so deeply nested.

    The time is bounded by `max_items`, whatever the bytes announce.
    """
    place, items, open_counts = 0, 0, [1]
    while open_counts:
        if open_counts[-1] == 0:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        items += 1
        if items > max_items:
            raise ValueError(f"expected at most {max_items} values in a message, found more")
        if place >= len(data):
            raise ValueError(f"the message ends after {len(data)} bytes, in the middle of something")
        place, inner = _after(data, place)
        if inner > max_items:
            raise ValueError(f"expected at most {max_items} values in a message, found {inner} announced")
        if inner:
            open_counts.append(inner)
            if len(open_counts) - 1 > max_depth:
                raise ValueError(f"expected at most {max_depth} levels in a message, found more")
    if place != len(data):
        raise ValueError(f"expected one message of {len(data)} bytes, found one of {place}")


def _after(data: bytes, place: int) -> tuple[int, int]:
    """Return the place after one item, and how many items lie inside of it."""
    first = data[place]
    place += 1
    if first <= 0x7F or first >= 0xE0:  # small whole numbers
        return place, 0
    if first <= 0x8F:
        return place, 2 * (first & 0x0F)
    if first <= 0x9F:
        return place, first & 0x0F
    if first <= 0xBF:
        return place + (first & 0x1F), 0
    if first in FIXED_BYTES:
        return place + FIXED_BYTES[first], 0
    if first in COUNTED:
        width, each = COUNTED[first]
        return place + width, each * int.from_bytes(data[place : place + width], "big")
    if first in SIZED:
        width = SIZED[first]
        length = int.from_bytes(data[place : place + width], "big")
        return place + width + length + (first in (0xC7, 0xC8, 0xC9)), 0
    raise ValueError(f"this is not a message: no value begins with the byte {first:#x}")
