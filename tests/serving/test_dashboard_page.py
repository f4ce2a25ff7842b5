"""The dashboard as a person sees it: in a real browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pizero.data.processor import Processor
from pizero.serving.server.dashboard import (
    Dashboard,
)
from pizero.serving.server.telemetry import Telemetry
from tests.browser import CHROMIUM, WITHOUT_CHROMIUM, Page, browser
from tests.serving.dashboards import (
    ROBOT,
    SECONDS,
    Served,
    ask,
    chunk,
    robot_contract,
    scene,
)

FIRST_LABEL = "document.querySelector('#dimensions canvas')?.getAttribute('aria-label')?"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"

BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip(WITHOUT_CHROMIUM)
    with browser() as page:
        yield page


@pytest.fixture
def page(chromium: Page, served: Served) -> Page:
    """The page of a server that has just started."""
    chromium.go("about:blank")  # the page before misses its server, and says so
    chromium.requests.clear()
    chromium.problems.clear()
    chromium.show_as(width=1280, height=800)
    chromium.go(f"http://127.0.0.1:{served.port}/dashboard")
    chromium.wait("document.body.dataset.link === 'live'")
    return chromium


def canvas_pixels(page: Page, selector: str) -> np.ndarray:
    url = page.value(f"document.querySelector({json.dumps(selector)}).toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))


def colored(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    """Count the pixels of a colour, also where it is blended a little."""
    close = np.abs(pixels[..., :3].astype(int) - np.array(color)).max(axis=-1) < 24
    return int((close & (pixels[..., 3] > 200)).sum())


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
    for text in ("arm", "hand_dx", "cm per physics tick", "gripper_opening", "3 answers"):
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
    telemetry.reported("arm", {"tick": 23, "executed": executed})
    page.wait(f"{FIRST_LABEL}.includes('executed 0,')")
    pixels = canvas_pixels(page, "#dimensions figure:nth-child(1) canvas")
    blue = np.abs(pixels[..., :3].astype(int) - np.array(BLUE)).max(axis=-1) < 24
    rows, columns = np.nonzero(blue & (pixels[..., 3] > 200))
    width = pixels.shape[1]
    at = [44 + (tick - 7) / 24 * (width - 48) for tick in (18, 21)]  # from tick 7 = 23 - 2 horizons to 31
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
        chromium.go("about:blank")
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
