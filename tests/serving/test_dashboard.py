"""The dashboard as others try to use it: foreign pages, foreign names, wrong messages."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pizero.serving.server.dashboard import (
    FILES,
    HEADERS,
    MAX_BROWSERS,
    Dashboard,
    seen_picture,
    slots_of,
)
from pizero.serving.server.telemetry import Telemetry
from pizero.types import Observation
from tests.examples import contract, observation
from tests.serving.dashboards import (
    Served,
    ask,
    robot_contract,
)


def watcher(served: Served, **headers: str) -> ClientConnection:
    sent = {"Origin": f"http://127.0.0.1:{served.port}", **headers}
    origin = sent.pop("Origin")
    address = f"ws://127.0.0.1:{served.port}/dashboard/live"
    return connect(address, origin=origin or None, additional_headers=sent, compression=None)  # type: ignore[arg-type]


def next_state(connection: ClientConnection, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    while True:
        message = connection.recv(timeout=60)
        if isinstance(message, str) and true(found := json.loads(message)):
            return found


@pytest.mark.parametrize(
    "origin",
    ["", "null", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost:{port}"],
)
def test_other_pages_may_neither_watch_nor_stop(served: Served, telemetry: Telemetry, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        watcher(served, Origin=origin.format(port=served.port))
    assert refusal.value.response.status_code == 403


def test_the_websocket_refuses_foreign_pages_by_itself(served: Served) -> None:
    """Also where the request was let through."""
    served.dashboard.page = lambda path, headers: None  # type: ignore[method-assign]
    with watcher(served, Origin="https://evil.example") as connection, pytest.raises(ConnectionClosed) as end:
        connection.recv(timeout=60)
    assert end.value.rcvd is not None
    assert end.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST:9000", True),
        ("[::1]:8000", True),
        ("127.8.9.10:1", True),
        ("", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("localhost:8000@evil.example", False),
        ("192.168.1.5:8000", False),
        ("127.0.0.1:8000\n", False),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, allowed: bool) -> None:
    dashboard = Dashboard(Telemetry(), robot_contract())
    for path in FILES:
        found = dashboard.page(path, {"Host": host})
        assert found is not None
        assert found.status == (200 if allowed else 403)
    live = dashboard.page("/dashboard/live", {"Host": host, "Origin": f"http://{host}"})
    assert (live is None) == allowed


def test_files_come_with_a_strict_policy_and_no_others_come() -> None:
    dashboard = Dashboard(Telemetry(), robot_contract())
    headers = {"Host": "localhost:8000"}
    for path, (_, kind) in FILES.items():
        found = dashboard.page(f"{path}?cache=no", headers)
        assert found is not None
        assert found.headers["Content-Type"] == kind
        assert HEADERS.items() <= found.headers.items()
        text = found.body.decode()
        named = set(re.findall(r"\S*//\S*", text)) - {"//"}
        assert all("http://www.w3.org/2000/svg" in one or "}://${location.host}/" in one for one in named)
        assert "innerHTML" not in text
        assert "eval(" not in text
        assert " style=" not in text
        assert " onclick" not in text
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    for path in ("/dashboard/../telemetry.py", "/dashboard/nothing", "/dashboard/%2e%2e/telemetry.py"):
        found = dashboard.page(path, headers)
        assert found is not None
        assert found.status == 404
    for path in ("/", "/healthz", "/dashboards", "/metrics"):
        assert dashboard.page(path, headers) is None


def test_what_is_no_command_ends_the_connection(served: Served, telemetry: Telemetry) -> None:
    wrong = ["{", "[]", "{}", '{"stop": 3}', '{"start": "arm"}', '{"stop": null, "allow": null}', "[" * 3_000]
    for message in (*wrong, b"\x00", json.dumps({"watch": "a" * 5_000})):
        with watcher(served) as connection:
            connection.send(message)
            with pytest.raises(ConnectionClosed) as end:
                next_state(connection, lambda found: False)
            assert end.value.rcvd is not None
            assert end.value.rcvd.code == 1008
    assert not telemetry.stop_requested("arm")


def test_a_stop_of_a_client_that_is_not_there_is_answered(served: Served) -> None:
    with watcher(served) as connection:
        connection.send(json.dumps({"stop": "nobody"}))
        found = next_state(connection, lambda found: found["kind"] == "refused")
    assert "nobody" in found["why"]


def test_so_many_browsers_may_watch(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_BROWSERS):
            stack.enter_context(watcher(served)).recv(timeout=60)
        one_more = stack.enter_context(watcher(served))
        with pytest.raises(ConnectionClosed) as end:
            one_more.recv(timeout=60)
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 1013


def test_pictures_are_made_only_when_somebody_watches(
    served: Served, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def noted(picture: np.ndarray) -> bytes:
        made.append(threading.current_thread().name)
        return b""

    monkeypatch.setattr("pizero.serving.server.dashboard.jpeg", noted)
    ask(telemetry, times=20)
    assert made == []
    with watcher(served) as connection:
        next_state(connection, lambda found: found["kind"] == "state" and bool(found["clients"]))
        connection.send(json.dumps({"watch": "arm"}))
        pictures = 0
        while pictures < 2:  # one of each camera: of twenty observations the last is sent
            pictures += isinstance(connection.recv(timeout=60), bytes)
        state = next_state(connection, lambda found: found["kind"] == "state")
        assert state["watched"]["name"] == "arm"
    assert len(made) == 2
    assert served.thread.name not in made  # beside the event loop
    ask(telemetry, times=5)
    assert len(made) == 2


def test_what_is_no_picture_is_not_shown() -> None:
    asked = observation()
    for wrong in (
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 32), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((1, 4_000, 3), np.uint8),
        np.zeros((2, 10_000, 3), np.uint8),
    ):
        images: Any = {"top": wrong}
        shown = object.__new__(Observation)
        shown.__dict__.update(images=images, state=asked.state, instruction="")
        assert seen_picture(shown, "top", contract()) is None
    assert slots_of(contract()) == ["top"]
