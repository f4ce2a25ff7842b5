"""A dashboard behind a server of its own, and what a robot would send to it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from pizero.contract import Contract
from pizero.robots import METAWORLD
from pizero.serving.server.dashboard import (
    Dashboard,
)
from pizero.serving.server.telemetry import Telemetry
from pizero.types import Observation
from tests.examples import contract

ROBOT = replace(
    METAWORLD,
    cameras=(
        replace(METAWORLD.cameras[0], height=48, width=96),
        replace(METAWORLD.cameras[1], height=96, width=64, required=False),
    ),
)
SECONDS = {"queue": 0.002, "decode": 0.001, "infer": 0.040, "send": 0.001}


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
            return Response(page.status, "", Headers(page.headers), page.body)

        self.server = await serve(
            self.dashboard.live, "127.0.0.1", self.port, process_request=answer, compression=None
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
            self.server = None


def ask(telemetry: Telemetry, client: str = "arm", *, times: int = 1, tick: int | None = None) -> None:
    for turn in range(times):
        telemetry.observed(client, scene(seed=turn))
        if tick is not None:
            executed = chunk()[: min(8, tick + turn + 1)] + 0.1
            guard = {"state": "running", "interventions": {"rate limit of hand_dx": 3}}
            telemetry.reported(
                client, {"tick": tick + turn, "executed": executed, "guard": guard, "late_ticks": 2}
            )
        telemetry.answered(client, chunk(), SECONDS)
