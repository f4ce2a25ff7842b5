"""Folders that survive a power cut: on disk before they have their name."""

from __future__ import annotations

import os
from pathlib import Path


def publish(partial: Path, target: Path) -> None:
    """Give a finished folder its name, once every file in it is on disk; then the name is on disk too.

    A crash leaves `partial`, or `target` with all its bytes. OSError if the disk cannot keep them.
    """
    for path in [*sorted(partial.rglob("*")), partial]:
        _flush(path)
    partial.rename(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Return when a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
