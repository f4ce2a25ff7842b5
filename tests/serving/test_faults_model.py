"""Fault F11: the model raises, sleeps, or returns what no robot should see."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pizero.serving.client import RemotePolicy, ServerError
from pizero.serving.messages import pack
from pizero.serving.server.settings import Limits
from tests.examples import observation
from tests.serving.served import (
    PATIENCE,
    QUICK,
    Scripted,
    act_message,
    ask,
    heard,
    openpi_message,
    raw,
    running,
)
from tests.serving.test_faults_messages import with_prompt
from tests.serving.test_server import get


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (np.full((3, 2), np.nan, dtype=np.float32), "BAD_OUTPUT"),
        (np.array([[0, 0], [np.inf, 0], [0, 0]], dtype=np.float32), "BAD_OUTPUT"),
        (np.zeros((2, 2), dtype=np.float32), "BAD_OUTPUT"),
        (np.zeros((3, 3), dtype=np.float32), "BAD_OUTPUT"),
        (np.zeros((3, 2), dtype=np.float64), "BAD_OUTPUT"),
        (RuntimeError("/home/secret/weights"), "INTERNAL"),
        (MemoryError(), "INTERNAL"),
    ],
    ids=range(7),
)
def test_f11_a_model_that_fails(answer: Any, code: str, unchecked: None) -> None:
    good = np.ones((3, 2), dtype=np.float32)

    def act(seen: Any) -> Any:
        if seen.instruction == "fail" and isinstance(answer, Exception):
            raise answer
        return answer if seen.instruction == "fail" else good

    with running(Scripted(act)) as server, raw(server) as ours, raw(server, ours=False) as openpi:
        failed = ask(ours, with_prompt("fail"))
        assert (failed["code"], failed["seq"]) == (code, 3)
        assert "secret" not in failed["message"]
        openpi.send(pack(openpi_message() | {"prompt": "fail"}))
        text = openpi.recv(PATIENCE)
        assert isinstance(text, str)
        assert text.startswith(code)
        assert np.array_equal(ask(ours, with_prompt("go on"))["actions"], good)
        assert np.array_equal(ask(openpi, openpi_message())["actions"], good)


def test_f11_a_model_that_sleeps() -> None:
    asleep, wake = threading.Event(), threading.Event()
    good = np.ones((3, 2), dtype=np.float32)

    def act(seen: Any) -> Any:
        if seen.instruction == "sleep":
            asleep.set()
            assert wake.wait(PATIENCE)
        return good

    limits = Limits(answer_time=0.3, drain_time=PATIENCE)
    policy = Scripted(act)
    with running(policy, limits=limits) as server, raw(server) as one, raw(server) as other:
        one.send(pack(with_prompt("sleep")))
        assert asleep.wait(PATIENCE)
        for _ in range(20):
            assert get(server.port, "/healthz") == (200, b"OK\n")
        assert heard(one)["code"] == "DEADLINE"
        waited = ask(other, act_message(4, deadline=0.1))
        assert (waited["code"], waited["seq"]) == ("DEADLINE", 4)
        old = ask(other, act_message(5, age=1.0, deadline=0.5))
        assert old["code"] == "DEADLINE"
        server.wait_for(lambda: get(server.port, "/readyz")[0] == 503, "not ready while the model sleeps")
        wake.set()
        server.wait_for(lambda: get(server.port, "/readyz")[0] == 200, "ready again")
        assert np.array_equal(ask(one, act_message(6))["actions"], good)
        assert len(policy.asked) == 2


def test_f11_the_client_hears_of_a_deadline() -> None:
    wake = threading.Event()

    def act(seen: Any) -> Any:
        wake.wait(PATIENCE)
        return np.ones((3, 2), dtype=np.float32)

    with running(Scripted(act)) as server:
        with (
            RemotePolicy(server.uri, times=QUICK._replace(answer=0.2)) as remote,
            pytest.raises(ServerError, match="DEADLINE"),
        ):
            remote.act(observation())
        wake.set()
