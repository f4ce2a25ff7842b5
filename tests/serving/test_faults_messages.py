"""Faults F01 to F10: what is sent is wrong, or who sends it may not."""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pizero.serving.client import RemotePolicy
from pizero.serving.messages import pack
from pizero.serving.server import validation
from pizero.serving.server.settings import Limits
from tests.cli.test_cli import run
from tests.examples import observation
from tests.serving.served import (
    PATIENCE,
    QUICK,
    Running,
    act_message,
    ask,
    openpi_message,
    raw,
    running,
)
from tests.serving.test_server import get

MALICE: list[bytes] = []
"""What a pickle that was loaded has done."""


def resident() -> int:
    """Return this process's memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(limits=Limits(message_bytes=2**20, drain_time=PATIENCE)) as found:
        yield found


def refusal(server: Running, message: Any) -> dict[str, Any]:
    """Return the error that a message is answered with; afterwards the connection is as good as before."""
    computed = server.figure("pizero_batch_size_count")
    with raw(server) as connection:
        answer = ask(connection, message)
        assert answer["type"] == "error"
        assert "Traceback" not in str(answer)
        assert 'File "' not in str(answer)
        assert server.figure("pizero_batch_size_count") == computed
        assert ask(connection, act_message(9))["type"] == "chunk"
    return answer


def with_image(picture: Any, name: str = "top") -> dict[str, Any]:
    message = act_message(3)
    message["observation"]["images"] = {name: picture}
    return message


def with_state(state: Any) -> dict[str, Any]:
    message = act_message(3)
    message["observation"]["state"] = state
    return message


def with_prompt(text: Any) -> dict[str, Any]:
    message = act_message(3)
    message["observation"]["instruction"] = text
    return message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        bytes(range(256)),
        pack(act_message())[:-7],
        pack(act_message()) + b"\0",
        "a text frame",
        pack([1, 2]),
        pack({"type": "no such type", "seq": 1}),
        pack({"type": "act", "seq": 1}),
        pack({"type": "act", "seq": -1, "observation": {}}),
        pack({"type": "act", "seq": 1, "observation": 5}),
        pack(act_message(noise=np.zeros((3, 2)))),
        pack(act_message(deadline="soon")),
        pack(act_message(deadline=float("nan"))),
        pack(act_message(report=7)),
        pack({"type": "reset", "seq": 1}),
    ],
    ids=range(16),
)
def test_f01_what_is_no_message(server: Running, data: bytes | str) -> None:
    assert refusal(server, data)["code"] == "BAD_MESSAGE"


def test_f01_openpi_s_clients_hear_a_sentence(server: Running) -> None:
    with raw(server, ours=False) as connection:
        for data in (b"\xc1", b"", pack({"state": 1}), pack(openpi_message())[:-3]):
            connection.send(data)
            text = connection.recv(PATIENCE)
            assert isinstance(text, str)
            assert text.startswith("BAD_")
            assert "Traceback" not in text
        assert "actions" in ask(connection, openpi_message())


def test_f02_a_message_that_is_too_long_ends_the_connection(server: Running) -> None:
    before = resident()
    with raw(server) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(b"\0" * (2**20 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert resident() - before < 20 * 2**20
    assert get(server.port, "/healthz")[0] == 200


def test_f02_a_huge_array_is_announced(server: Running) -> None:
    before = resident()
    fields = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [10**6, 10**6]}
    assert refusal(server, msgpack.packb({"type": "act", "seq": 1, "x": fields}))["code"] == "BAD_MESSAGE"
    for announced in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        assert refusal(server, announced)["code"] == "BAD_MESSAGE"
    assert resident() - before < 20 * 2**20


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 10_000 + b"\xc0",
        b"\x81\xa1a" * 10_000 + b"\xc0",
        msgpack.packb({str(number): 0 for number in range(100_000)}),
        msgpack.packb([[0] * 1000] * 100),
    ],
    ids=["lists in lists", "maps in maps", "many keys", "lists of lists"],
)
def test_f03_deep_or_many_is_counted_and_never_built(
    server: Running, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bytes] = []
    unpack = validation.unpack
    monkeypatch.setattr(validation, "unpack", lambda data: built.append(data) or unpack(data))
    assert refusal(server, data)["code"] == "BAD_MESSAGE"
    assert data not in built


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        ({}, ["expected the cameras top, found none", "missing: top"]),
        ({"front": 1}, ["missing: top", "unknown: front"]),
        ({"tpo": 1}, ["unknown: tpo", "did you mean 'top'"]),
        ({"top": 1, "left": 1}, ["missing: none", "unknown: left"]),
    ],
)
def test_f04_cameras_are_bound_by_name(server: Running, images: dict[str, int], parts: list[str]) -> None:
    message = act_message(3)
    picture = observation().images["top"]
    message["observation"]["images"] = dict.fromkeys(images, picture)
    answer = refusal(server, message)
    assert (answer["code"], answer["seq"]) == ("BAD_IMAGE", 3)
    for part in parts:
        assert part in answer["message"]


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (np.zeros((32, 32, 3), dtype=np.float32), "float32 of shape [32, 32, 3]"),
        (np.full((32, 32, 3), 255.0), "float64 of shape [32, 32, 3]"),
        (np.zeros((3, 32, 32), dtype=np.uint8), "channels first"),
        (np.zeros((32, 32), dtype=np.uint8), "uint8 of shape [32, 32]"),
        (np.zeros((32, 32, 1), dtype=np.uint8), "uint8 of shape [32, 32, 1]"),
        (np.zeros((32, 32, 4), dtype=np.uint8), "uint8 of shape [32, 32, 4]"),
        (np.zeros((0, 32, 3), dtype=np.uint8), "[0, 32, 3]"),
        (np.zeros((1, 5000, 3), dtype=np.uint8), "[1, 5000, 3]"),
        (b"\xff\xd8 a jpeg", "found b'"),
        ([[[1, 2, 3]]], "found [[["),
        (None, "found None"),
    ],
    ids=range(11),
)
def test_f05_what_is_no_picture(server: Running, picture: Any, found: str) -> None:
    answer = refusal(server, with_image(picture))
    assert answer["code"] == "BAD_IMAGE"
    assert answer["message"].startswith("images.top: expected uint8 [height, width, 3], RGB")
    assert found in answer["message"]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (np.array([0.5, np.nan], dtype=np.float32), "y (number 1) is nan"),
        (np.array([np.inf, 0.5], dtype=np.float32), "x (number 0) is inf"),
        (np.array([-np.inf, np.nan], dtype=np.float32), "x (number 0) is -inf; y (number 1) is nan"),
        (np.array([1e30, 0.5], dtype=np.float32), "x (number 0) is 1.0000000150474662e+30"),
        (np.array([1e300, 0.5]), "x (number 0) is 1e+300"),
        (np.zeros(1, dtype=np.float32), "expected 2 numbers (x, y), found shape [1]"),
        (np.zeros(3, dtype=np.float32), "found shape [3]"),
        (np.zeros((1, 2), dtype=np.float32), "found shape [1, 2]"),
        (np.array(["a", "b"]), "found <U1 of shape [2]"),
        (np.zeros(2, dtype=bool), "found bool of shape [2]"),
        ("0 0", "found '0 0'"),
        (None, "found None"),
    ],
    ids=range(12),
)
def test_f06_what_is_no_state(server: Running, state: Any, found: str) -> None:
    answer = refusal(server, with_state(state))
    assert answer["code"] == "BAD_STATE"
    assert found in answer["message"]


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return MALICE.append, (b"ran",)


def test_f07_nothing_is_unpickled(server: Running) -> None:
    """CPython says of every class that a pickle names that it was looked up."""
    loaded: list[str] = []
    watching = True
    sys.addaudithook(lambda event, args: loaded.append(event) if watching and "pickle" in event else None)
    payload = base64.b64decode("gASVHgAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjARscyAtlIWUUpQu")
    for dtype in ("O", "|O", "V8", "<c8", "no dtype"):
        fields = {b"__ndarray__": True, b"data": payload[:40], b"dtype": dtype, b"shape": [5]}
        message = act_message(3)
        message["observation"]["state"] = fields
        assert refusal(server, msgpack.packb(_plain(message)))["code"] == "BAD_MESSAGE"
    for dtype in ("<M8[s]", "<m8[s]"):
        assert refusal(server, with_state(np.zeros(2, dtype=dtype)))["code"] == "BAD_STATE"
    assert refusal(server, payload)["code"] == "BAD_MESSAGE"
    assert refusal(server, with_state(payload))["code"] == "BAD_STATE"
    watching = False
    assert loaded == []
    assert MALICE == []


def test_f07_what_is_not_contiguous_arrives_as_it_is_seen(server: Running) -> None:
    seen = observation()
    turned = {"top": seen.images["top"][::-1, ::-1]}
    message = act_message(3)
    message["observation"]["images"] = turned
    copied = act_message(3)
    copied["observation"]["images"] = {"top": np.ascontiguousarray(turned["top"])}
    with raw(server) as one, raw(server) as other:
        assert np.array_equal(ask(one, message)["actions"], ask(other, copied)["actions"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("x" * 100_000, "at most 2000 characters, found 100000"),
        ("x" * 1000, "at most 38 tokens, found 1000"),
        ("go\x00there", r"'\x00'"),
        ("go\x1b[2J", r"'\x1b'"),
        (b"go", "found b'go'"),
        (5, "found 5"),
        (np.array("go"), "expected a text"),
    ],
    ids=range(9),
)
def test_f08_what_is_no_instruction(server: Running, text: Any, found: str) -> None:
    answer = refusal(server, with_prompt(text))
    assert answer["code"] == "BAD_PROMPT"
    assert found in answer["message"]


def test_f08_bytes_that_are_no_text_and_line_breaks(server: Running) -> None:
    message = pack(with_prompt("go to it")).replace(b"go to it", b"go \xff\xfe it")
    assert refusal(server, message)["code"] == "BAD_MESSAGE"
    with raw(server) as one, raw(server) as other:
        broken = ask(one, with_prompt("go\nthere"))["actions"]
        assert np.array_equal(broken, ask(other, with_prompt("go there"))["actions"])


TOKEN = "a-token-of-some-length"


def test_f09_only_the_token_opens() -> None:
    with running(token=TOKEN) as server:
        for wrong in ("", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü" * 5):
            with pytest.raises((InvalidStatus, UnicodeEncodeError)) as refused, raw(server, token=wrong):
                pass
            if isinstance(refused.value, InvalidStatus):
                assert refused.value.response.status_code == 401
                assert refused.value.response.body == b"a token is needed\n"
                assert "navigation2d" not in str(refused.value.response.headers)
        with pytest.raises(ConnectionRefusedError, match="401: give the token"):
            RemotePolicy(server.uri, times=QUICK, token="wrong")
        assert get(server.port, "/metrics")[0] == 401
        assert get(server.port, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert get(server.port, "/healthz")[0] == 200
        with raw(server, token=TOKEN) as connection:
            assert ask(connection, act_message())["type"] == "chunk"
        with RemotePolicy(server.uri, times=QUICK, token=TOKEN) as remote:
            assert remote.act(observation()).shape == (3, 2)


def test_f09_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared has one length, whatever was sent, and the comparison is the library's."""
    from pizero.serving.server import authentication

    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(
        authentication.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or False
    )
    for header in ("", "Bearer", "Bearer x", "Api-Key " + "y" * 1000, "Basic eDp5", "\udcff"):
        assert not authentication.may_enter(TOKEN, header)
    assert len(compared) == 6
    assert {len(part) for pair in compared for part in pair} == {32}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_f10_no_token_no_network(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "serve", tmp_path, "--host", host) == 2
    assert "give a token (--token-file), listen on 127.0.0.1, or say --insecure" in capsys.readouterr().err


def _plain(value: Any) -> Any:
    """Return a message whose arrays are written out as openpi's maps, for msgpack alone."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": list(value.shape),
        }
    return value
