"""What can be wrong with a dataset, each under a code that the reader and `pizero doctor` share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

FaultCode = Literal[
    "not-a-dataset",
    "info-damaged",
    "version-unknown",
    "path-escapes",
    "tasks-missing",
    "tasks-damaged",
    "episodes-missing",
    "episodes-damaged",
    "data-missing",
    "data-damaged",
    "schema-drift",
    "column-missing",
    "count-mismatch",
    "timestamps-damaged",
    "rate-mismatch",
    "not-finite",
    "image-damaged",
    "video-missing",
    "video-damaged",
    "video-too-short",
]

FAULT_CODES: tuple[FaultCode, ...] = get_args(FaultCode)


class DatasetError(ValueError):
    """A dataset that cannot be read as it is; `place` is the file, and the message says what to do."""

    def __init__(self, code: FaultCode, place: Path, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code: FaultCode = code
        self.place, self.message = place, message

    def __reduce__(self) -> tuple[type[DatasetError], tuple[FaultCode, Path, str]]:
        return DatasetError, (self.code, self.place, self.message)
