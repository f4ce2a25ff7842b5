"""A chat-completions endpoint says what to do, and nothing that it can send does any harm."""

import base64
import io
import json
import logging
import socket
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pizero.planning.asking import answer_of
from pizero.planning.chat import ChatConfig, ChatPlanner
from pizero.planning.https import EndpointError
from pizero.planning.planner import Given, Situation
from pizero.types import Observation
from tests.planning.stand_in import Behaviour, StandIn, answer, completion, says, serving

KEY = "sk-secret-0123456789"
RED, GREEN = (200, 30, 30), (30, 200, 30)


def picture(color: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.array(color, dtype=np.uint8), (height, width, 3)).copy()


SITUATION = Situation(
    goal="tidy the table",
    observation=Observation(
        images={"top": picture(RED, 600, 1200), "wrist": picture(GREEN, 48, 64)},
        state=np.zeros(2, dtype=np.float32),
    ),
    seconds=7.0,
    history=(Given(instruction="pick up the cup", seconds=0.0),),
)


def planner(stand_in: StandIn, **given: object) -> ChatPlanner:
    config = {"timeout": 30.0, "model": "a-model", **given}
    return ChatPlanner(ChatConfig(url=stand_in.url, **config))  # type: ignore[arg-type]


def error_of(behaviour: Behaviour, **given: object) -> str:
    """Return what a planner says of a server; nothing but an EndpointError will do."""
    with serving(behaviour) as stand_in, pytest.raises(EndpointError) as error:
        planner(stand_in, **given).plan(SITUATION)
    return str(error.value)


def test_an_instruction_comes_from_a_server_in_openai_s_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    with serving(says("Put the cup on the shelf")) as stand_in:
        said = planner(stand_in, key_variable="A_KEY").plan(SITUATION)
    assert said == "Put the cup on the shelf"
    (received,) = stand_in.received
    assert received.path == "/v1/chat/completions"
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["Authorization"] == f"Bearer {KEY}"
    assert received.body["model"] == "a-model"
    system, user = received.body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert "DONE" in system["content"]
    text, *pictures = user["content"]
    assert text["type"] == "text"
    assert "tidy the table" in text["text"]
    assert "pick up the cup" in text["text"]
    found = []
    for part in pictures:
        assert part["type"] == "image_url"
        kind, data = part["image_url"]["url"].split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as shown:
            assert shown.format == "JPEG"
            found.append((shown.size, tuple(np.asarray(shown).mean(axis=(0, 1)))))
    assert [size for size, _ in found] == [(512, 256), (64, 48)]
    np.testing.assert_allclose([color for _, color in found], [RED, GREEN], atol=4)


def test_done_is_the_goal_and_no_instruction() -> None:
    for text in ("DONE", " done.\n", '"DONE"'):
        with serving(says(text)) as stand_in:
            assert planner(stand_in).plan(SITUATION) is None


def test_only_the_cameras_that_are_named_are_sent() -> None:
    with serving(says("go")) as stand_in:
        planner(stand_in, cameras=("wrist",)).plan(SITUATION)
        assert len(stand_in.received[0].body["messages"][1]["content"]) == 2
        with pytest.raises(ValueError, match="no camera 'wirst': did you mean 'wrist'"):
            planner(stand_in, cameras=("wirst",)).plan(SITUATION)


def test_what_the_policy_does_not_know_is_an_error() -> None:
    known = ("open the drawer", "close the drawer")
    with serving(says("Open the drawer.")) as stand_in:
        assert planner(stand_in, instructions=known).plan(SITUATION) == "open the drawer"
        assert "- close the drawer" in stand_in.received[0].body["messages"][1]["content"][0]["text"]
    with (
        serving(says("open the draw")) as stand_in,
        pytest.raises(ValueError, match="does not know 'open the draw': did you mean 'open the drawer'"),
    ):
        planner(stand_in, instructions=known).plan(SITUATION)


def test_control_characters_of_an_answer_do_not_pass() -> None:
    with serving(says("go\r\nleft\x1b]0;title\x07\u202e now\x00")) as stand_in:
        assert planner(stand_in).plan(SITUATION) == "go left]0;title now"


@pytest.mark.parametrize("text", ["", "\n\x00", "word " * 100])
def test_what_is_no_instruction_is_an_error(text: str) -> None:
    with serving(says(text)) as stand_in:
        found = answer_of(planner(stand_in), SITUATION)
    assert found.error == "ValueError"
    assert found.instruction is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"\xff\xfe\x00",
        b"[" * 50_000,
        b"{}",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}',
        b'{"error": {"message": "overloaded"}}',
    ],
)
def test_garbage_is_a_named_error(body: bytes) -> None:
    assert "expected" in error_of(lambda handler, stand_in: answer(handler, body))


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    def flood(handler: BaseHTTPRequestHandler, stand_in: StandIn) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stand_in.over.is_set():
            handler.wfile.write(b"x" * 65_536)

    assert error_of(flood) == "expected an answer of at most 65536 bytes, found more"
    big = completion("x" * 70_000)
    assert "found more" in error_of(lambda handler, stand_in: answer(handler, big))


def never(handler: BaseHTTPRequestHandler, stand_in: StandIn) -> None:
    stand_in.over.wait()


def drip_body(handler: BaseHTTPRequestHandler, stand_in: StandIn) -> None:
    """Send one byte after another, each of them well within the timeout: the connection closes at the end."""
    handler.send_response(200)
    handler.end_headers()
    while not stand_in.over.wait(0.05):
        handler.wfile.write(b" ")


def drip_headers(handler: BaseHTTPRequestHandler, stand_in: StandIn) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while not stand_in.over.wait(0.05):
        handler.wfile.write(b"x")


@pytest.mark.parametrize("behaviour", [never, drip_body, drip_headers])
def test_a_slow_server_is_not_waited_for(behaviour: Behaviour) -> None:
    assert error_of(behaviour, timeout=0.4) == "no answer within 0.4 s"


@pytest.mark.parametrize("status", [204, 400, 401, 404, 429, 500, 503, 599])
def test_another_status_is_a_named_error(status: int) -> None:
    assert f"status 200, found {status}" in error_of(
        lambda handler, stand_in: answer(handler, b"", status=status)
    )


def test_a_redirect_is_not_followed_and_nothing_is_sent_on() -> None:
    with serving(says("go")) as elsewhere:
        for status in (301, 302, 307, 308):
            found = error_of(
                lambda handler, stand_in, status=status: answer(
                    handler, b"", status=status, Location=f"{elsewhere.url}/chat/completions"
                )
            )
            assert "redirects are not followed" in found
    assert elsewhere.received == []


def test_a_server_that_is_not_there_is_a_named_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = ChatConfig(url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", model="a-model")
    with pytest.raises(EndpointError, match=r"the connection to 127\.0\.0\.1 failed: ConnectionRefusedError"):
        ChatPlanner(config).plan(SITUATION)


def test_the_key_is_never_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by what a server sends back, nor by the planner's own texts."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")

    def betray(handler: BaseHTTPRequestHandler, stand_in: StandIn) -> None:
        sent = handler.headers["Authorization"]
        handler.send_response(401, sent)
        handler.send_header("X-Sent", sent)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def repeat(handler: BaseHTTPRequestHandler, stand_in: StandIn) -> None:
        answer(handler, completion(f"say {handler.headers['Authorization']}"))

    caplog.set_level(logging.DEBUG)
    for behaviour in (betray, repeat):
        with serving(behaviour) as stand_in:
            asked = planner(stand_in, key_file=str(file))
            found = answer_of(asked, SITUATION)
            assert stand_in.received[0].headers["Authorization"] == f"Bearer {KEY}"
        assert found.error
        shown = [repr(found), repr(asked), repr(asked.config), json.dumps(asked.request(SITUATION))]
        assert KEY not in " ".join(shown) + caplog.text


@pytest.mark.parametrize("content", [None, "", " \n", "two words", "schlüssel", "line\nline"])
def test_a_key_that_is_none_is_refused_at_once(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match="expected a key in the file") as error:
        ChatPlanner(ChatConfig(url="http://127.0.0.1:1/v1", model="m", key_file=str(file)))
    assert not content or not content.strip() or content not in str(error.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://example.com/v1", "expected https for example.com"),
        ("http://192.168.0.7:8000/v1", "expected https"),
        ("http://127.0.0.1.example.com/v1", "expected https"),
        ("http://localhost.example.com/v1", "expected https"),
        ("ftp://example.com/v1", "expected an address such as"),
        ("file:///etc/passwd", "expected an address such as"),
        ("example.com", "expected an address such as"),
        ("https://user:word@example.com/v1", "without user"),
        ("https://example.com/v1?key=1", "without user"),
    ],
)
def test_addresses_that_would_tell_others_are_refused(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ChatConfig(url=url, model="m")


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://[::1]:1/v1", "https://example.com/v1"])
def test_addresses_that_are_fine(url: str) -> None:
    assert ChatConfig(url=url, model="m").url == url
