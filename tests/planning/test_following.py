"""Instructions change at boundaries, and nothing that a planner does reaches the control loop."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from pizero.planning.asking import AskingInStep
from pizero.planning.following import Following, FollowingConfig, FollowingController
from pizero.planning.planner import PlanFailedError, Situation
from pizero.planning.worker import AskingInThread
from pizero.policy.controllers.controller import ControllerConfig, make_player
from pizero.policy.controllers.simulated import SimulatedController
from pizero.robots import NAVIGATION2D
from pizero.types import ActionChunk, Continuation, Observation
from tests.examples import observation

SECONDS = 20.0
"""Long enough for any machine; nothing here takes as long unless it hangs."""

RATE = NAVIGATION2D.rate
NUMBERS = {"first": 0.25, "second": 0.5, "third": 0.75}


class Echo:
    """A policy whose actions tell under which instruction they were made: implements `Acting`."""

    horizon, rate = 8, RATE

    def reset(self, *, seed: int) -> None:
        self.asked: list[str] = []

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        self.asked.append(observation.instruction)
        chunk = np.full((self.horizon, 2), NUMBERS[observation.instruction], dtype=np.float32)
        if continuation is not None:
            chunk[: continuation.delay] = continuation.actions[: continuation.delay]
        return chunk


class Says:
    """A planner that answers from a list, one item a question; a function is called."""

    def __init__(self, *answers: str | BaseException | Callable[[], str | None] | None) -> None:
        self.answers = answers

    def reset(self) -> None:
        self.situations: list[Situation] = []

    def plan(self, situation: Situation) -> str | None:
        self.situations.append(situation)
        answer = self.answers[min(len(self.situations), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def follower(
    asking: AskingInStep | AskingInThread,
    clock: Callable[[], float],
    *,
    kind: str = "synchronous",
    latency: int = 0,
    **given: float,
) -> FollowingController:
    config = ControllerConfig(kind=kind, num_executed=2, delay=latency)  # type: ignore[arg-type]
    player = make_player(config, horizon=Echo.horizon, embodiment=NAVIGATION2D)
    controller = SimulatedController(player, Echo(), NAVIGATION2D, latency=latency)
    director = Following(asking, goal="a goal", config=FollowingConfig(**given))
    following = FollowingController(controller, director, NAVIGATION2D, clock=clock)
    following.reset(seed=0)
    return following


def run(following: FollowingController, clock: Clock, ticks: int) -> list[float]:
    """Step, one control period after the other, and return the first number of each action."""
    found = []
    for _ in range(ticks):
        found.append(float(following.step(lambda: replace(observation(), instruction="a goal"))[0]))
        clock.now = round(clock.now + 1 / RATE, 9)
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_instruction_that_changes_drops_what_was_planned(clock: Clock) -> None:
    """Chunks have 8 actions, the planner is asked after 10: without hand-over old plans last to tick 15."""
    following = follower(AskingInStep(Says("first", "second")), clock)
    assert run(following, clock, 14) == [0.25] * 10 + [0.5] * 4
    assert [(event.seconds, event.text) for event in following.director.timeline] == [
        (0.0, "first"),
        (1.0, "second"),
    ]


def test_an_instruction_that_stays_disturbs_nothing(clock: Clock) -> None:
    following = follower(AskingInStep(Says("first")), clock)
    run(following, clock, 31)
    assert following.controller.policy.asked == ["first"] * 4  # type: ignore[attr-defined]
    assert (following.director.num_answers, len(following.director.timeline)) == (4, 1)


@pytest.mark.parametrize("kind", ["naive", "guided"])
def test_what_is_committed_is_executed_before_the_new_instruction(clock: Clock, kind: str) -> None:
    """With answers two ticks late, the two actions after the change are of the old plan: never a gap."""
    following = follower(AskingInStep(Says("first", "second")), clock, kind=kind, latency=2)
    found = run(following, clock, 16)
    assert found[:2] == [0.0, 0.0]
    assert found[2:12] == [0.25] * 10
    assert found[12:] == [0.5] * 4


def test_a_planner_sees_the_goal_the_newest_observation_and_what_was_said(clock: Clock) -> None:
    planner = Says("first", "second", "second")
    following = follower(AskingInStep(planner), clock)
    run(following, clock, 21)
    last = planner.situations[-1]
    assert (last.goal, last.seconds, last.observation.instruction) == ("a goal", 2.0, "a goal")
    assert [(given.instruction, given.seconds) for given in last.history] == [("first", 0.0), ("second", 1.0)]


def test_an_answer_may_come_later_and_nothing_moves_before_the_first(clock: Clock) -> None:
    following = follower(AskingInStep(Says("first", "second"), latency=0.5), clock)
    found = run(following, clock, 18)
    assert found == [0.0] * 5 + [0.25] * 10 + [0.5] * 3
    assert following.director.num_held == 5


def test_an_answer_that_takes_longer_than_a_period_is_waited_for(clock: Clock) -> None:
    following = follower(AskingInStep(Says("first", "second"), latency=1.5), clock)
    assert run(following, clock, 33) == [0.0] * 15 + [0.25] * 15 + [0.5] * 3


def test_the_robot_stays_where_it_is_when_the_goal_is_reached(clock: Clock) -> None:
    following = follower(AskingInStep(Says("first", None, "second")), clock)
    assert run(following, clock, 40) == [0.25] * 10 + [0.0] * 30
    assert following.director.state == "reached"
    assert following.director.num_answers == 2, "nobody asks on"


def test_errors_are_counted_and_named_and_the_last_instruction_stays(clock: Clock) -> None:
    answers = ["first", OSError("cable\n\x1b[31m pulled " + "off " * 1000), TimeoutError(), "first"]
    following = follower(AskingInStep(Says(*answers)), clock)
    assert run(following, clock, 40) == [0.25] * 40
    assert following.director.errors == {"OSError": 1, "TimeoutError": 1}
    following = follower(AskingInStep(Says(*answers[:2])), clock)
    run(following, clock, 11)
    assert following.director.last_error.startswith("OSError: cable [31m pulled off off")
    assert len(following.director.last_error) < 250
    assert following.director.last_error.isprintable()


def test_a_silent_planner_makes_the_robot_hold_until_it_speaks_again(clock: Clock) -> None:
    answers = ["first", *[ValueError("no")] * 4, "first"]
    following = follower(AskingInStep(Says(*answers)), clock, max_silence=3.0)
    assert run(following, clock, 60) == [0.25] * 31 + [0.0] * 19 + [0.25] * 10
    assert [(event.seconds, event.state) for event in following.director.timeline] == [
        (0.0, "following"),
        (3.1, "silent"),
        (5.0, "following"),
    ]
    assert "no answer for 3 s; ValueError: no" in following.director.timeline[1].text
    assert following.director.num_stale == 10, "ticks at 2.1 to 3.0 s"


def test_a_planner_may_give_up(clock: Clock) -> None:
    following = follower(AskingInStep(Says("first", PlanFailedError("stuck"), "second")), clock)
    assert run(following, clock, 30) == [0.25] * 10 + [0.0] * 20
    assert following.director.state == "failed"
    assert following.director.timeline[-1].text == "PlanFailedError: stuck"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("answer", ["", "\x00\x07", "x" * 201, "x" * 10_000_000, 7, b"first"])
def test_what_is_no_instruction_is_an_error(clock: Clock, answer: str) -> None:
    following = follower(AskingInStep(Says("first", answer)), clock)
    assert run(following, clock, 12) == [0.25] * 12
    assert sum(following.director.errors.values()) == 1


def test_a_new_episode_starts_with_nothing(clock: Clock) -> None:
    following = follower(AskingInStep(Says("first", None)), clock)
    run(following, clock, 15)
    clock.now = 1_000.0
    following.reset(seed=1)
    assert run(following, clock, 3) == [0.25] * 3
    assert [event.seconds for event in following.director.timeline] == [0.0]


def test_a_silence_shorter_than_a_period_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a silence of no less, found 2\.0 s and 1\.0 s"):
        FollowingConfig(period=2.0, max_silence=1.0)


class Gate:
    """A planner that answers only when it is let."""

    def __init__(self) -> None:
        self.asked, self.let = threading.Semaphore(0), threading.Semaphore(0)
        self.answer: str | Exception | None = "first"

    def reset(self) -> None:
        """Nothing is kept."""

    def plan(self, situation: Situation) -> str | None:
        self.asked.release()
        assert self.let.acquire(timeout=SECONDS)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def asking(gate: Gate) -> Iterator[AskingInThread]:
    asking = AskingInThread(gate)
    yield asking
    for _ in range(10):
        gate.let.release()
    asking.close(timeout=SECONDS)
    assert not asking.thread.is_alive()


def answered(asking: AskingInThread, gate: Gate) -> None:
    """Let the planner answer, and wait until its answer is there."""
    gate.let.release()
    with asking.changed:
        assert asking.changed.wait_for(lambda: asking.answer is not None, timeout=SECONDS)


def test_a_slow_planner_delays_no_tick(clock: Clock, gate: Gate, asking: AskingInThread) -> None:
    """The planner answers only after the loop has made its ticks: a loop that waited would never end."""
    following = follower(asking, clock)
    assert run(following, clock, 3) == [0.0] * 3
    assert gate.asked.acquire(timeout=SECONDS)
    answered(asking, gate)
    assert run(following, clock, 8) == [0.25] * 8
    assert gate.asked.acquire(timeout=SECONDS), "asked again a second after the first question"
    gate.answer = "second"
    assert run(following, clock, 15) == [0.25] * 15
    assert not gate.asked.acquire(timeout=0.0), "one question at a time"
    answered(asking, gate)
    assert run(following, clock, 5) == [0.5] * 5


def test_a_planner_that_hangs_makes_the_robot_hold(clock: Clock, gate: Gate, asking: AskingInThread) -> None:
    following = follower(asking, clock, max_silence=2.0)
    run(following, clock, 1)
    answered(asking, gate)
    found = run(following, clock, 40)
    assert found[:20] == [0.25] * 20
    assert found[25:] == [0.0] * 15
    assert following.director.state == "silent"


def test_an_answer_to_the_last_episode_is_dropped(clock: Clock, gate: Gate, asking: AskingInThread) -> None:
    following = follower(asking, clock)
    run(following, clock, 1)
    assert gate.asked.acquire(timeout=SECONDS)
    following.reset(seed=1)
    run(following, clock, 1)
    gate.let.release()
    assert gate.asked.acquire(timeout=SECONDS), "the question of the new episode"
    assert run(following, clock, 3) == [0.0] * 3
    gate.answer = "second"
    answered(asking, gate)
    assert run(following, clock, 3) == [0.5] * 3
