"""A policy behind a port answers as the same policy beside it, in openpi's protocol and in ours."""

from __future__ import annotations

import threading
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from pizero.policy.golden import request_of
from pizero.records import to_data
from pizero.robots import METAWORLD, find_embodiment
from pizero.serving.client import IncompatibleError, RemotePolicy
from pizero.serving.messages import pack
from pizero.serving.server.openpi import result
from tests.examples import observation
from tests.golden_weights import GOLDEN
from tests.serving.served import (
    PATIENCE,
    QUICK,
    Scripted,
    act_message,
    ask,
    dialled,
    heard,
    openpi_message,
    raw,
    running,
    tiny_policy,
)
from tests.serving.test_messages import MESSAGES, built


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_openpi_s_protocol() -> None:
    policy = tiny_policy()
    expected = [policy.act(observation(seed=seed)) for seed in range(3)]
    with running(tiny_policy()) as server, raw(server, ours=False) as connection:
        for number, chunk in enumerate(expected):
            answer = ask(connection, openpi_message(observation(seed=number)))
            assert list(answer) == ["actions", "policy_timing", "server_timing"]
            assert np.array_equal(answer["actions"], chunk)
            assert list(answer["policy_timing"]) == ["infer_ms"]
            wanted = ["infer_ms"] + ["prev_total_ms"] * (number > 0)
            assert list(answer["server_timing"]) == wanted


def test_answers_have_the_bytes_of_openpi_s() -> None:
    golden = built(MESSAGES["action"])
    ours = result(golden["actions"].astype(np.float32), 0.0125, 0.02)
    chunk = {**ours, "actions": golden["actions"], "state": golden["state"]}
    chunk["server_timing"]["infer_ms"] = golden["server_timing"]["infer_ms"]
    del chunk["server_timing"]["prev_total_ms"]
    ordered = {key: chunk[key] for key in golden}
    assert pack(ordered).hex() == MESSAGES["action_hex"]


def test_a_seed_in_openpi_s_request_begins_an_episode() -> None:
    policy = tiny_policy()
    policy.reset(seed=7)
    expected = [policy.act(observation()) for _ in range(2)]
    with running(tiny_policy()) as server, raw(server, ours=False) as connection:
        ask(connection, openpi_message())
        first = ask(connection, openpi_message(seed=7))["actions"]
        second = ask(connection, openpi_message())["actions"]
    assert np.array_equal(first, expected[0])
    assert np.array_equal(second, expected[1])


def test_openpi_s_own_keys_for_its_own_robots() -> None:
    with np.load(GOLDEN / "policy" / "pi05_libero" / "golden.npz") as file:
        request = request_of({name: file[name] for name in file.files})
    robot = find_embodiment("libero")
    with running(tiny_policy(robot)) as server, raw(server, ours=False) as connection:
        assert ask(connection, request)["actions"].shape == (3, robot.action_dim)


def test_our_protocol_says_what_is_served() -> None:
    policy = tiny_policy()
    with running(policy) as server, dialled(server) as connection:
        hello = heard(connection)
    contract = policy.contract
    assert hello["protocol"] == 1
    assert hello["contract"] == contract.sha256
    assert hello["embodiment"]["name"] == "navigation2d"
    assert hello["actions"] == {"shape": [3, 2], "dtype": "<f4"}
    assert (hello["horizon"], hello["rate"]) == (3, 10.0)


def test_answers_bear_the_number_of_the_request() -> None:
    with running() as server, raw(server) as connection:
        for seq in (5, 6, 2**53 - 1):
            answer = ask(connection, act_message(seq))
            assert (answer["type"], answer["seq"]) == ("chunk", seq)
            assert {"decode", "queue", "infer", "total"} <= set(answer["timing"])


def test_the_client_is_called_as_a_policy() -> None:
    policy = tiny_policy()
    with running(tiny_policy()) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        assert (remote.horizon, remote.rate) == (3, 10.0)
        for seed in (0, 3):
            policy.reset(seed=seed)
            remote.reset(seed=seed)
            for number in range(3):
                seen = observation(seed=number)
                assert np.array_equal(remote.act(seen), policy.act(seen))


def test_health_readiness_and_figures() -> None:
    with running() as server, RemotePolicy(server.uri, times=QUICK) as remote:
        remote.act(observation())
        assert get(server.port, "/healthz") == (200, b"OK\n")
        assert get(server.port, "/readyz") == (200, b"ready\n")
        status, page = get(server.port, "/metrics")
        assert status == 200
        text = page.decode()
        assert 'pizero_answers_total{outcome="OK",protocol="pizero"} 1.0' in text
        assert "pizero_clients 1.0" in text
        assert "pizero_ready 1.0" in text
        assert get(server.port, "/elsewhere")[0] == 404


def test_the_dashboard_is_there_if_it_is_asked_for() -> None:
    with running(dashboard=True) as server:
        status, page = get(server.port, "/dashboard")
        assert (status, b"<html" in page) == (200, True)
        assert get(server.port, "/dashboard", Host="evil.example")[0] == 403
    with running() as server:
        assert get(server.port, "/dashboard")[0] == 404


def test_a_server_that_warms_up_lives_but_is_not_ready() -> None:
    gate = threading.Event()

    class Slow(Scripted):
        def infer(self, requests: Any) -> Any:
            gate.wait(PATIENCE)
            return super().infer(requests)

    slow = Slow(lambda seen: np.zeros((3, 2), dtype=np.float32))
    with running(slow, warm=False) as server, dialled(server) as connection:
        assert get(server.port, "/healthz")[0] == 200
        assert get(server.port, "/readyz") == (503, b"warming up\n")
        gate.set()
        assert heard(connection)["type"] == "hello"
        assert get(server.port, "/readyz")[0] == 200


def test_a_policy_that_cannot_answer_is_not_served() -> None:
    class Broken(Scripted):
        def infer(self, requests: Any) -> Any:
            raise ValueError("no weights")

    with (
        pytest.raises(ValueError, match="no weights"),
        running(Broken(lambda seen: None)),
    ):
        pass


def test_what_is_expected_is_held_to() -> None:
    with running() as server:
        with pytest.raises(IncompatibleError) as refusal:
            RemotePolicy(
                server.uri,
                times=QUICK,
                expected={"embodiment": to_data(METAWORLD), "horizon": 3, "statistics": "f" * 64},
            )
        lines = "\n".join(refusal.value.differences)
        assert "embodiment.name: expected 'metaworld', found 'navigation2d'" in lines
        assert "embodiment.rate: expected 20.0, found 10.0" in lines
        assert "statistics: expected" in lines
        assert "horizon" not in lines
        assert server.figure("pizero_answers_total", protocol="pizero", outcome="OK") == 0


@pytest.mark.parametrize(
    ("opening", "difference"),
    [
        ({"protocol": 1, "expected": {"rate": 20.0}}, "rate: expected 20.0, found 10.0"),
        ({"protocol": 2}, "protocol: expected 2, found 1"),
    ],
)
def test_the_server_too_refuses_what_does_not_fit(opening: dict[str, Any], difference: str) -> None:
    with running() as server, dialled(server) as connection:
        heard(connection)
        refusal = ask(connection, {"type": "open", **opening})
        assert refusal["code"] == "INCOMPATIBLE"
        assert refusal["differences"] == [difference]
        with pytest.raises(ConnectionClosed):
            connection.recv(PATIENCE)


def test_another_version_of_our_protocol_is_not_taken_for_openpi_s() -> None:
    with (
        running() as server,
        pytest.raises(InvalidStatus, match="400"),
        connect(server.uri, subprotocols=[Subprotocol("pizero.v9")]),
    ):
        pass
