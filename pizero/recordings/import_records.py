"""What an import remembers: how it was done, and where each episode came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pizero.recordings.layouts import RecordingLayout

NAMED = 5
"""So many episodes a sentence names."""

Fate = Literal["imported", "unchanged", "changed", "damaged", "left out"]


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """What decides about the bytes of a dataset, apart from the recordings."""

    format: str
    layout: RecordingLayout
    options: dict[str, Any]
    dataset: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """Where an episode came from: its key and the sha256 of its content; `fault` says why it is not there."""

    key: str
    content_hash: str
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """What `meta/import.json` says: the episodes in the dataset's order, and what is not in it and why."""

    plan: ImportPlan
    episodes: tuple[EpisodeRecord, ...]
    damaged: tuple[EpisodeRecord, ...] = ()
    left_out: tuple[EpisodeRecord, ...] = ()

    @property
    def all_episodes(self) -> tuple[EpisodeRecord, ...]:
        """Return every episode that the source had."""
        return (*self.episodes, *self.damaged, *self.left_out)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an episode; `fault` says why it is not there."""

    key: str
    fate: Fate
    content_hash: str = ""
    fault: str = ""

    @property
    def record(self) -> EpisodeRecord:
        """Return what is kept of it."""
        return EpisodeRecord(key=self.key, content_hash=self.content_hash, fault=self.fault)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a source differs from what was imported from it: keys of episodes."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = (("new", self.new), ("changed", self.changed), ("no longer there", self.gone))
        return "; ".join(f"{count_of(keys)} {what}: {some(keys)}" for what, keys in named if keys)


def count_of(keys: Sequence[str]) -> str:
    """Return `1 episode` or `3 episodes`."""
    return f"{len(keys)} episode{'' if len(keys) == 1 else 's'}"


def some(keys: Sequence[str], separator: str = ", ") -> str:
    """Return the first few."""
    more = f"{separator}… {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return separator.join(keys[:NAMED]) + more
