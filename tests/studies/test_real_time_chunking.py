"""The study of real-time chunking measures what it says: by hand, on commands that were made up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pizero.records import differences, to_data
from pizero.robots import METAWORLD
from studies.real_time_chunking import Outcome, config_of, draw, motion, read_outcomes, summary


def test_changes_at_seams_and_inside_and_the_jerk() -> None:
    """A range is 2 wide, -1 to 1; what is beyond it is not executed, and the gripper does not count."""
    x = np.array([0.0, 0.0, 1.0, 1.0, 5.0, -1.0])
    commands = np.stack([x, 0 * x, 0 * x, np.tile([-1.0, 1.0], 3)], axis=1).astype(np.float32)
    seams, inside, jerk = motion(commands, np.array([0, 1, 1, 2, 2, 3]), METAWORLD)
    steps = np.array([0.0, 0.5, 0.0, 0.0, -1.0])
    one_of_three = np.abs(steps) / np.sqrt(3)
    np.testing.assert_allclose(seams, one_of_three[[2, 4]], atol=1e-6)
    np.testing.assert_allclose(inside, one_of_three[[1, 3]], atol=1e-6)
    assert jerk == pytest.approx(np.mean(np.diff(steps) ** 2) / 3)


def outcomes() -> list[Outcome]:
    def one(task: str, index: int, success: bool, steps: int) -> Outcome:
        given = {"seams": (0.1, 0.3), "inside": (), "jerk": 0.01 * index}
        return Outcome(task=task, index=index, success=success, steps=steps, held=steps // 2, **given)

    return [one("reach", 0, True, 20), one("reach", 1, False, 100), one("door-open", 0, True, 40)]


def test_a_summary_counts() -> None:
    found = summary(outcomes())
    assert found["success"] == pytest.approx(2 / 3)
    assert found["median_steps"] == 40
    assert found["held_share"] == pytest.approx(0.5)
    assert found["tasks"] == {"reach": 0.5, "door-open": 1.0}
    assert found["seam"]["mean"] == pytest.approx(0.2)
    assert found["inside"] is None
    low, high = found["interval"]
    assert low < 2 / 3 < high


def test_a_cut_off_log_loses_its_last_line_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(asdict(row)) + "\n" for row in outcomes())[:-9])
    assert read_outcomes(log) == outcomes()[:2]
    assert read_outcomes(tmp_path / "none.jsonl") == []


def test_policies_from_scratch_differ_in_the_delay_alone() -> None:
    plain, trained = config_of("plain", 7), config_of("scratch", 7)
    assert differences(to_data(plain), to_data(trained)) == ["model.max_delay: 0 ≠ 10"]


def test_every_way_is_drawn() -> None:
    rows = {0: summary(outcomes()), 4: summary(outcomes()[:1])}
    figure = draw({"naive": rows, "guided": rows}, [0, 4])
    assert [len(ax.lines) for ax in figure.axes] == [6, 2, 6, 6]
