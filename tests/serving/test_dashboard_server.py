"""The dashboard of a real server, with a real client, in a real browser."""

from __future__ import annotations

import base64
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

from pizero.serving.client import RemotePolicy, StopRequestedError
from pizero.types import Observation
from tests.browser import CHROMIUM, WITHOUT_CHROMIUM, Page, browser
from tests.examples import observation
from tests.serving.served import QUICK, Running, Scripted, running

TOKEN = "a-token-of-the-tests"
CHUNK = np.linspace(-0.5, 0.5, 6, dtype=np.float32).reshape(3, 2)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip(WITHOUT_CHROMIUM)
    with browser() as page:
        yield page


def opened(page: Page, server: Running) -> Page:
    page.go("about:blank")
    page.problems.clear()
    page.go(f"http://127.0.0.1:{server.port}/dashboard")
    page.wait("document.body.dataset.link === 'live'")
    return page


def executed(*numbers: float) -> np.ndarray:
    return np.array([[number, -number] for number in numbers], np.float32)


def test_a_client_is_watched_stopped_and_allowed_again(chromium: Page) -> None:
    guard = {"state": "holding", "interventions": {"rate:dx": 7}}
    with running(dashboard=True) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        page = opened(chromium, server)
        remote.act(observation())
        page.wait("document.querySelector('#instruction').innerText === 'go to the red disc'")
        page.wait("document.querySelector('[data-slot=top] canvas').dataset.number === '1'")
        remote.report({"tick": 9, "executed": executed(0.1, 0.2), "guard": guard, "late_ticks": 3})
        remote.act(observation())
        page.wait("document.querySelector('#guard-state').innerText === 'holding'")
        assert "rate:dx" in page.text("#interventions")
        assert "infer" in page.text("#stages")
        page.press("Escape", 27)
        page.wait("document.querySelector('#notice').innerText.includes('All clients are stopped')")
        with pytest.raises(StopRequestedError):
            remote.act(observation())
        page.wait("document.querySelector('#notice').innerText.includes('was told')")
        page.click("#allow-all")
        page.wait("document.querySelector('#notice').innerText === ''")
        assert remote.act(observation()).shape == (3, 2)
        page.click("#clients .stop")
        page.wait("document.querySelector('.verdict').innerText.includes('Stop requested')")
        remote.close()
        with RemotePolicy(server.uri, times=QUICK) as again, pytest.raises(StopRequestedError):
            again.act(observation())  # the same robot under another name
        assert page.problems == []


def test_a_stop_reaches_a_request_that_is_being_computed(chromium: Page) -> None:
    """The chunk that was on its way is not sent."""
    began, go_on = threading.Event(), threading.Event()

    def slow(asked: Observation) -> np.ndarray:
        began.set()
        assert go_on.wait(60)
        return CHUNK

    found: list[BaseException | np.ndarray] = []

    def ask(remote: RemotePolicy) -> None:
        try:
            found.append(remote.act(observation()))
        except StopRequestedError as stop:
            found.append(stop)

    with (
        running(Scripted(slow), dashboard=True) as server,
        RemotePolicy(server.uri, times=QUICK) as remote,
    ):
        page = opened(chromium, server)
        asking = threading.Thread(target=ask, args=(remote,))
        asking.start()
        assert began.wait(60)
        page.click("#stop-all")
        page.wait("document.querySelector('#notice').innerText.includes('All clients are stopped')")
        go_on.set()
        asking.join()
        page.wait("document.querySelector('#notice').innerText.includes('was told')")
    assert [type(one) for one in found] == [StopRequestedError]
    page.wait("document.querySelector('#link').innerText.includes('server gone')")  # a page holds nothing up


def test_reports_between_two_requests_are_shown_as_one() -> None:
    """Also where a report tells nothing of some ticks."""
    with running(dashboard=True) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        remote.report({"tick": 1, "executed": executed(0.0, 0.1)})
        remote.report({"tick": 3, "executed": executed(0.2, 0.3)})
        remote.report({"tick": 6, "executed": executed(0.6)})
        remote.act(observation())
        telemetry = server.server.telemetry
        assert telemetry is not None
        (client,) = telemetry.snapshot()["clients"]
        watched = telemetry.snapshot(watched=client["name"])["watched"]
    assert watched["executed"]["ticks"] == [0, 1, 2, 3, 4, 5, 6]
    assert [row[0] for row in watched["executed"]["actions"]] == [0.0, 0.1, 0.2, 0.3, None, None, 0.6]
    assert watched["chunks"][0]["tick"] == 7


def test_a_server_with_a_token_asks_the_browser_for_it(chromium: Page) -> None:
    with running(dashboard=True, token=TOKEN) as server:
        address = f"http://127.0.0.1:{server.port}/dashboard"
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(address)
        assert refusal.value.code == 401
        assert refusal.value.headers["WWW-Authenticate"].startswith("Basic ")
        refusal.value.close()
        credentials = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        with urllib.request.urlopen(
            urllib.request.Request(address, headers={"Authorization": f"Basic {credentials}"})
        ) as answer:
            assert answer.status == 200
        chromium.go("about:blank")
        chromium.problems.clear()
        chromium.go(f"http://me:{TOKEN}@127.0.0.1:{server.port}/dashboard")
        chromium.wait("document.body.dataset.link === 'live'")
        with RemotePolicy(server.uri, times=QUICK, token=TOKEN) as remote:
            remote.act(observation())
            chromium.wait("document.querySelector('#instruction').innerText === 'go to the red disc'")
        assert chromium.problems == []


def test_without_the_option_there_is_no_dashboard() -> None:
    with running() as server, pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/dashboard")
    assert refusal.value.code == 404
    refusal.value.close()
