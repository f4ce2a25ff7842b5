"""A real browser without a screen: Chromium, driven over its DevTools websocket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT_CHROMIUM = "needs a chromium: apt-get install chromium"
PATIENCE = 60.0
"""Seconds after which something that was awaited is taken for lost."""


class Page:
    """One tab, and what happened in it: requests, errors, and what was written to the console."""

    def __init__(self, devtools: ClientConnection) -> None:
        self.devtools = devtools
        self.session: str | None = None
        self.count = 0
        self.loaded = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something; RuntimeError says what it did not like."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self.devtools.send(json.dumps(message))
        while True:
            answer = json.loads(self.devtools.recv(timeout=PATIENCE))
            if answer.get("id") != self.count:
                self.happened(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def happened(self, event: dict[str, Any]) -> None:
        """Remember an event."""
        kind, details = event.get("method"), event.get("params", {})
        if kind == "Page.loadEventFired":
            self.loaded += 1
        elif kind == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif kind == "Network.webSocketCreated":
            self.requests.append(details["url"])
        elif kind == "Runtime.exceptionThrown":
            thrown = details["exceptionDetails"]
            self.problems.append(thrown.get("exception", {}).get("description", thrown["text"]))
        elif kind == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.problems.append(str([part.get("value") for part in details["args"]]))
        elif kind == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            entry = details["entry"]
            self.problems.append(f"{entry['text']} {entry.get('url', '')}".strip())

    def go(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        before = self.loaded
        self.call("Page.navigate", url=address)
        limit = time.monotonic() + PATIENCE
        while self.loaded == before:
            assert time.monotonic() < limit, f"{address} did not load"
            self.happened(json.loads(self.devtools.recv(timeout=PATIENCE)))

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description", thrown["text"]))
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true, and return its value."""
        limit = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            shown = self.value("document.body.innerText") if time.monotonic() > limit else ""
            assert time.monotonic() < limit, f"{expression} did not come true; the page shows:\n{shown}"
            time.sleep(0.02)
        return found

    def text(self, selector: str) -> str:
        """Return the text that is shown at a selector."""
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element, wherever that is."""
        quoted = json.dumps(selector)
        self.value(f"document.querySelector({quoted}).scrollIntoView({{block: 'center'}})")
        box = self.value(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({quoted}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key; `code` is its Windows virtual key code, `text` what it writes."""
        for kind in ("keyDown", "keyUp"):
            written = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **written
            )

    def show_as(self, *, width: int, height: int, scheme: str = "light", phone: bool = False) -> None:
        """Set the window's size in CSS pixels, and whether the user likes it light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen to a PNG file; with `whole`, what one would have to scroll to as well."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def browser() -> Iterator[Page]:
    """Start a Chromium of its own, with a profile that is thrown away; yields its one tab."""
    assert CHROMIUM is not None, WITHOUT_CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port_file = Path(folder) / "DevToolsActivePort"
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--no-first-run", "--disable-extensions", "--disable-background-networking"]
        command += ["--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": folder},  # its lock's folder goes with it
        )
        try:
            limit = time.monotonic() + PATIENCE
            while not (port_file.exists() and len(port_file.read_text().split()) == 2):
                assert process.poll() is None, "chromium ended at once"
                assert time.monotonic() < limit, "chromium opened no DevTools port"
                time.sleep(0.02)
            port, path = port_file.read_text().split()
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=2**26, ping_interval=None) as devtools:
                yield Page(devtools)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)
