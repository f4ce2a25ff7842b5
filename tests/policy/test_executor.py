"""F22 to F27 in the loop that drives a robot: stalls, slow starts, mixed answers, blind cameras, hogs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pizero.policy.controllers.chunks import ChunkPlayer
from pizero.policy.controllers.player import Player
from pizero.policy.controllers.splicer import Splicer
from pizero.policy.executor import Executor
from pizero.policy.guard import Guard
from pizero.policy.inference import InferenceThread
from pizero.policy.limits import DimensionLimits, Limits
from pizero.policy.record import Record
from pizero.policy.robot import Stamped
from pizero.policy.steps import StepChooser
from pizero.serving.client import StopRequestedError
from pizero.types import ActionChunk, Continuation, Observation
from tests.policy.players import ARM, Scripted, VirtualInference, VirtualRobot, VirtualTime, seen

HORIZON = 20
PERIOD = 1 / ARM.rate
SPEED = 1.0
"""Radians a second at which the fake policy walks."""

LIMITS = Limits(
    dimensions=(
        DimensionLimits(name="joint", low=-10.0, high=10.0, rate=1.5),
        DimensionLimits(name="slide", low=-1.0, high=1.0),
        DimensionLimits(name="gripper", low=0.0, high=1.0),
    ),
    max_age=0.15,
    max_frozen=5,
    max_wait=30.0,
)


def steady(observation: Observation, continuation: Continuation | None) -> ActionChunk:
    """Go on from where the robot is, or will be, at a steady speed."""
    start = float(observation.state[0])
    chunk = np.zeros((HORIZON, 3), dtype=np.float32)
    chunk[:, 0] = start + SPEED * PERIOD * (1 + np.arange(HORIZON))
    chunk[:, 1] = 0.5
    return chunk


class Stage:
    """A robot, a policy of some latency, and the executor between them, all in virtual time."""

    def __init__(
        self,
        latency: Callable[[int], float | Exception],
        *,
        player: Player | None = None,
        limits: Limits = LIMITS,
        together: bool = False,
        command_rate: float | None = None,
        policy: Scripted | None = None,
        **given: Any,
    ) -> None:
        self.time = VirtualTime()
        self.robot = VirtualRobot(self.time)
        self.policy = policy or Scripted(HORIZON, steady)
        self.inference = VirtualInference(self.time, self.policy, latency, together=together)
        self.player = player or Splicer(
            horizon=HORIZON, action_dim=3, num_executed=8, expected_delay=2, method="guided"
        )
        self.guard = Guard(ARM, limits, given.pop("on_violation", "clamp"), rate=command_rate)
        self.executor = Executor(
            self.robot,
            self.player,
            self.inference,
            self.guard,
            time=self.time,
            command_rate=command_rate,
            **given,
        )

    def run(self, seconds: float, **given: Any) -> Record:
        return self.executor.run(seconds=seconds, **given)


def states(record: Record) -> list[str]:
    return [transition.state for transition in record.transitions]


def largest_step(robot: VirtualRobot) -> float:
    return float(np.abs(np.diff(robot.joints, prepend=0.0)).max())


def stalling(seconds: float, *, at: int = 6) -> Callable[[int], float]:
    """Return latencies of 30 ms, but for one answer."""
    return lambda number: seconds if number == at else 0.03


@pytest.mark.parametrize(("stall", "holds"), [(0.1, False), (0.5, True), (5.0, True)])
def test_f22_a_server_that_stalls_makes_no_jump_and_the_robot_holds_at_the_horizon(
    stall: float, holds: bool
) -> None:
    stage = Stage(stalling(stall))
    record = stage.run(10.0)
    assert states(record) == ["starting", "running", *(["holding", "running"] if holds else [])]
    assert largest_step(stage.robot) <= 1.5 * PERIOD + 1e-6
    assert np.diff(stage.robot.joints).min() >= -1e-6
    late = next(answer for answer in record.answers if answer.seconds > 0.09)
    assert late.used == (not holds)
    if holds:
        down, up = record.transitions[2:4]
        assert down.reason == "nothing-planned"
        # Asked at row 8 of a chunk of 20, the robot has 12 actions left; the late answer is dropped, and the
        # chunk made from the standstill is there 30 ms later, at the second tick after.
        asked = down.tick - 12
        assert up.tick == asked + round(stall / PERIOD) + 2
        at_rest = [action for moment, action in stage.robot.told if down.time + 1e-9 < moment < up.time]
        assert all(action[1] == 0.0 for action in at_rest)
        assert len({float(action[0]) for action in at_rest}) == 1


def test_f22_packets_of_any_delay_within_a_tenth_of_a_second_leave_a_steady_walk() -> None:
    """Chunks of 20 bear delays of up to 10 ticks: 0 to 0.2 s come in time, and the walk is as steady as the
    policy's own, but for the first splice after a delay that was not expected.
    """
    rng = np.random.default_rng(0)
    delays = rng.uniform(0.0, 0.2, 1000)
    stage = Stage(lambda number: float(delays[number]))
    record = stage.run(8.0)
    assert largest_step(stage.robot) <= 1.5 * PERIOD + 1e-6
    assert states(record)[-1] == "running"
    assert sum(answer.used for answer in record.answers) >= 0.9 * len(record.answers)


def test_f22_a_server_that_is_gone_is_waited_for_and_then_the_robot_is_stopped() -> None:
    stage = Stage(
        lambda number: ConnectionError("gone") if number > 3 else 0.03, limits=replace(LIMITS, max_wait=2.0)
    )
    record = stage.run(10.0)
    assert states(record) == ["starting", "running", "holding", "stopped"]
    down, end = record.transitions[2:]
    assert end.time - down.time == pytest.approx(2.0, abs=2 * PERIOD)
    assert end.reason == "nothing-planned, waited-too-long"
    assert stage.robot.stops == 1
    assert {answer.error for answer in record.answers} == {"", "ConnectionError"}


def test_f23_a_first_answer_twenty_times_slower_skips_nothing() -> None:
    stage = Stage(lambda number: 0.6 if number == 0 else 0.03)
    record = stage.run(3.0)
    assert states(record) == ["starting", "running"]
    assert stage.robot.joints[0] == pytest.approx(SPEED * PERIOD, abs=1e-6)
    assert stage.robot.joints[:8] == pytest.approx(SPEED * PERIOD * (1 + np.arange(8)), abs=1e-5)
    assert {answer.estimate for answer in record.answers} == {2}
    assert all(answer.used for answer in record.answers)
    assert len([moment for moment in stage.robot.held if moment < 0.6]) == 30


def test_f24_answers_that_overtake_each_other_are_discarded() -> None:
    """A camera that drops out lets the robot forget its question; the old answer comes after the new one."""
    stage = Stage(lambda number: 0.4 if number == 4 else 0.03, together=True)

    def fault(stamped: Stamped) -> Stamped:
        if stage.inference.count == 5 and not faulty:
            faulty.append(stage.time.now())
        gone = bool(faulty) and stage.time.now() < faulty[0] + 0.05
        return replace(stamped, observation=replace(stamped.observation, images={})) if gone else stamped

    faulty: list[float] = []
    stage.robot.fault = fault
    record = stage.run(3.0)
    order = [answer.sequence for answer in record.answers]
    assert order != sorted(order)
    overtaken = [
        answer
        for answer, before in zip(list(record.answers)[1:], order, strict=False)
        if answer.sequence < before
    ]
    assert overtaken
    assert not any(answer.used for answer in overtaken)
    assert largest_step(stage.robot) <= 1.5 * PERIOD + 1e-6


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_f25_a_policy_that_goes_mad_does_not_reach_the_motor(number: float) -> None:
    def mad(observation: Observation, continuation: Continuation | None) -> ActionChunk:
        chunk = steady(observation, continuation)
        chunk[5:, 0] = number
        return chunk

    stage = Stage(lambda number: 0.03, policy=Scripted(HORIZON, mad), command_rate=500.0)
    record = stage.run(2.0)
    commands = np.stack([action for _, action in stage.robot.told])
    assert np.isfinite(commands).all()
    assert np.abs(np.diff(commands[:, 0])).max() <= 1.5 / 500 + 1e-6
    name = "position:joint" if number == 1e30 else "not-finite:joint"
    assert record.interventions[name] > 0


def test_f26_a_frozen_camera_holds_the_robot_and_a_live_one_lets_it_go_on_from_there() -> None:
    stage = Stage(lambda number: 0.03)

    def fault(stamped: Stamped) -> Stamped:
        still = 1.0 <= stage.time.now() < 2.0
        return (
            replace(stamped, observation=replace(stamped.observation, images=seen(7).images))
            if still
            else stamped
        )

    stage.robot.fault = fault
    record = stage.run(3.0)
    assert states(record) == ["starting", "running", "holding", "running"]
    down, up = record.transitions[2:]
    assert down.reason == "frozen-camera:top"
    assert down.time == pytest.approx(1.0 + 5 * PERIOD, abs=PERIOD + 1e-6)
    assert 2.0 <= up.time <= 2.0 + 4 * PERIOD
    assert largest_step(stage.robot) <= 1.5 * PERIOD + 1e-6
    still = [action[0] for moment, action in stage.robot.told if down.time <= moment < up.time]
    assert len(set(still)) == 1


def test_f26_a_robot_whose_driver_fails_is_held() -> None:
    stage = Stage(lambda number: 0.03)

    def fault(stamped: Stamped) -> Stamped:
        if 1.0 <= stage.time.now() < 2.0:
            raise OSError("no data from the camera")
        return stamped

    stage.robot.fault = fault
    record = stage.run(3.0)
    assert states(record) == ["starting", "running", "holding", "running"]
    assert record.transitions[2].reason == "stale-observation"
    assert record.interventions["observing-failed:OSError"] == 50


def test_f27_a_hog_is_counted_and_no_action_is_skipped_or_hurried() -> None:
    stage = Stage(lambda number: 0.03)

    def fault(stamped: Stamped) -> Stamped:
        stage.robot.work = 0.065 if stage.robot.looks % 50 == 20 else 0.0
        return stamped

    stage.robot.fault = fault
    record = stage.run(10.0)
    hogs = sum(tick.seconds["observe"] > 0.06 for tick in list(record.ticks)[:-1])
    assert hogs > 5
    assert record.skipped_ticks == sum(tick.skipped for tick in record.ticks) == 3 * hogs
    moments = np.array([moment for moment, _ in stage.robot.told])
    assert np.diff(moments).min() >= PERIOD / 2 - 1e-9
    assert np.diff(stage.robot.joints).max() <= 1.5 * PERIOD + 1e-6
    assert states(record) == ["starting", "running"]


def test_fifty_actions_a_second_become_five_hundred_smooth_commands() -> None:
    stage = Stage(lambda number: 0.03, command_rate=500.0)
    record = stage.run(2.0)
    moments = np.array([moment for moment, _ in stage.robot.told])
    assert np.diff(moments) == pytest.approx(0.002, abs=1e-9)
    steps = np.diff(stage.robot.joints)
    moving = stage.robot.joints[:-1] > 0.5
    assert steps[moving] == pytest.approx(SPEED / 500, abs=1e-5)
    assert record.interventions == {}
    with pytest.raises(ValueError, match="expected a whole number of commands for each of 50 actions"):
        Stage(lambda number: 0.03, command_rate=120.0)


def test_an_operator_s_stop_stops_the_robot_and_other_errors_do_not() -> None:
    stage = Stage(
        lambda number: {2: ValueError("strange"), 5: StopRequestedError("stop")}.get(number, 0.03),
    )
    record = stage.run(10.0)
    assert states(record) == ["starting", "running", "stopped"]
    assert record.transitions[-1].reason == "stopped-by:StopRequestedError"
    assert stage.robot.stops == 1
    assert stage.inference.closed


def test_a_run_ends_by_holding_and_an_exception_by_stopping() -> None:
    stage = Stage(lambda number: 0.03)
    stage.run(1.0)
    assert stage.robot.held[-1] == pytest.approx(1.0, abs=PERIOD)
    assert stage.robot.stops == 0
    assert len(stage.robot.told) == 48

    def interrupt(mapping: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    broken = Stage(lambda number: 0.03, report=interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run(1.0)
    assert broken.robot.stops == 1


def test_reports_have_a_row_for_each_tick_and_come_before_each_question() -> None:
    """So a server that gets a report with a question knows for which tick its answer begins."""
    found: list[Mapping[str, Any]] = []
    stage = Stage(stalling(1.5), report=found.append)
    before: list[tuple[int, int]] = []
    ask = stage.inference.ask

    def asked(question: Any) -> None:
        before.append((found[-1]["tick"] if found else -1, stage.executor.tick_now))
        ask(question)

    stage.inference.ask = asked
    record = stage.run(6.0)
    assert "holding" in states(record)
    assert len(before) > 5
    assert all(told == tick - 1 for told, tick in before)

    rows = np.concatenate([report["executed"] for report in found])
    ends = np.cumsum([len(report["executed"]) for report in found])
    assert [report["tick"] for report in found] == list(ends - 1)
    assert len(rows) == len(record.ticks)
    done = ~np.isnan(rows).any(axis=1)
    np.testing.assert_array_equal(rows[done], np.stack([action for _, action in stage.robot.told]))
    first = next(tick.index for tick in record.ticks if tick.state == "running")
    assert not done[:first].any()
    assert done[first:].all()  # to hold is a command, too
    assert found[-1]["guard"]["state"] == "running"


def test_replanning_asks_at_once() -> None:
    stage = Stage(lambda number: 0.03)
    executor = stage.executor

    def until() -> bool:
        if stage.robot.looks == 25:
            executor.replan()
        return False

    stage.run(2.0, until=until)
    told = [asked for asked in stage.policy.asked if asked is not None]
    assert min(len(asked.actions) for asked in told) == 2


def test_flow_steps_are_few_when_late_and_many_when_there_is_time() -> None:
    """A step takes 20 ms: 5 of them fit into the 0.24 s that 12 planned actions last, 20 do not."""
    stage = Stage(lambda number: 0.02 * (stage.policy.steps[-1] or 0) if stage.policy.steps else 0.1)
    chooser = StepChooser((1, 5, 20))
    stage.executor.steps = chooser
    seconds: dict[int, float] = {1: 0.02, 5: 0.1, 20: 0.4}
    stage.inference.latency = lambda number: seconds[asked[-1]]
    asked: list[int] = []
    choose = chooser.choose
    chooser.choose = lambda budget: asked.append(choose(budget)) or asked[-1]  # type: ignore[method-assign]
    record = stage.run(8.0)
    assert set(asked[5:]) <= {1, 5}
    assert asked[5:].count(5) > 0.8 * len(asked[5:])
    assert states(record)[-1] == "running"


def test_a_thread_answers_and_the_newest_question_counts() -> None:
    """Everything with real threads and the real clock: what comes out, not when."""
    policy = Scripted(HORIZON, steady)
    time = VirtualTime()
    robot = VirtualRobot(time)
    inference = InferenceThread(policy)
    player = ChunkPlayer(horizon=HORIZON, num_executed=10)
    executor = Executor(robot, player, inference, Guard(ARM, replace(LIMITS, max_age=1e9)))
    record = executor.run(seconds=60.0, until=lambda: len(robot.told) >= 30)
    assert states(record)[:2] == ["starting", "running"]
    assert {answer.error for answer in record.answers} == {""}
    inference.thread.join(timeout=60)
    assert not inference.thread.is_alive()
