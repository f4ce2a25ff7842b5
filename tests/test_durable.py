"""What a power cut cannot take: the order of what is asked of the disk, as the system sees it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pizero.durable import publish


def test_bytes_and_names_are_on_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, target = tmp_path / "step.partial", tmp_path / "step"
    (partial / "inner").mkdir(parents=True)
    for name in ("weights", "inner/note"):
        (partial / name).write_bytes(b"1234")
    numbers = {path.stat().st_ino: path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    numbers[tmp_path.stat().st_ino] = "."
    asked: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        found = os.fstat(descriptor)
        assert stat.S_ISDIR(found.st_mode) or found.st_size == 4
        asked.append(numbers[found.st_ino])
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        asked.append(f"{Path(old).name} → {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    publish(partial, target)
    place = asked.index("step.partial → step")
    assert set(asked[:place]) == {
        "step.partial/inner/note",
        "step.partial/weights",
        "step.partial/inner",
        "step.partial",
    }
    assert asked[place + 1 :] == ["."]
    assert (target / "inner" / "note").read_bytes() == b"1234"
    assert not partial.exists()
