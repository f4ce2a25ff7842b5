"""What every kind of recording offers: episodes under keys, their contents, and the faults they may have."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pizero.data.lerobot_writer import Episode
from pizero.recordings.layouts import RecordingLayout


class RecordingError(ValueError):
    """An episode that cannot be read: the message names its file and key, and what is wrong with it."""


MAX_BYTES = 2**32
"""A field of one episode that would take more is taken for damaged before it is read."""


class LeftOutError(ValueError):
    """An episode that is whole and that the user's own rule leaves out; the message says which rule."""


def check_size(num_bytes: int, where: str) -> None:
    """Raise RecordingError if a field is larger than any episode's should be."""
    if num_bytes > MAX_BYTES:
        raise RecordingError(f"{where}: expected at most {MAX_BYTES} bytes an episode, found {num_bytes}")


@runtime_checkable
class RecordingSource(Protocol):
    """A set of recorded episodes; small, and the same in any process that it is sent to.

    Opening one raises ValueError if the set as a whole cannot be read. `content_hash` and `read` raise
    RecordingError for an episode that is damaged.
    """

    @property
    def layout(self) -> RecordingLayout:
        """Return which fields make state, action, pictures and instruction."""
        ...

    def episode_keys(self) -> list[str]:
        """Return the name of each episode, always in the same order; reads no episode."""
        ...

    def field_names(self) -> dict[str, str]:
        """Return what a recording has: each field with its type and shape in words."""
        ...

    def content_hash(self, key: str) -> str:
        """Return a sha256 in hexadecimal of what the episode consists of, without decoding a picture."""
        ...

    def read(self, key: str) -> Episode:
        """Return an episode; LeftOutError if a rule leaves it out. Pictures may be fetched one at a time."""
        ...
