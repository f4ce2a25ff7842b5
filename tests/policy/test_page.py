"""The page about driving robots: its program drives, its limits fit its robot, and its names are real."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pizero.embodiment import read_embodiment
from pizero.policy.controllers.controller import Kind
from pizero.policy.limits import read_limits
from pizero.types import ActionChunk, Continuation, Observation
from tests.policy.players import Scripted

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "robot-control.md").read_text(encoding="utf-8")


def block(text: str, language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found
    return found[0]


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, Path]:
    """Return the files of the arm of the other page, and of its limits on this one."""
    robot, limits = tmp_path / "my_arm.json", tmp_path / "limits.json"
    robot.write_text(
        block((DOCS / "adding-a-robot.md").read_text(encoding="utf-8"), "json"), encoding="utf-8"
    )
    limits.write_text(block(PAGE, "json"), encoding="utf-8")
    return robot, limits


def test_the_limits_of_the_page_are_those_of_its_robot(described: tuple[Path, Path]) -> None:
    robot, limits = described
    assert read_limits(limits, read_embodiment(robot)).dimensions[0].rate == 2.0


def test_the_program_of_the_page_drives_a_robot(described: tuple[Path, Path], tmp_path: Path) -> None:
    def act(observation: Observation, continuation: Continuation | None) -> ActionChunk:
        return observation.state + 0.001 * np.arange(1, 13, dtype=np.float32)[:, None]

    program = tmp_path / "my_robot.py"
    program.write_text(block(PAGE, "python"), encoding="utf-8")
    run = runpy.run_path(str(program))["run"]
    policy = Scripted(12, act, rate=10.0)
    record = run(policy, *described, seconds=1.5)
    assert [transition.state for transition in record.transitions][:2] == ["starting", "running"]
    assert policy.asked
    assert not any(answer.error for answer in record.answers)


def test_the_page_names_every_controller_and_says_what_a_guard_is_not() -> None:
    table = PAGE[PAGE.index("| controller |") : PAGE.index("The last four")]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(get_args(Kind))
    assert "does not replace the robot's emergency stop" in PAGE


def test_the_page_names_every_intervention_of_the_guard() -> None:
    folder = Path(__file__).parents[2] / "pizero" / "policy"
    texts = [
        (folder / f"{name}.py").read_text(encoding="utf-8") for name in ("guard", "freshness", "limiter")
    ]
    named = set(re.findall(r'f?"([a-z]+(?:-[a-z]+)+)[:"]', "\n".join(texts)))
    assert len(named) >= 8
    assert {name for name in named if name not in PAGE} == set()
