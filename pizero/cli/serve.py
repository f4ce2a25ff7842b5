"""`pizero serve`: a policy behind a port."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from pizero.cli.options import Json, say
from pizero.policy.policy import Policy
from pizero.serving.server.app import Server, run
from pizero.serving.server.authentication import read_token
from pizero.serving.server.settings import MEBIBYTE, Limits, ServerSettings

SWITCH_INTERVAL = 0.0005
"""Seconds after which a computing thread lets the event loop run; Python's own are five milliseconds."""


def serve(
    policy: Path,
    /,
    *,
    host: str = ServerSettings.host,
    port: int = ServerSettings.port,
    token_file: Path | None = None,
    insecure: bool = False,
    certificate: Path | None = None,
    key: Path | None = None,
    dashboard: bool = False,
    record: Path | None = None,
    record_limit: int = ServerSettings.record_bytes // MEBIBYTE,
    clients: int = Limits.clients,
    message_limit: int = Limits.message_bytes // MEBIBYTE,
    answer_time: float = Limits.answer_time,
    drain_time: float = Limits.drain_time,
    batch: int = ServerSettings.batch,
    seed: int = ServerSettings.seed,
    device: str = "cpu",
    dry_run: bool = False,
    as_json: Json = False,
) -> None:
    """Serve a policy to robots: to openpi's clients as they are, and to pizero's with a contract.

    Runs until it is interrupted; then it answers what was asked and ends with status 0.

    Args:
        policy: Policy folder.
        host: Address to listen on; any but this machine's own needs a token.
        port: Port to listen on; 0 takes a free one.
        token_file: File with the token that clients must send, as `Authorization: Api-Key …` or `Bearer …`.
        insecure: Listen beyond this machine without a token: whoever reaches the port drives the robot.
        certificate: Certificate (PEM) to encrypt with; clients then connect to wss://.
        key: The certificate's private key, if it is in a file of its own.
        dashboard: Show cameras, actions, times and a stop button in a browser on this machine.
        record: Folder to record requests and answers into; `pizero explain POLICY FOLDER` replays them.
        record_limit: MiB that a recording takes at most; then it ends, and the server goes on.
        clients: Clients at most.
        message_limit: MiB of one message at most.
        answer_time: Seconds after which nobody waits for an answer any more.
        drain_time: Seconds that what was asked may take to be answered when the server ends.
        batch: Requests of different clients that are computed together; more than 1 is faster for many
            clients, and then the last bits of an answer depend on how many there are.
        seed: Decides the noise of clients that give no seed.
        device: Where the policy computes: cpu, cuda, cuda:1.
        dry_run: Check everything, say what would be served, and end.
        as_json: Print what is served as one line of JSON once it is ready.
    """
    settings = ServerSettings(
        host=host,
        port=port,
        token=read_token(token_file) if token_file is not None else "",
        insecure=insecure,
        certificate=certificate,
        key=key,
        dashboard=dashboard,
        record=record,
        record_bytes=record_limit * MEBIBYTE,
        batch=batch,
        seed=seed,
        limits=Limits(
            clients=clients,
            message_bytes=message_limit * MEBIBYTE,
            answer_time=answer_time,
            drain_time=drain_time,
        ),
    )
    settings.tls()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.ERROR)
    sys.setswitchinterval(SWITCH_INTERVAL)
    loaded = Policy.load(policy, device=device)
    if dry_run:
        _tell(_summary(loaded, settings, policy, port, 0.0), as_json=as_json, running=False)
        return
    began = time.monotonic()

    def announce(server: Server) -> None:
        _tell(
            _summary(loaded, settings, policy, server.port, time.monotonic() - began),
            as_json=as_json,
            running=True,
        )

    asyncio.run(run(policy, loaded, settings, announce))
    say("answered what was asked, and ended")


def _summary(
    policy: Policy, settings: ServerSettings, folder: Path, port: int, warm_up: float
) -> dict[str, Any]:
    contract = policy.contract
    scheme = "wss" if settings.certificate else "ws"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "url": f"{scheme}://{host}:{port}",
        "policy": str(folder),
        "model": type(policy.model).__name__,
        "robot": contract.embodiment.name,
        "cameras": list(contract.embodiment.camera_names),
        "horizon": contract.horizon,
        "rate": contract.embodiment.rate,
        "contract": contract.sha256,
        "token": bool(settings.token),
        "encrypted": settings.certificate is not None,
        "dashboard": f"http{scheme[2:]}://{host}:{port}/dashboard" if settings.dashboard else None,
        "record": str(settings.record) if settings.record else None,
        "batch": settings.batch,
        "warm_up_seconds": round(warm_up, 3),
        "pid": os.getpid(),
    }


def _tell(summary: dict[str, Any], *, as_json: bool, running: bool) -> None:
    if as_json:
        print(json.dumps(summary), flush=True)
        return
    protection = "with a token" if summary["token"] else "without a token"
    protection += ", encrypted" if summary["encrypted"] else ""
    say(
        f"{summary['model']} for {summary['robot']} ({', '.join(summary['cameras'])}), chunks of "
        f"{summary['horizon']} actions at {summary['rate']:g} Hz"
    )
    say(f"{'serving' if running else 'would serve'} at {summary['url']}, {protection}")
    if summary["dashboard"]:
        say(f"dashboard: {summary['dashboard']}")
    if summary["record"]:
        say(f"recording into {summary['record']}")
    if running:
        say("Ctrl-C ends it", next_command="docs/serving.md has clients for Python, and openpi's fit too")
    sys.stdout.flush()
