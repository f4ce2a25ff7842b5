"""The control report: figures that are known beforehand, a page that is whole, a command that runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pizero.cli.bench import bench_control
from pizero.diagnose.control.measure import drift_of, measure
from pizero.diagnose.control.page import control_page
from pizero.diagnose.control.stand_ins import SimulatedRobot, SwingingPolicy
from pizero.policy.record import AnswerRecord, Record, TickRecord, Transition
from pizero.policy.robot import Robot
from pizero.robots import CATALOG, METAWORLD
from tests.pages import PageChecker
from tests.policy.players import ARM

PERIOD = 1 / ARM.rate


def tick(index: int, **given: object) -> TickRecord:
    """Return a tick on time whose joint is told its own number of hundredths."""
    command = np.array([index / 100, 0.1, 0.5], dtype=np.float32)
    usual: dict[str, object] = {
        "index": index,
        "deadline": index * PERIOD,
        "began": index * PERIOD,
        "skipped": 0,
        "state": "running",
        "command": command,
        "planned": True,
        "source": 1 + index // 10,
        "age": 0.1,
        "interventions": (),
        "seconds": {"observe": 0.001, "plan": 0.0001, "guard": 0.0002, "tell": 0.0001},
    }
    return TickRecord(**(usual | given))  # type: ignore[arg-type]


def answer(sequence: int, *, delay: int, estimate: int, used: bool = True, error: str = "") -> AnswerRecord:
    return AnswerRecord(
        sequence=sequence,
        tick=10 * sequence,
        waited=0.001,
        seconds=delay * PERIOD,
        num_steps=None,
        delay=None if error else delay,
        estimate=None if error else estimate,
        used=used,
        continued=True,
        error=error,
        stages={} if error else {"infer": 0.03},
    )


def record_of(ticks: list[TickRecord], answers: tuple[AnswerRecord, ...] = ()) -> Record:
    record = Record(transitions=[Transition(tick=0, time=0.0, state="starting", reason="")])
    record.ticks.extend(ticks)
    record.answers.extend(answers)
    return record


def test_a_perfect_run_has_perfect_figures() -> None:
    found = measure(record_of([tick(index) for index in range(100)]), ARM)
    assert (found.missed, found.longest_miss, found.skipped, found.held) == (0, 0, 0, 0)
    assert found.drift == pytest.approx(0.0, abs=1e-9)
    assert found.period.p50 == found.period.max == pytest.approx(20.0)
    assert found.stages["observe"].p99 == pytest.approx(1.0)
    joint, slide, _ = found.joints
    assert joint.splice == joint.within == pytest.approx(0.01, abs=1e-6)
    assert joint.jerk_max == pytest.approx(0.0, abs=0.1)
    assert (slide.splice, slide.jerk_rms) == (0.0, 0.0)


def test_a_loop_that_sleeps_a_period_after_its_work_drifts_by_its_work() -> None:
    """A millisecond of work a tick: after 100 ticks the clock is 100 ms late; medians of tenths say 90."""
    lateness = 0.001 * np.arange(100)
    assert drift_of(lateness) == pytest.approx(0.090)
    found = measure(record_of([tick(i, began=i * (PERIOD + 0.001)) for i in range(100)]), ARM)
    assert found.drift == pytest.approx(90.0)
    assert found.period.p50 == pytest.approx(21.0)


def test_missed_deadlines_and_their_longest_run_are_counted() -> None:
    """Three ticks late by 3 ms in a row, one by 1 ms, which is no miss, and two left out before tick 53."""
    ticks = [tick(i) for i in range(51)] + [tick(i) for i in range(53, 60)]
    late = {10: 0.003, 11: 0.003, 12: 0.003, 30: 0.001}
    ticks = [tick(t.index, began=t.deadline + late.get(t.index, 0.0)) for t in ticks[:51]] + [
        tick(53, skipped=2),
        *ticks[52:],
    ]
    found = measure(record_of(ticks), ARM)
    assert (found.missed, found.longest_miss, found.skipped) == (5, 3, 2)


def test_waits_are_counted_after_the_first_action_alone() -> None:
    ticks = [tick(i, planned=3 <= i < 20 or 24 <= i < 40) for i in range(42)]
    found = measure(record_of(ticks), ARM)
    assert (found.held, found.longest_hold) == (4 + 2, pytest.approx(80.0))


def test_a_seam_and_its_jerk_are_found_where_they_are() -> None:
    """At tick 50, where another chunk begins, the joint jumps by 0.5: third differences of ±0.5 and 1."""
    ticks = []
    for i in range(100):
        command = np.array([i / 100 + 0.5 * (i >= 50), 0.1 + 0.2 * (i >= 55), 0.5], dtype=np.float32)
        ticks.append(tick(i, command=command))
    joint, slide, _ = measure(record_of(ticks), ARM).joints
    assert joint.splice == pytest.approx(0.51, abs=1e-5)
    assert joint.within == pytest.approx(0.01, abs=1e-5)
    assert joint.jerk_max == pytest.approx(1.0 * ARM.rate**3, rel=1e-3)
    assert (slide.splice, slide.within) == (0.0, pytest.approx(0.2, abs=1e-6))
    assert slide.jerk_max == pytest.approx(0.2 * ARM.rate**2, rel=1e-3)


def test_delays_are_set_against_what_was_expected() -> None:
    answers = (
        answer(1, delay=40, estimate=1),
        answer(2, delay=3, estimate=2),
        answer(3, delay=3, estimate=3),
        answer(4, delay=9, estimate=3, used=False),
        answer(5, delay=0, estimate=0, error="ServerError"),
    )
    found = measure(record_of([tick(i) for i in range(60)], answers), ARM)
    assert found.delay is not None
    assert (found.delay.p50, found.delay.max) == (3, 9)
    assert (found.underestimated, found.used, found.dropped) == (2, 3, 1)
    assert found.errors == {"ServerError": 1}
    waiting = tuple(replace(one, estimate=None) for one in answers[:4])
    found_waiting = measure(record_of([tick(i) for i in range(60)], waiting), ARM)
    assert (found_waiting.estimate, found_waiting.underestimated) == (None, 0)
    assert found_waiting.delay == found.delay
    assert found.first_answer == pytest.approx(800.0)
    assert found.stages["server: infer"].p50 == pytest.approx(30.0)


def test_the_page_is_whole_and_says_what_was_measured() -> None:
    answers = (answer(1, delay=3, estimate=1), answer(2, delay=3, estimate=2), answer(3, delay=3, estimate=3))
    record = record_of([tick(i) for i in range(60)], answers)
    record.interventions["rate:<joint>"] = 7
    page = control_page("control of <b>", {"policy": "swings"}, measure(record, ARM), record, ARM)
    checker = PageChecker()
    checker.feed(page)
    assert checker.open == []
    assert checker.sources == []
    for text in ("+0.00 ms", "control of <b>", "rate:<joint>", "Where chunks meet", "3 as a rule, 3 at most"):
        assert text in checker.text


def test_a_run_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a run of at least 3 control ticks, found 2"):
        measure(record_of([tick(0), tick(1)]), ARM)


@pytest.mark.parametrize("robot", CATALOG.values(), ids=list(CATALOG))
def test_every_robot_of_the_catalog_can_be_driven_without_motors(robot) -> None:
    body, policy = SimulatedRobot(robot), SwingingPolicy(robot, horizon=5)
    assert isinstance(body, Robot)
    first = body.observe()
    assert [(name, picture.shape[:2]) for name, picture in first.observation.images.items()] == [
        (camera.name, (camera.height, camera.width)) for camera in robot.cameras
    ]
    chunk = policy.act(first.observation)
    low = np.array([dimension.low for dimension in robot.actions], dtype=np.float32)
    high = np.array([dimension.high for dimension in robot.actions], dtype=np.float32)
    assert ((chunk >= low) & (chunk <= high)).all()
    body.command(chunk[0])
    body.moved_at -= 1.0
    again = body.observe()
    assert again.time >= first.time
    for name, picture in again.observation.images.items():
        assert not np.array_equal(picture, first.observation.images[name])


def test_the_command_drives_and_writes_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In real time for a second; nothing is asserted of how well time was kept."""
    bench_control(robot="metaworld", output=tmp_path, seconds=1.0, latency=60.0, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "control.json").read_text(encoding="utf-8")) == data
    assert data["ticks"] + data["skipped"] <= 1 + METAWORLD.rate
    assert data["errors"] == {}
    assert (tmp_path / "control.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    bench_control(robot="metaworld", output=tmp_path, seconds=0.5, limits=tmp_path / "limits.json")
    assert "drift" in capsys.readouterr().out


def test_a_wish_that_cannot_be_met_is_refused_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 30 ≤ 30 ≤ 20"):
        bench_control(output=tmp_path / "never", delay=30)
    with pytest.raises(ValueError, match="expected a policy folder or a server, found both"):
        bench_control(tmp_path, server="ws://127.0.0.1:1")
    assert not (tmp_path / "never").exists()
