"""Faults F12 to F17: many clients, slow ones, loud ones, dead ones, and a server that goes away."""

from __future__ import annotations

import os
import socket
import struct
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from pizero.policy.policy import Policy
from pizero.serving.client import RemotePolicy
from pizero.serving.messages import pack
from pizero.serving.server.settings import Limits
from pizero.types import Continuation, Observation
from tests.examples import observation
from tests.serving.served import (
    PATIENCE,
    QUICK,
    Running,
    Scripted,
    act_message,
    ask,
    heard,
    openpi_message,
    raw,
    running,
    tiny_policy,
)
from tests.serving.test_server import get

NUM_CLIENTS = 16
NUM_REQUESTS = 4


def script(client: int) -> list[tuple[Observation, Continuation | None, int | None]]:
    """Return what a client asks: with pictures of its own; some go on from a plan, some take fewer steps."""
    asked = []
    for number in range(NUM_REQUESTS):
        planned = np.full((3, 2), 0.01 * client, dtype=np.float32)
        goes_on = client % 3 == 0 and number > 0
        continuation = Continuation(actions=planned, delay=1, execution=1) if goes_on else None
        num_steps = 3 if client % 4 == 1 else None
        asked.append((observation(seed=100 * client + number), continuation, num_steps))
    return asked


def alone(policy: Policy, client: int) -> list[np.ndarray]:
    policy.reset(seed=client)
    return [
        policy.act(seen, continuation=continuation, num_steps=num_steps)
        for seen, continuation, num_steps in script(client)
    ]


@pytest.mark.parametrize("batch", [1, 8])
def test_f12_nobody_gets_another_s_answer(batch: int) -> None:
    """Bitwise what each client gets alone: from a policy if computed one by one, else from the server."""
    found: dict[int, list[np.ndarray]] = {}
    failures: list[BaseException] = []

    def drive(server: Running, client: int) -> None:
        try:
            with RemotePolicy(server.uri, times=QUICK) as remote:
                remote.reset(seed=client)
                found[client] = [
                    remote.act(seen, continuation=continuation, num_steps=num_steps)
                    for seen, continuation, num_steps in script(client)
                ]
        except BaseException as failure:
            failures.append(failure)

    with running(tiny_policy(), batch=batch, batch_wait=0.05) as server:
        threads = [threading.Thread(target=drive, args=(server, client)) for client in range(NUM_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        together = dict(found)
        if batch > 1:
            for client in range(NUM_CLIENTS):
                drive(server, client)
    policy = tiny_policy()
    for client in range(NUM_CLIENTS):
        expected = alone(policy, client) if batch == 1 else found[client]
        for one, other in zip(together[client], expected, strict=True):
            assert np.array_equal(one, other)
    if batch > 1:
        difference = max(np.abs(np.stack(found[c]) - np.stack(alone(policy, c))).max() for c in found)
        assert difference < 1e-4


def test_f12_and_f14_a_loud_client_gets_no_more_than_the_others() -> None:
    """While the model is busy one client asks 200 times, three ask once: each gets one answer, in order."""
    gate, busy = threading.Event(), threading.Event()

    def act(seen: Observation) -> np.ndarray:
        busy.set()
        assert gate.wait(PATIENCE)
        return np.full((3, 2), seen.state[0], dtype=np.float32)

    policy = Scripted(act)
    with (
        running(policy) as server,
        raw(server) as loud,
        raw(server) as one,
        raw(server) as two,
        raw(server, ours=False) as openpi,
    ):
        numbered = [
            Observation(
                images=observation().images, state=np.array([number, 0], dtype=np.float32), instruction="go"
            )
            for number in range(202)
        ]
        loud.send(pack(act_message(0, numbered[0])))
        assert busy.wait(PATIENCE)
        asked = [
            (loud, act_message(1, numbered[1])),
            (one, act_message(7, numbered[7])),
            (two, act_message(8, numbered[8])),
            (openpi, openpi_message(numbered[9])),
        ]
        for place, (connection, message) in enumerate(asked, start=1):
            connection.send(pack(message))
            server.wait_for(lambda place=place: len(server.server.waiting) == place, "it waits")
        for seq in range(2, 201):
            loud.send(pack(act_message(seq, numbered[seq])))
        answers = [heard(loud) for _ in range(199)]
        assert {answer["code"] for answer in answers} == {"SUPERSEDED"}
        assert [answer["seq"] for answer in answers] == list(range(1, 200))
        assert len(server.server.waiting) == 4
        gate.set()
        last = [heard(loud), heard(loud)]
        assert [answer["seq"] for answer in last] == [0, 200]
        assert [answer["actions"][0, 0] for answer in last] == [0.0, 200.0]
        assert heard(one)["actions"][0, 0] == 7.0
        assert heard(two)["actions"][0, 0] == 8.0
        assert heard(openpi)["actions"][0, 0] == 9.0
        assert [seen.state[0] for seen in policy.asked] == [0.0, 200.0, 7.0, 8.0, 9.0]
        assert server.figure("pizero_answers_total", protocol="pizero", outcome="SUPERSEDED") == 199


def send_for_ever(connection: ClientConnection, message: bytes) -> None:
    for _ in range(100_000):
        connection.send(message)


def test_f13_who_does_not_read_is_dropped() -> None:
    limits = Limits(send_time=0.3, drain_time=PATIENCE)
    with running(limits=limits) as server, raw(server) as good, raw(server) as slow:
        message = pack(act_message(1, replace(observation(), instruction="x" * 1900)))
        with pytest.raises((ConnectionClosed, OSError)):
            send_for_ever(slow, message)
        server.wait_for(
            lambda: server.figure("pizero_dropped_clients_total", reason="slow reader") == 1, "it is dropped"
        )
        server.wait_for(lambda: server.figure("pizero_clients") == 1, "its session ends")
        assert ask(good, act_message(2))["type"] == "chunk"


def opened(server: Running, *, receive_buffer: int = 0) -> socket.socket:
    """Return a socket on which the websocket handshake is done by hand, and nothing after it."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 101")
    return connection


def test_f15_who_is_gone_leaves_nothing() -> None:
    """One client no longer answers pings, one is killed in mid-frame, one leaves while the model works."""
    gate, busy = threading.Event(), threading.Event()

    def act(seen: Observation) -> np.ndarray:
        busy.set()
        assert gate.wait(PATIENCE)
        return np.zeros((3, 2), dtype=np.float32)

    limits = Limits(ping_time=0.5, drain_time=PATIENCE)
    with running(Scripted(act), limits=limits) as server:
        stopped = opened(server)
        server.wait_for(lambda: server.figure("pizero_clients") == 1, "it came")
        server.wait_for(lambda: server.figure("pizero_clients") == 0, "its pings were not answered")
        stopped.close()
        killed = opened(server)
        server.wait_for(lambda: server.figure("pizero_clients") == 1, "it came")
        killed.sendall(bytes([0x82, 0xFF]) + struct.pack(">Q", 10_000) + b"mask" + b"half a frame")
        killed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        killed.close()
        server.wait_for(lambda: server.figure("pizero_clients") == 0, "it is noticed")
        with raw(server, ours=False) as connection:
            connection.send(pack(openpi_message()))
            assert busy.wait(PATIENCE)
        server.wait_for(lambda: server.figure("pizero_clients") == 0, "freed before the model is done")
        gate.set()
        with raw(server) as connection:
            assert ask(connection, act_message())["type"] == "chunk"


def test_f16_what_is_no_handshake_is_closed_and_forgotten() -> None:
    limits = Limits(open_time=1.0, drain_time=PATIENCE)
    attempts: list[bytes] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000,
        b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]
    with running(limits=limits) as server:
        assert get(server.port, "/healthz")[0] == 200
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(12):
            sockets = []
            for attempt in attempts:
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
                try:
                    connection.sendall(attempt)
                except OSError:
                    connection.close()
                    continue
                sockets.append(connection)
            for connection in sockets:
                while _received(connection):
                    pass
                connection.close()
        server.wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, "every socket is closed")
        with raw(server) as connection:
            assert ask(connection, act_message())["type"] == "chunk"


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


def test_f16_no_more_clients_than_there_is_room_for() -> None:
    limits = Limits(clients=2, drain_time=PATIENCE)
    with running(limits=limits) as server, raw(server), raw(server):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as third:
            third.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert third.recv(100).startswith(b"HTTP/1.1 503")
        assert get(server.port, "/healthz")[0] == 200


def test_a_web_page_may_not_drive_a_robot() -> None:
    with running() as server, socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as page:
        page.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        assert page.recv(100).startswith(b"HTTP/1.1 403")


def test_f17_what_is_asked_is_answered_before_the_server_goes() -> None:
    gate, busy = threading.Event(), threading.Event()

    def act(seen: Observation) -> np.ndarray:
        busy.set()
        assert gate.wait(PATIENCE)
        return np.ones((3, 2), dtype=np.float32)

    with running(Scripted(act)) as server, raw(server) as ours, raw(server, ours=False) as openpi:
        ours.send(pack(act_message(5)))
        assert busy.wait(PATIENCE)
        openpi.send(pack(openpi_message()))
        server.wait_for(lambda: len(server.server.waiting) == 1, "both asked")
        draining: Any = threading.Thread(target=lambda: server.do(server.server.drain()))
        draining.start()
        server.wait_for(lambda: server.server.house.draining, "it goes")
        refused = ask(ours, act_message(6))
        assert (refused["code"], refused["seq"]) == ("SHUTTING_DOWN", 6)
        with pytest.raises(OSError, match=r"refused|reset"):
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE).close()
        gate.set()
        assert np.array_equal(heard(ours)["actions"], np.ones((3, 2)))
        assert np.array_equal(heard(openpi)["actions"], np.ones((3, 2)))
        for connection in (ours, openpi):
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        draining.join()
