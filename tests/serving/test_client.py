"""Faults F18, F20, F21 and F24: lost servers, other servers, openpi's servers, old answers."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from pizero.serving.client import (
    ConnectionLostError,
    IncompatibleError,
    RemotePolicy,
    ServerError,
    Shown,
    StopRequestedError,
    Times,
)
from pizero.serving.messages import pack, unpack
from pizero.types import Continuation
from tests.examples import observation
from tests.serving.openpi_server import openpi_server
from tests.serving.served import PATIENCE, QUICK, Scripted, running, tiny_policy

ROOT = Path(__file__).parents[2]


def again(remote: RemotePolicy) -> np.ndarray:
    """Return the first chunk after a loss: until then every call says that there is no connection."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        try:
            return remote.act(observation())
        except ConnectionLostError:
            pause.wait(0.02)
    raise AssertionError("no connection came about")


def test_f18_a_server_dies_and_comes_back() -> None:
    with running() as server, RemotePolicy(server.uri, times=QUICK) as remote:
        remote.reset(seed=4)
        first = remote.act(observation())
        port = server.port

        async def die() -> None:
            server.server.listener.close(close_connections=False)
            for session in server.server._sessions.values():
                session.connection.transport.abort()

        server.do(die())
        for _ in range(3):
            with pytest.raises(ConnectionLostError):
                remote.act(observation(seed=1))
        with running(port=port):
            fresh = again(remote)
            assert np.array_equal(fresh, first)
            assert remote.act(observation()).shape == (3, 2)


def test_f18_another_server_in_its_place_is_refused() -> None:
    expected = {"horizon": 3, "embodiment": {"name": "navigation2d"}}
    with running() as server:
        remote = RemotePolicy(server.uri, times=QUICK, expected=expected)
        port = server.port
    with openpi_stand_in(port, {"some": "metadata"}), pytest.raises(IncompatibleError) as refused:
        again(remote)
    assert refused.value.differences == ["horizon: expected, absent", "embodiment: expected, absent"]
    remote.close()


def openpi_stand_in(port: int, metadata: dict[str, Any]) -> Any:
    return openpi_server(lambda request: {}, metadata, port=port)


def test_nobody_listens() -> None:
    times = Times(connect=0.3, attempt=0.2, answer=0.2)
    with pytest.raises(ConnectionLostError, match=r"no connection to ws://127.0.0.1:9 within 0.3 s"):
        RemotePolicy("ws://127.0.0.1:9", times=times)


def test_f20_a_difference_is_told_before_the_first_action() -> None:
    wanted = {
        "embodiment": {"state": [{"name": "x"}, {"name": "z"}], "cameras": []},
        "contract": tiny_policy().contract.sha256,
        "rate": 50.0,
        "gripper": "open",
    }
    policy = Scripted(lambda seen: np.zeros((3, 2), dtype=np.float32))
    with running(policy) as server, pytest.raises(IncompatibleError) as refused:
        RemotePolicy(server.uri, times=QUICK, expected=wanted)
    assert refused.value.differences == [
        "embodiment.state[1].name: expected 'z', found 'y'",
        "embodiment.cameras: expected 0 entries, found 1",
        "rate: expected 50.0, found 10.0",
        "gripper: expected, absent",
    ]
    assert "rate: expected 50.0, found 10.0" in str(refused.value)
    assert policy.asked == []


def test_f21_ours_against_openpi_s_server() -> None:
    asked: list[dict[str, Any]] = []

    def infer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        if request["prompt"] == "fail":
            raise KeyError("a secret")
        return {"actions": np.arange(8.0).reshape(4, 2), "server_timing": {"infer_ms": 1.0}}

    with (
        openpi_server(infer, {"reset_pose": [0, 1]}) as uri,
        RemotePolicy(uri, times=QUICK, rate=50.0) as remote,
    ):
        assert remote.metadata == {"reset_pose": [0, 1]}
        remote.reset(seed=3)
        seen = observation()
        chunk = remote.act(seen)
        assert chunk.dtype == np.float32
        assert np.array_equal(chunk, np.arange(8, dtype=np.float32).reshape(4, 2))
        assert (remote.horizon, remote.rate) == (4, 50.0)
        assert list(asked[0]) == ["images", "state", "prompt"]
        assert np.array_equal(asked[0]["images"]["top"], seen.images["top"])
        with pytest.raises(ServerError, match="KeyError: 'a secret'"):
            remote.act(Shown(images=seen.images, state=seen.state, instruction="fail"))
        assert np.array_equal(again(remote), chunk)
        with pytest.raises(ServerError, match="an observation and nothing else"):
            remote.act(seen, num_steps=3)


def test_a_request_in_the_words_of_another_robot() -> None:
    def infer(request: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.full((2, 7), request["observation/state"][0])}

    def libero(seen: Any) -> dict[str, Any]:
        return {"observation/image": seen.images["top"], "observation/state": seen.state, "prompt": "go"}

    with openpi_server(infer, {}) as uri, RemotePolicy(uri, times=QUICK, request_of=libero) as remote:
        assert (remote.act(observation()) == observation().state[0]).all()


def test_f24_older_answers_are_thrown_away() -> None:
    """A server that answers late, twice and out of order."""
    hello = {"type": "hello", "protocol": 1, "horizon": 1, "rate": 10.0}

    def chunk(seq: int) -> bytes:
        actions = np.full((1, 2), seq, dtype=np.float32)
        return pack({"type": "chunk", "seq": seq, "actions": actions, "timing": {}})

    def handle(connection: ServerConnection) -> None:
        connection.send(pack(hello))
        connection.recv()
        connection.send(pack({"type": "opened"}))
        for data in connection:
            assert isinstance(data, bytes)
            seq = unpack(data)["seq"]
            if seq == 1:
                continue
            for number in (1, seq - 1, seq, seq):
                connection.send(chunk(number))

    with serve(handle, "127.0.0.1", 0, subprotocols=["pizero.v1"], compression=None) as server:  # pyright: ignore
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with RemotePolicy(uri, times=QUICK._replace(answer=0.5)) as remote:
            with pytest.raises(ServerError, match="DEADLINE"):
                remote.act(observation())
            remote.times = QUICK
            for seq in (2, 3, 4):
                assert (remote.act(observation()) == seq).all()
        server.shutdown()
        thread.join()


def test_a_stop_reaches_the_robot() -> None:
    with running(dashboard=True) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        remote.report(
            {
                "tick": 3,
                "executed": np.zeros((1, 2), np.float32),
                "guard": {"state": "running", "interventions": {}},
                "late_ticks": 0,
            }
        )
        remote.act(observation())
        telemetry = server.server.telemetry
        assert telemetry is not None
        telemetry.request_stop(None)
        with pytest.raises(StopRequestedError):
            remote.act(observation())


def test_a_chunk_goes_on_from_planned_actions() -> None:
    policy = tiny_policy()
    planned = np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)
    continuation = Continuation(actions=planned, delay=1, execution=2)
    with running(tiny_policy()) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        chunk = remote.act(observation(), continuation=continuation, num_steps=4)
        assert np.array_equal(chunk, policy.act(observation(), continuation=continuation, num_steps=4))
        assert np.array_equal(chunk[0], planned[0])
        impossible = Continuation(actions=planned, delay=2, execution=1)
        with pytest.raises(ServerError, match="BAD_CONTINUATION"):
            remote.act(observation(), continuation=impossible)
        unlearnt = Continuation(actions=planned, delay=1, execution=2, method="trained")
        with pytest.raises(ServerError, match="BAD_CONTINUATION"):
            remote.act(observation(), continuation=unlearnt)
        with pytest.raises(ServerError, match="BAD_STEPS"):
            remote.act(observation(), num_steps=10_000)


@pytest.mark.skipif("PIZERO_OLD_PYTHON" not in os.environ, reason="set PIZERO_OLD_PYTHON to a Python 3.9")
def test_the_client_on_an_old_python_and_numpy() -> None:
    """With numpy 1, msgpack and websockets in it, and nothing else of pizero's."""
    program = """
import sys, numpy as np
from pizero.serving.client import RemotePolicy, Shown, Times
rng = np.random.default_rng(0)
pictures = {"top": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)}
with RemotePolicy(sys.argv[1], times=Times(60.0, 60.0, 60.0), expected={"horizon": 3}) as policy:
    policy.reset(seed=5)
    chunk = policy.act(Shown(pictures, np.array([0.1, 0.2], dtype=np.float32), "go"))
print(np.__version__, chunk.tobytes().hex())
"""
    rng = np.random.default_rng(0)
    seen = Shown(
        {"top": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)}, np.array([0.1, 0.2], np.float32), "go"
    )
    with running(tiny_policy()) as server:
        python = os.environ["PIZERO_OLD_PYTHON"]
        done = subprocess.run(
            [python, "-c", program, server.uri], cwd=ROOT, capture_output=True, text=True, check=False
        )
        with RemotePolicy(server.uri, times=QUICK) as remote:
            remote.reset(seed=5)
            expected = remote.act(seen)
    assert done.stderr == ""
    version, actions = done.stdout.split()
    assert version.startswith("1.")
    assert bytes.fromhex(actions) == expected.tobytes()
