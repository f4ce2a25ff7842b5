"""Faults F16 and F18, and TLS, between processes: killed servers, clients that are none, and keys."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pizero.models.pi0 import Pi0
from pizero.policy.controllers.controller import ControllerConfig, make_player
from pizero.policy.executor import Executor
from pizero.policy.guard import Guard
from pizero.policy.inference import Answer, InferenceThread, Question
from pizero.policy.limits import usual_limits
from pizero.policy.policy import Policy
from pizero.policy.robot import Stamped
from pizero.robots import NAVIGATION2D
from pizero.serving.client import ConnectionLostError, RemotePolicy
from pizero.types import Observation
from pizero.weights.folder import write_policy
from tests.examples import TINY_PI0, contract, observation
from tests.serving.served import PATIENCE, QUICK

HORIZON = 8
OPEN_TIME = 2.0
SHORT_OPEN_TIME = """
import asyncio, json, pathlib, sys
from pizero.policy.policy import Policy
from pizero.serving.server.app import run
from pizero.serving.server.settings import Limits, ServerSettings
folder = pathlib.Path(sys.argv[1])
settings = ServerSettings(port=0, limits=Limits(open_time=float(sys.argv[2])))
tell = lambda server: print(json.dumps({"url": f"ws://127.0.0.1:{server.port}"}), flush=True)
asyncio.run(run(folder, Policy.load(folder), settings, tell))
"""
"""`pizero serve` has no option for the seconds that a handshake may take."""

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
BROKEN = (
    HANDSHAKE,
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"not HTTP at all\r\n\r\n",
    b"POST / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000,
    HANDSHAKE.replace(b"GET /", b"GET /etc/passwd") + b"\r\n",
    HANDSHAKE.replace(b"Sec-WebSocket-Key", b"Sec-WebSocket-Kez") + b"\r\n",
    HANDSHAKE + b"Sec-WebSocket-Protocol: pizero.v1\r\n\r\n",
)
"""The first two wait for ever, as the last does after its handshake; the others are no handshakes."""


def policy_of(seed: int) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Pi0(replace(TINY_PI0, horizon=HORIZON))
        return Policy(model, replace(contract(), horizon=HORIZON, max_tokens=40))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two policies that answer differently."""
    first, second = (tmp_path_factory.mktemp("processes") / "policy" for _ in range(2))
    for seed, path in ((1, first), (2, second)):
        policy, config = policy_of(seed), replace(TINY_PI0, horizon=HORIZON)
        write_policy(path, config=config, contract=policy.contract, tensors=policy.model.state_dict())
    return first, second


@contextmanager
def process(arguments: Sequence[Any]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server; give its process, and its address once it listens. It is killed at the end."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as running:
        try:
            assert running.stdout is not None
            yield running, json.loads(running.stdout.readline())["url"]
        finally:
            running.kill()


def serve(folder: Path, *options: Any, port: int = 0) -> list[Any]:
    return ["-m", "pizero", "serve", folder, "--json", "--port", port, *options]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    event, until = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited {PATIENCE} s in vain: {what}"
        event.wait(0.01)


class Point:
    """A point that moves by what it is told, before blank pictures, each of another shade."""

    embodiment = NAVIGATION2D

    def __init__(self) -> None:
        self.place, self.stopped = np.full(2, 0.5, dtype=np.float32), False
        self.places: list[np.ndarray] = []

    def observe(self) -> Stamped:
        self.places.append(self.place)
        picture = np.full((32, 32, 3), len(self.places) % 251, dtype=np.uint8)
        seen = Observation(images={"top": picture}, state=self.place, instruction="go")
        return Stamped(observation=seen, time=time.monotonic())

    def command(self, action: np.ndarray) -> None:
        self.place = np.clip(self.place + 0.1 * action, 0.0, 1.0).astype(np.float32)

    def hold(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True


class Noted(InferenceThread):
    """Keeps what was asked and what came of it."""

    def __init__(self, policy: RemotePolicy) -> None:
        self.asked, self.told = list[int](), list[Answer]()
        super().__init__(policy)

    def ask(self, question: Question) -> None:
        self.asked.append(question.request.sequence)
        super().ask(question)

    def answers(self) -> list[Answer]:
        found = super().answers()
        self.told += found
        return found


def chunks_of(answers: Sequence[Answer], policy: Policy) -> dict[int, np.ndarray]:
    """Return the chunks by sequence, after a look whether a policy in this process gives the same."""
    policy.reset(seed=0)
    found = {}
    for answer in answers:
        if answer.chunk is not None:
            request = answer.question.request
            seen = answer.question.stamped.observation
            expected = policy.act(seen, continuation=request.continuation)
            np.testing.assert_allclose(answer.chunk, expected, atol=1e-5)
            found[request.sequence] = answer.chunk
    return found


def test_f18_a_robot_outlives_a_server_that_is_killed(folders: tuple[Path, Path]) -> None:
    robot, over = Point(), threading.Event()
    limits = replace(usual_limits(NAVIGATION2D), max_frozen=0, max_age=PATIENCE, max_wait=10 * PATIENCE)
    config = ControllerConfig(kind="naive", num_executed=2, delay=1)
    player = make_player(config, horizon=HORIZON, embodiment=NAVIGATION2D)
    with process(serve(folders[0])) as (first, url):
        remote = RemotePolicy(url, times=QUICK)
        inference = Noted(remote)
        executor = Executor(robot, player, inference, Guard(NAVIGATION2D, limits))
        thread = threading.Thread(target=executor.run, kwargs={"seconds": 600.0, "until": over.is_set})
        thread.start()
        try:
            wait_for(lambda: executor.record.commands >= 15 and executor.state == "running", "it runs")
            first.send_signal(signal.SIGSTOP)
            record, commands = executor.record, executor.record.commands
            wait_for(
                lambda: record.commands > commands + 2 and len(inference.asked) > len(inference.told),
                "a question is under way when the server dies",
            )
            first.kill()
            assert first.wait(PATIENCE) == -signal.SIGKILL
            last_before, num_before = inference.asked[-1], len(inference.told)
            wait_for(lambda: executor.state == "holding", "it holds")
            wait_for(lambda: len(inference.told) > num_before + 5, "it tries to connect, again and again")
            with process(serve(folders[1], port=int(url.rsplit(":", 1)[1]))):
                wait_for(
                    lambda: sum(t.planned and t.source > last_before for t in list(record.ticks)) >= 10,
                    "it goes on with chunks of the new server",
                )
                over.set()
        finally:
            over.set()
            thread.join(PATIENCE)
            remote.close()
    assert not robot.stopped
    ticks = list(record.ticks)
    resumed = next(i for i, tick in enumerate(ticks) if tick.planned and tick.source > last_before)
    held = resumed
    while ticks[held - 1].state == "holding":
        held -= 1
    assert resumed - held >= 5
    assert not np.stack([tick.command for tick in ticks[held:resumed] if tick.command is not None]).any()
    places = np.stack(robot.places[held + 1 : resumed + 1])
    assert (places == places[0]).all()
    assert len(np.unique(np.stack(robot.places[:held]), axis=0)) > 3
    assert all(tick.source > last_before for tick in ticks[held:] if tick.planned)
    changes = [change for change in record.transitions if change.tick >= ticks[held].index]
    assert [change.state for change in changes[:2]] == ["holding", "running"]
    assert changes[0].reason == "nothing-planned"

    failures = [answer.error for answer in inference.told if answer.error is not None]
    assert {type(failure) for failure in failures} == {ConnectionLostError}
    assert any("the next attempt is in" in str(failure) for failure in failures)
    old = [answer for answer in inference.told if answer.question.request.sequence <= last_before]
    new = [answer for answer in inference.told if answer.question.request.sequence > last_before]
    chunks = {**chunks_of(old, policy_of(1)), **chunks_of(new, policy_of(2))}
    for tick in ticks[resumed:]:
        if tick.planned:
            rows = np.clip(chunks[tick.source], -1.0, 1.0)
            assert (np.abs(rows - tick.command) < 1e-6).all(axis=1).any()


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_f16_broken_handshakes_leave_no_open_files(folders: tuple[Path, Path], count: int) -> None:
    with process(["-c", SHORT_OPEN_TIME, folders[0], OPEN_TIME]) as (server, url):
        place = ("127.0.0.1", int(url.rsplit(":", 1)[1]))

        def num_files() -> int:
            return len(os.listdir(f"/proc/{server.pid}/fd"))

        with RemotePolicy(url, times=QUICK) as good:
            good.act(observation())
            before = num_files()
            for begun in range(0, count, 50):
                waiting = []
                for number in range(begun, begun + 50):
                    connection = socket.create_connection(place, timeout=PATIENCE)
                    kind = number % (len(BROKEN) + 2)
                    if kind < len(BROKEN):
                        waiting.append(connection)
                        with suppress(ConnectionError):
                            connection.sendall(BROKEN[kind])
                        continue
                    if kind == len(BROKEN):
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.close()
                wait_for(lambda: num_files() > before, "the server has taken connections")
                assert good.act(observation()).shape == (HORIZON, 2)
                for connection in waiting:
                    _read_to_the_end(connection)
                assert good.act(observation()).shape == (HORIZON, 2)
            wait_for(lambda: num_files() <= before, "every socket is closed")
            with RemotePolicy(url, times=QUICK) as other:
                assert other.act(observation()).shape == (HORIZON, 2)


def _read_to_the_end(connection: socket.socket) -> None:
    """Read until the server closes; a server that does not ends the test with TimeoutError."""
    with connection, suppress(ConnectionError):
        while connection.recv(4096):
            pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_keeps_out_who_does_not_trust_and_who_does_not_encrypt(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key, token = tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=robot"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    policy = policy_of(1)
    policy.reset(seed=0)
    options = ["--certificate", certificate, "--key", key, "--token-file", token]
    with process(serve(folders[0], *options)) as (_, url):
        assert url.startswith("wss://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        given: dict[str, Any] = {"token": "a-token-of-some-length", "times": QUICK}
        with RemotePolicy(url, tls=trusting, **given) as remote:
            np.testing.assert_allclose(remote.act(observation()), policy.act(observation()), atol=1e-5)
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            RemotePolicy(url, **given)
        with pytest.raises(ConnectionRefusedError, match="HTTP status 401: give the token"):
            RemotePolicy(url, tls=trusting, token="another-token-of-some-length", times=QUICK)
        with pytest.raises(ConnectionLostError, match="no connection to ws://"):
            RemotePolicy(url.replace("wss", "ws"), **{**given, "times": QUICK._replace(connect=0.5)})
