"""The dashboard, as a person sees it in a real browser, and as others try to use it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect

from pizero.contract import Contract
from pizero.data.processor import Processor
from pizero.robots import METAWORLD
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
from tests.browser import CHROMIUM, WITHOUT_CHROMIUM, Page, browser
from tests.examples import contract, observation

ROBOT = replace(
    METAWORLD,
    cameras=(
        replace(METAWORLD.cameras[0], height=48, width=96),
        replace(METAWORLD.cameras[1], height=96, width=64, required=False),
    ),
)
SECONDS = {"queue": 0.002, "decode": 0.001, "infer": 0.040, "send": 0.001}
FIRST_LABEL = "document.querySelector('#dimensions canvas')?.getAttribute('aria-label')?"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def robot_contract() -> Contract:
    return replace(contract(ROBOT), image_size=64, horizon=8)


def scene(*, instruction: str = "push the red puck", seed: int = 0) -> Observation:
    """Return pictures of a few flat colours, which a JPEG keeps, in places that resizing moves."""
    rng = np.random.default_rng(seed)
    images = {}
    for camera in ROBOT.cameras:
        blocks = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        images[camera.name] = np.kron(blocks, np.ones((camera.height // 2, camera.width // 2, 1), np.uint8))
    return Observation(
        images=images, state=np.array([0.1, 0.6, 0.2, 1.0], np.float32), instruction=instruction
    )


def chunk(offset: float = 0.0) -> np.ndarray:
    return (offset + np.linspace(-0.5, 0.5, 32).reshape(8, 4)).astype(np.float32)


class Served:
    """The dashboard behind websockets' own server, in a thread; it can be taken away and come back."""

    def __init__(self, dashboard: Dashboard) -> None:
        self.dashboard = dashboard
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server: Server | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        self.run(self._start())

    def stop(self) -> None:
        self.run(self._stop())

    def close(self) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def _start(self) -> None:
        def answer(connection: ServerConnection, request: Request) -> Response | None:
            page = self.dashboard.page(request.path, request.headers)
            if page is None:
                return None
            headers = Headers({**page.headers, "Content-Length": str(len(page.body)), "Connection": "close"})
            return Response(page.status, "", headers, page.body)

        self.server = await serve(
            self.dashboard.live, "127.0.0.1", self.port, process_request=answer, compression=None
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
            self.server = None


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def served(telemetry: Telemetry) -> Iterator[Served]:
    server = Served(Dashboard(telemetry, robot_contract()))
    yield server
    server.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip(WITHOUT_CHROMIUM)
    with browser() as page:
        yield page


@pytest.fixture
def page(chromium: Page, served: Served) -> Page:
    """The page of a server that has just started."""
    chromium.requests.clear()
    chromium.problems.clear()
    chromium.show_as(width=1280, height=800)
    chromium.go(f"http://127.0.0.1:{served.port}/dashboard")
    chromium.wait("document.body.dataset.link === 'live'")
    return chromium


def ask(telemetry: Telemetry, client: str = "arm", *, times: int = 1, tick: int | None = None) -> None:
    for turn in range(times):
        telemetry.observed(client, scene(seed=turn))
        if tick is not None:
            executed = chunk()[: min(8, tick + turn)] + 0.1
            guard = {"state": "running", "interventions": {"rate limit of hand_dx": 3}}
            telemetry.reported(
                client, {"tick": tick + turn, "executed": executed, "guard": guard, "late_ticks": 2}
            )
        telemetry.answered(client, chunk(), SECONDS)


def canvas_pixels(page: Page, selector: str) -> np.ndarray:
    url = page.value(f"document.querySelector({json.dumps(selector)}).toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))


def colored(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    """Count the pixels of a colour, also where it is blended a little."""
    close = np.abs(pixels[..., :3].astype(int) - np.array(color)).max(axis=-1) < 24
    return int((close & (pixels[..., 3] > 200)).sum())


BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


# ---- in a browser


def test_the_page_waits_for_a_client_and_then_shows_it(
    page: Page, telemetry: Telemetry, served: Served
) -> None:
    assert "No client yet" in page.text("body")
    assert page.text("#link") == "connected"
    ask(telemetry, times=3, tick=20)
    page.wait("!document.getElementById('watched').hidden")
    page.wait("document.querySelector('#instruction').innerText === 'push the red puck'")
    assert "No client yet" not in page.text("body")
    shown = page.text("body")
    for text in ("arm", "asking", "hand_dx", "cm per physics tick", "gripper_opening", "3 answers"):
        assert text in shown, text
    assert page.text("#state tbody tr:nth-child(2)").split()[:3] == ["hand_y", "0.6", "m"]
    assert page.problems == []
    ours = (f"http://127.0.0.1:{served.port}/dashboard", f"ws://127.0.0.1:{served.port}/dashboard")
    assert len(page.requests) >= 5
    assert [url for url in page.requests if not url.startswith(ours)] == []


def test_the_cameras_show_what_the_model_sees(page: Page, telemetry: Telemetry) -> None:
    """The truth is what the model's own preprocessing makes of the observation."""
    for number in (1, 2):
        asked = scene(seed=number)
        telemetry.observed("arm", asked)
        pictures = Processor(robot_contract()).encode(asked).images.transpose(0, 2, 3, 1)
        page.wait(f"document.querySelector('[data-slot=left] canvas')?.dataset.number === '{number}'")
        for slot, expected in zip(("right", "left"), pictures, strict=True):
            shown = canvas_pixels(page, f"[data-slot={slot}] canvas")
            assert shown.shape == (64, 64, 4)
            difference = np.abs(shown[..., :3].astype(int) - expected)
            assert difference.mean() < 3.0
            assert expected.any(axis=-1).mean() <= 0.67  # there are black bars to be seen
            assert shown[0 if slot == "right" else slice(None), 0, :3].max() < 12


def test_a_camera_that_is_not_sent_is_named(page: Page, telemetry: Telemetry) -> None:
    asked = scene()
    telemetry.observed("arm", replace(asked, images={"right": asked.images["right"]}))
    page.wait("document.querySelector('[data-slot=left]')?.innerText.includes('hidden from the model')")
    assert "64 × 64" in page.text("[data-slot=right]")


def test_chunks_and_executed_actions_are_drawn(page: Page, telemetry: Telemetry) -> None:
    telemetry.observed("arm", scene())
    telemetry.answered("arm", chunk(), SECONDS)
    page.wait("document.querySelectorAll('#dimensions canvas').length === 4")
    page.wait(f"{FIRST_LABEL}.includes('planned −0.5')")
    first = "#dimensions figure:nth-child(1) canvas"
    pixels = canvas_pixels(page, first)
    assert colored(pixels, ORANGE) > 50
    assert colored(pixels, BLUE) == 0
    assert "does not report" in page.text("#axis")
    ask(telemetry, times=2, tick=20)
    page.wait(f"{FIRST_LABEL}.includes('last executed 0.503')")
    pixels = canvas_pixels(page, first)
    assert colored(pixels, BLUE) > 50
    assert colored(pixels, ORANGE) > 50
    assert "limits −1 to 1" in page.value(f"document.querySelector('{first}').getAttribute('aria-label')")


def test_what_is_executed_is_drawn_where_it_belongs(page: Page, telemetry: Telemetry) -> None:
    """The highest of the executed values, at a known tick, is the highest blue pixel."""
    executed = np.zeros((8, 4), np.float32)
    executed[2, 0], executed[5, 0] = 0.8, -0.8
    telemetry.reported("arm", {"tick": 24, "executed": executed})
    page.wait(f"{FIRST_LABEL}.includes('executed 0,')")
    pixels = canvas_pixels(page, "#dimensions figure:nth-child(1) canvas")
    blue = np.abs(pixels[..., :3].astype(int) - np.array(BLUE)).max(axis=-1) < 24
    rows, columns = np.nonzero(blue & (pixels[..., 3] > 200))
    width = pixels.shape[1]
    at = [44 + (tick - 8) / 24 * (width - 48) for tick in (18, 21)]  # from tick 8 = 24 - 2 horizons to 32
    assert columns[rows == rows.min()].mean() == pytest.approx(at[0], abs=2.5)
    assert columns[rows == rows.max()].mean() == pytest.approx(at[1], abs=2.5)


def test_latency_is_shown_by_stage(page: Page, telemetry: Telemetry) -> None:
    for place in range(101):
        telemetry.observed("arm", scene())
        telemetry.answered("arm", chunk(), {"queue": 0.001, "infer": place / 1000})
    page.wait("document.querySelector('#counted').innerText.includes('101')")
    rows = [row.split() for row in page.text("#stages tbody").splitlines()]
    assert rows == [["queue", "1", "1", "1"], ["infer", "50", "95", "99"], ["total", "51", "96", "100"]]
    page.wait("document.querySelector('#timeline').getAttribute('aria-label').includes('p99 100 ms')")
    pixels = canvas_pixels(page, "#timeline")
    assert colored(pixels, (0xE6, 0x9F, 0x00)) > 1_000  # infer, the second stage
    assert colored(pixels, BLUE) > 20


def test_the_guard_is_shown_with_its_interventions_by_name(page: Page, telemetry: Telemetry) -> None:
    ask(telemetry)
    page.wait("document.querySelector('#guard-state').innerText === 'not reported'")
    guard = {"state": "holding", "interventions": {"stale observation": 1, "rate limit of hand_dx": 12}}
    telemetry.reported("arm", {"tick": 4, "executed": chunk()[:4], "guard": guard, "late_ticks": 1})
    page.wait("document.querySelector('#guard-state').innerText === 'holding'")
    assert page.text("#late") == "1 late tick"
    rows = [row.split("\t") for row in page.text("#interventions").splitlines()]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["rate limit of hand_dx", "12"],
        ["stale observation", "1"],
    ]


def test_hostile_texts_stay_texts(page: Page, telemetry: Telemetry) -> None:
    telemetry.observed(HOSTILE, scene(instruction=HOSTILE))
    guard = {"state": "running", "interventions": {HOSTILE[:80]: 1}}
    telemetry.reported(HOSTILE, {"tick": 2, "executed": chunk()[:2], "guard": guard, "late_ticks": 0})
    telemetry.answered(HOSTILE, chunk(), {HOSTILE: 0.1})
    page.wait("document.querySelector('#stages tbody').innerText.includes('onerror')")
    assert page.text("#instruction") == HOSTILE
    assert page.text("#clients .name") == HOSTILE
    assert page.text("#interventions th") == HOSTILE[:80]
    page.click("#clients .stop")
    page.wait("document.querySelector('#clients .verdict').innerText.includes('Stop requested')")
    assert telemetry.stop_requested(HOSTILE)
    assert page.value("document.querySelectorAll('img, body script').length") == 0
    assert "taken" not in page.value("document.title")
    assert page.problems == []


def test_names_of_a_hostile_contract_stay_texts(chromium: Page, telemetry: Telemetry) -> None:
    name = HOSTILE
    actions = tuple(replace(one, name=f"{name}{place}", unit=name) for place, one in enumerate(ROBOT.actions))
    cameras = (replace(ROBOT.cameras[0], name=name),)
    robot = replace(ROBOT, name=name, actions=actions, cameras=cameras)
    server = Served(Dashboard(telemetry, replace(robot_contract(), embodiment=robot)))
    try:
        chromium.problems.clear()
        chromium.go(f"http://127.0.0.1:{server.port}/dashboard")
        chromium.wait("document.body.dataset.link === 'live'")
        asked = replace(scene(), images={name: scene().images["right"]})
        telemetry.observed("arm", asked)
        telemetry.answered("arm", chunk(), SECONDS)
        chromium.wait("document.querySelector('#cameras canvas')?.dataset.number === '1'")
        assert chromium.text("#dimensions .unit") == name
        assert chromium.value("document.querySelectorAll('img, body script').length") == 0
        assert chromium.value("document.title").startswith(name)
        assert chromium.problems == []
    finally:
        server.close()


def test_stop_stops_one_client_and_says_what_became_of_it(page: Page, telemetry: Telemetry) -> None:
    for name in ("left arm", "right arm"):
        ask(telemetry, name, tick=9)
    page.wait("document.querySelectorAll('#clients li').length === 2")
    page.click("[data-name='right arm'] .stop")
    page.wait("document.querySelector('[data-name=\"right arm\"]').innerText.includes('has not asked since')")
    assert "up to 0.4 s" in page.text("[data-name='right arm']")  # 8 actions at 20 Hz
    assert not telemetry.stop_requested("left arm")
    assert telemetry.stop_requested("right arm")  # as the server asks at the client's next request
    page.wait("document.querySelector('[data-name=\"right arm\"]').innerText.includes('Told to stop')")
    guard = {"state": "stopped", "interventions": {}}
    telemetry.reported("right arm", {"tick": 10, "executed": chunk()[:1], "guard": guard, "late_ticks": 0})
    page.wait("document.querySelector('[data-name=\"right arm\"]').innerText.includes('it has stopped')")
    page.click("[data-name='right arm'] .allow")
    page.wait("document.querySelector('[data-name=\"right arm\"] .verdict').innerText === ''")
    assert not telemetry.stop_requested("right arm")


def test_stop_all_by_keyboard_holds_also_for_who_comes_later(page: Page, telemetry: Telemetry) -> None:
    ask(telemetry)
    page.wait("document.querySelectorAll('#clients li').length === 1")
    page.press("Escape", 27)
    page.wait("document.querySelector('#notice').innerText.includes('All clients are stopped')")
    assert "1 client has not asked since" in page.text("#notice")
    assert telemetry.stop_requested("arm")
    assert telemetry.stop_requested("somebody new")
    page.wait("document.querySelector('#notice').innerText.includes('was told')")
    page.value("document.getElementById('allow-all').focus()")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('#notice').innerText === ''")
    assert not telemetry.stop_requested("arm")
    assert not telemetry.stop_requested("somebody new")


def test_every_control_is_reached_by_tab_and_has_a_name(page: Page, telemetry: Telemetry) -> None:
    ask(telemetry)
    page.wait("document.querySelectorAll('#clients li').length === 1")
    reached = []
    for _ in range(4):
        page.press("Tab", 9)
        reached.append(
            page.value("(e => e.getAttribute('aria-label') ?? e.innerText)(document.activeElement)")
        )
    assert any(text.startswith("Stop all") for text in reached)
    assert "Stop arm" in reached
    assert any(text.startswith("arm") for text in reached)


def test_a_server_that_goes_is_told_and_comes_back(page: Page, telemetry: Telemetry, served: Served) -> None:
    ask(telemetry)
    page.wait("document.querySelectorAll('#clients li').length === 1")
    served.stop()
    page.wait("document.querySelector('#link').innerText.includes('server gone, reconnecting')")
    page.click("#stop-all")
    page.wait("document.querySelector('#notice').innerText.includes('NOT stopped')")
    assert "emergency stop" in page.text("#notice")
    assert not telemetry.stop_requested("arm")
    served.start()
    page.wait("document.body.dataset.link === 'live'")
    ask(telemetry, times=5)
    page.wait("document.querySelector('#clients').innerText.includes('6 answers')")
    page.wait("document.querySelector('[data-slot=right] canvas').dataset.number === '6'")


def test_a_stop_that_the_server_does_not_confirm_is_told(
    page: Page, telemetry: Telemetry, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(telemetry)
    page.wait("document.querySelectorAll('#clients li').length === 1")
    monkeypatch.setattr(telemetry, "request_stop", lambda client: None)
    page.click("#stop-all")
    page.wait("document.querySelector('#notice').innerText.includes('has not confirmed')")
    assert "emergency stop" in page.text("#notice")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(
    page: Page, telemetry: Telemetry, width: int, height: int, scheme: str, tmp_path: Path
) -> None:
    page.show_as(width=width, height=height, scheme=scheme, phone=width < 500)
    telemetry.observed("arm", scene(instruction="put" * 400))
    ask(telemetry, tick=20)
    page.wait("!document.getElementById('watched').hidden")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("document.getElementById('stop-all').getBoundingClientRect().bottom") < 120
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 26)")


# ---- without a browser


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
