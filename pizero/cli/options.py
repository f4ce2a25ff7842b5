"""What several verbs share: flags, and how a result is told."""

from __future__ import annotations

from typing import Annotated

import tyro

Json = Annotated[bool, tyro.conf.arg(name="json")]
"""A flag `--json`, whatever the parameter is called."""


def say(result: str, *, next_command: str = "") -> None:
    """Print what was done, and the command that a user would run next."""
    print(result)
    if next_command:
        print(f"next: {next_command}")
