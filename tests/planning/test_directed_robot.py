"""A planner beside the loop that drives a real robot, in virtual time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pizero.planning.asking import AskingInStep
from pizero.planning.following import Following, FollowingConfig
from pizero.policy.controllers.splicer import Splicer
from pizero.policy.executor import Executor
from pizero.policy.guard import Guard
from pizero.policy.limits import usual_limits
from pizero.policy.record import Record
from pizero.types import ActionChunk, Continuation, Observation
from tests.planning.test_following import Says
from tests.policy.players import ARM, Scripted, VirtualInference, VirtualRobot, VirtualTime

HORIZON, DELAY = 20, 2
SLIDES = {"left": -0.5, "right": 0.5}


def sliding(observation: Observation, continuation: Continuation | None) -> ActionChunk:
    """Slide to the side that the instruction names; the joint stays."""
    chunk = np.zeros((HORIZON, 3), dtype=np.float32)
    chunk[:, 0], chunk[:, 1] = observation.state[0], SLIDES[observation.instruction]
    return chunk


class Directed:
    """A robot whose own instruction says nothing, a policy that answers within two ticks, and a planner."""

    def __init__(self, *answers: Any, **config: float) -> None:
        self.time = VirtualTime()
        self.robot = VirtualRobot(self.time)
        inference = VirtualInference(self.time, Scripted(HORIZON, sliding), lambda number: 0.03)
        player = Splicer(horizon=HORIZON, action_dim=3, num_executed=7, expected_delay=DELAY, method="guided")
        self.director = Following(
            AskingInStep(Says(*answers)), goal="both sides", config=FollowingConfig(**config)
        )
        self.executor = Executor(
            self.robot,
            player,
            inference,
            Guard(ARM, usual_limits(ARM)),
            time=self.time,
            director=self.director,
        )

    def run(self, seconds: float) -> Record:
        return self.executor.run(seconds=seconds)

    def slides(self, since: float = 0.0) -> list[float]:
        return [float(action[1]) for moment, action in self.robot.told if moment >= since - 1e-9]


def test_another_instruction_takes_the_place_of_what_was_planned() -> None:
    """The planner is asked again after 1 s, at tick 50; two ticks are committed, then the other side."""
    directed = Directed("left", "right")
    record = directed.run(2.0)
    commands = [tick.command for tick in record.ticks]
    slides = [
        None if command is None or not tick.planned else float(command[1])
        for command, tick in zip(commands, record.ticks, strict=True)
    ]
    assert slides[DELAY : 50 + DELAY] == [-0.5] * 50
    assert slides[50 + DELAY :] == [0.5] * (50 - DELAY)
    assert [transition.state for transition in record.transitions] == ["starting", "running"]


def test_nothing_moves_before_the_planner_has_spoken() -> None:
    directed = Directed(TimeoutError(), "left")
    record = directed.run(1.5)
    assert not [moment for moment, _ in directed.robot.told if moment < 1.0]
    assert set(directed.slides()) == {-0.5}
    assert [transition.state for transition in record.transitions] == ["starting", "running"]


@pytest.mark.parametrize("answer", [None, TimeoutError()])
def test_a_robot_that_is_told_to_hold_stands_still_and_says_why(answer: Any) -> None:
    """At the goal, or without an answer for 2 s, a velocity is 0 in the same tick."""
    directed = Directed("left", answer, max_silence=2.0)
    record = directed.run(4.0)
    state, at = ("reached", 1.0) if answer is None else ("silent", 2.02)
    assert directed.director.state == state
    held = record.transitions[-1]
    assert (held.state, held.reason) == ("holding", f"{state}, nothing-planned")
    assert held.time == pytest.approx(at, abs=1e-6)
    assert set(directed.slides(since=at)) == {0.0}


def test_after_a_silence_the_robot_goes_on_from_where_it_stands() -> None:
    directed = Directed("left", *[TimeoutError()] * 3, "right", max_silence=2.0)
    record = directed.run(5.0)
    states = [transition.state for transition in record.transitions]
    assert states == ["starting", "running", "holding", "running"]
    assert record.transitions[-1].time == pytest.approx(4.0 + DELAY / ARM.rate, abs=1e-6)
    assert set(directed.slides(since=4.1)) == {0.5}


def test_an_episode_begins_with_a_fresh_plan() -> None:
    directed = Directed("left", "right")
    directed.run(1.5)
    first = len(directed.robot.told)
    directed.run(0.5)
    assert {float(action[1]) for _, action in directed.robot.told[first:]} == {-0.5}
