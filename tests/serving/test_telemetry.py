"""What a server remembers of its clients: all of it bounded, and a stop that holds."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pizero.serving.server.telemetry import (
    FORGET_AFTER,
    MAX_ANSWERS,
    MAX_CHUNKS,
    MAX_CLIENTS,
    MAX_EXECUTED,
    MAX_NAMES,
    MAX_TIMELINE,
    Telemetry,
    percentiles,
)
from tests.examples import observation

CHUNK = np.arange(6, dtype=np.float32).reshape(3, 2)
SECONDS = {"queue": 0.001, "infer": 0.02}


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def report(tick: int, executed: np.ndarray, **other: Any) -> dict[str, Any]:
    guard = {"state": "running", "interventions": {"rate limit of dx": 2}}
    return {"tick": tick, "executed": executed, "guard": guard, "late_ticks": 1, **other}


def rows(*numbers: float) -> np.ndarray:
    return np.array([[number, -number] for number in numbers], dtype=np.float32)


def seen_by(telemetry: Telemetry, client: str) -> dict[str, Any]:
    (found,) = [one for one in telemetry.snapshot()["clients"] if one["name"] == client]
    return found


def test_a_client_is_shown_with_what_it_asked_and_was_answered() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    asked = observation()
    telemetry.observed("arm", asked)
    telemetry.answered("arm", CHUNK, SECONDS)
    clock.now += 2.0
    seen = telemetry.snapshot(watched="arm")
    (short,), watched = seen["clients"], seen["watched"]
    assert short["name"] == "arm"
    assert (short["heard"], short["answers"], short["left"]) == (2.0, 1, None)
    assert short["instruction"] == "go to the red disc"
    assert short["typical"] == pytest.approx(0.021)
    assert np.allclose(watched["state"], asked.state, rtol=1e-5)
    assert watched["chunks"] == [{"tick": 0, "actions": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]}]
    assert watched["seconds"] == [SECONDS]
    assert telemetry.latest("arm") == (1, asked)
    telemetry.left("arm")
    clock.now += 3.0
    assert seen_by(telemetry, "arm")["left"] == 3.0


def test_executed_actions_stand_at_the_ticks_that_they_were_for() -> None:
    telemetry = Telemetry(clock=Clock())
    telemetry.reported("arm", report(1, rows(0.0, 1.0)))
    telemetry.answered("arm", CHUNK, SECONDS)
    telemetry.reported("arm", report(4, rows(2.0, 3.0, 4.0)))
    telemetry.reported("arm", report(4, rows(2.0, 3.0, 4.0)))  # sent again after a lost connection
    watched = telemetry.snapshot(watched="arm")["watched"]
    assert watched["executed"]["ticks"] == [0, 1, 2, 3, 4]
    assert watched["executed"]["actions"] == [[float(tick), -float(tick)] for tick in range(5)]
    assert watched["chunks"][0]["tick"] == 2
    short = seen_by(telemetry, "arm")
    assert (short["tick"], short["late_ticks"]) == (4, 1)
    assert short["guard"] == {"state": "running", "interventions": {"rate limit of dx": 2}}


def test_a_tick_that_runs_back_begins_a_new_episode() -> None:
    telemetry = Telemetry(clock=Clock())
    telemetry.reported("arm", report(9, rows(7.0, 8.0)))
    telemetry.answered("arm", CHUNK, SECONDS)
    telemetry.reported("arm", report(0, rows(0.5)))
    watched = telemetry.snapshot(watched="arm")["watched"]
    assert watched["executed"]["ticks"] == [0]
    assert watched["chunks"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"tick": None},
        {"tick": -1},
        {"tick": True},
        {"tick": 2**60},
        {"executed": "all"},
        {"executed": np.zeros(3)},
        {"guard": []},
        {"guard": {"state": "flying"}},
        {"guard": {"state": ["running"]}},
        {"guard": {"state": "running", "interventions": {"limit": "many"}}},
        {"guard": {"state": "running", "interventions": {3: 3}}},
        {"late_ticks": 0.5},
    ],
)
def test_what_is_no_report_is_refused(wrong: dict[str, Any]) -> None:
    telemetry = Telemetry(clock=Clock())
    with pytest.raises(ValueError, match="expected a report"):
        telemetry.reported("arm", {**report(3, rows(0.0)), **wrong})
    assert telemetry.snapshot()["clients"] == []


def test_a_stop_holds_until_it_is_taken_back() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    for name in ("left", "right"):
        telemetry.observed(name, observation())
    telemetry.request_stop("left")
    clock.now += 1.0
    assert (seen_by(telemetry, "left")["stopped"], seen_by(telemetry, "left")["told"]) == (1.0, None)
    assert telemetry.stop_requested("left")
    assert not telemetry.stop_requested("right")
    clock.now += 1.0
    assert (seen_by(telemetry, "left")["stopped"], seen_by(telemetry, "left")["told"]) == (2.0, 1.0)
    telemetry.left("left")
    clock.now += 2 * FORGET_AFTER
    telemetry.snapshot()
    telemetry.observed("left", observation())
    assert telemetry.stop_requested("left")  # who comes back is still stopped
    telemetry.allow("left")
    assert not telemetry.stop_requested("left")
    assert seen_by(telemetry, "left")["told"] is None


def test_a_stop_of_all_holds_for_those_who_come_later() -> None:
    telemetry = Telemetry(clock=Clock())
    telemetry.observed("early", observation())
    telemetry.request_stop(None)
    telemetry.request_stop("early")
    assert telemetry.stop_requested("early")
    assert telemetry.stop_requested("late")
    telemetry.observed("late", observation())
    assert seen_by(telemetry, "late")["stopped"] == 0.0
    telemetry.allow("early")
    assert telemetry.stop_requested("early")  # one client's permission does not lift the stop of all
    telemetry.allow(None)
    assert not telemetry.stop_requested("early")
    assert not telemetry.stop_requested("late")


def test_a_stopped_robot_that_connects_again_is_still_stopped() -> None:
    telemetry = Telemetry(clock=Clock())
    first, second, third = "10.0.0.7:4001 #1", "10.0.0.7:4002 #2", "10.0.0.7:4003 #3"
    telemetry.observed(first, observation())
    telemetry.request_stop(first)
    telemetry.observed(second, observation())
    assert not telemetry.stop_requested(second)  # the first is still there: this is another robot
    telemetry.left(first)
    telemetry.observed(third, observation())
    telemetry.observed("10.0.0.8:4001 #4", observation())
    assert telemetry.stop_requested(third)
    assert not telemetry.stop_requested("10.0.0.8:4001 #4")
    telemetry.allow(third)
    telemetry.observed("10.0.0.7:4005 #5", observation())
    assert not telemetry.stop_requested(third)
    assert not telemetry.stop_requested("10.0.0.7:4005 #5")


def test_an_answer_does_not_bring_back_who_has_left() -> None:
    telemetry = Telemetry(clock=Clock())
    telemetry.observed("arm", observation())
    telemetry.left("arm")
    telemetry.answered("arm", CHUNK, SECONDS)
    telemetry.answered("nobody", CHUNK, SECONDS)
    assert seen_by(telemetry, "arm")["left"] == 0.0
    assert len(telemetry.snapshot()["clients"]) == 1


def test_a_stop_of_nobody_is_refused() -> None:
    telemetry = Telemetry(clock=Clock())
    for refuse in (telemetry.request_stop, telemetry.allow):
        with pytest.raises(ValueError, match="found 'nobody'"):
            refuse("nobody")


def test_nothing_grows_without_bound() -> None:
    telemetry = Telemetry(clock=Clock())
    long = replace(observation(), instruction="left " * 100_000)
    guard: dict[str, Any] = {}
    for turn in range(2 * MAX_ANSWERS):
        telemetry.observed("arm", long)
        telemetry.answered("arm", CHUNK, SECONDS)
        names = {f"{turn} {place} {'x' * 500}": 1 for place in range(3 * MAX_NAMES)}
        guard = {"state": "running", "interventions": names}
        telemetry.reported("arm", report((turn + 1) * 40, rows(*range(40)), guard=guard))
    telemetry.reported("arm", report(10**6, rows(*range(4 * MAX_EXECUTED))))
    seen = telemetry.snapshot(watched="arm")
    watched = seen["watched"]
    assert len(watched["chunks"]) == MAX_CHUNKS
    assert len(watched["executed"]["actions"]) == MAX_EXECUTED
    assert watched["executed"]["ticks"][-1] == 10**6
    assert (watched["counted"], len(watched["seconds"])) == (MAX_ANSWERS, MAX_TIMELINE)
    assert len(seen["clients"][0]["instruction"]) <= 2_000
    telemetry.reported("arm", report(10**6, rows(0.0), guard=guard))
    interventions = seen_by(telemetry, "arm")["guard"]["interventions"]
    assert len(interventions) == MAX_NAMES
    assert max(map(len, interventions)) == 80


def test_clients_that_are_there_are_not_driven_out_by_new_ones() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    for place in range(MAX_CLIENTS + 3):
        telemetry.observed(f"client {place}", observation())
    seen = telemetry.snapshot()
    assert len(seen["clients"]) == MAX_CLIENTS
    assert seen["unlisted"] == 3
    telemetry.request_stop("client 1")
    for name in ("client 1", "client 5"):
        telemetry.left(name)
    telemetry.observed("new", observation())
    names = [one["name"] for one in telemetry.snapshot()["clients"]]
    assert "new" in names
    assert "client 5" not in names
    assert "client 1" in names  # stopped: it must not come back as somebody who may move
    for name in names:
        telemetry.left(name)
    clock.now += FORGET_AFTER + 1.0
    assert [one["name"] for one in telemetry.snapshot()["clients"]] == ["client 1"]


def test_percentiles_are_those_of_all_answers() -> None:
    seconds = [{"infer": place / 1000.0, "send": 0.5} for place in range(101)]
    found = percentiles(seconds)
    assert list(found) == ["infer", "send", "total"]
    assert found["infer"] == pytest.approx([0.050, 0.095, 0.099])
    assert found["total"] == pytest.approx([0.550, 0.595, 0.599])
    assert percentiles([]) == {}


def test_numbers_that_are_none_are_shown_as_none() -> None:
    telemetry = Telemetry(clock=Clock())
    telemetry.observed("arm", observation())
    telemetry.answered("arm", np.array([[np.nan, np.inf], [-1 / 3, 2e-7]], dtype=np.float32), SECONDS)
    assert telemetry.snapshot(watched="arm")["watched"]["chunks"][0]["actions"] == [
        [None, None],
        [-0.333333, 2e-7],
    ]


def test_threads_lose_nothing() -> None:
    telemetry = Telemetry()
    start = threading.Barrier(5)
    seen: list[int] = []

    def ask() -> None:
        start.wait()
        for _ in range(500):
            telemetry.observed("arm", asked)
            telemetry.answered("arm", CHUNK, SECONDS)

    def look() -> None:
        start.wait()
        seen.extend(telemetry.snapshot(watched="arm")["clients"][0]["answers"] for _ in range(50))

    asked = observation()
    telemetry.observed("arm", asked)
    threads = [threading.Thread(target=ask) for _ in range(4)] + [threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen_by(telemetry, "arm")["answers"] == 2_000
    assert seen == sorted(seen)
