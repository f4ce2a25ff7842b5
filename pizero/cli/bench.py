"""`pizero bench control`: how well a machine, a policy and a controller keep a robot moving."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.diagnose.control.bench import ControlConfig, drive, write_control
from pizero.diagnose.control.stand_ins import SwingingPolicy
from pizero.embodiment import Embodiment
from pizero.policy.acting import Acting
from pizero.policy.controllers.controller import ControllerConfig, Kind
from pizero.policy.guard import OnViolation
from pizero.policy.limits import read_limits, usual_limits
from pizero.policy.policy import Policy
from pizero.records import from_data, write_record
from pizero.robots import ALOHA, find_embodiment
from pizero.serving.client import RemotePolicy

TOKEN = "PIZERO_TOKEN"
"""Environment variable with the token of a server: on the command line, every user of a machine reads it."""

HORIZON = 50


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What computes actions, what it is called, the robot that it is for, and the seconds of its parts."""

    policy: Acting
    name: str
    robot: Embodiment
    stages: Callable[[], Mapping[str, float]]
    report: Callable[[Mapping[str, Any]], None]


def bench_control(
    policy: Path | None = None,
    /,
    *,
    server: str = "",
    robot: str = "",
    output: Path = Path("control"),
    seconds: float = 60.0,
    rate: float = 0.0,
    command_rate: float = 0.0,
    controller: Kind = "guided",
    num_executed: int = 0,
    delay: int = 1,
    latency: float = 0.0,
    steps: tuple[int, ...] = (),
    limits: Path | None = None,
    on_violation: OnViolation = "clamp",
    instruction: str = "",
    device: str = "cpu",
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Drive a simulated robot in real time, and report how well time and motion were kept.

    The robot has the policy's dimensions and cameras, noise for pictures, and no physics: what is measured is
    the machine, the policy's latency and the controller. Without a policy or a server the actions are slow
    swings that cost nothing, which measures the machine alone. Writes `control.html`, `control.json` and the
    limits that were in force, `limits.json`, as a template of yours.

    Args:
        policy: Policy folder.
        server: Address of a policy server in place of a policy (ws://…); PIZERO_TOKEN has its token.
        robot: Name or file of the robot, where neither policy nor server says it; by default aloha.
        output: Folder to write into.
        seconds: How long to drive.
        rate: Control ticks a second; by default the robot's.
        command_rate: Commands a second, a multiple of the rate; by default one a tick.
        controller: How chunks become actions, as in `pizero evaluate`.
        num_executed: Actions between two requests, at least; by default half a chunk.
        delay: Control ticks that answers are expected to take until that is measured.
        latency: Milliseconds by which each answer is delayed.
        steps: Numbers of flow steps to choose among by the time there is; by default the policy's own.
        limits: JSON file of the guard's limits; by default those that the robot's description gives.
        on_violation: What the guard does with commands beyond a limit.
        instruction: What the robot is to do.
        device: Where the policy computes: cpu, cuda, cuda:1.
        seed: Decides noise.
        as_json: Print the figures as JSON.
    """
    subject = _subject(policy, server, robot, rate, device)
    body = subject.robot
    chosen = read_limits(limits, body) if limits else usual_limits(body)
    executed = num_executed or max(1, subject.policy.horizon // 2)
    config = ControlConfig(
        seconds=seconds,
        controller=ControllerConfig(kind=controller, num_executed=executed, delay=delay),
        command_rate=command_rate,
        latency=latency / 1e3,
        steps=steps,
        on_violation=on_violation,
        seed=seed,
    )
    record = drive(
        config,
        subject.policy,
        body,
        chosen,
        instruction=instruction,
        stages=subject.stages,
        report=subject.report,
    )
    setting = {
        "policy": subject.name,
        "robot": f"{body.name}, {body.rate:g} Hz",
        "chunks": f"{subject.policy.horizon} actions",
        "controller": f"{controller}, {executed} actions or more between requests",
        "commands": f"{command_rate or body.rate:g} a second",
        "added latency": f"{latency:g} ms",
        "guard": f"{on_violation}, limits of {limits or 'the description of the robot'}",
    }
    data = write_control(output, f"control of {body.name}", setting, record, body)
    write_record(output / "limits.json", chosen)
    if as_json:
        print(json.dumps(data))
        return
    _tell(data)
    say(f"{output / 'control.html'}, {output / 'control.json'} and {output / 'limits.json'}")


def _subject(policy: Path | None, server: str, robot: str, rate: float, device: str) -> Subject:
    if policy is not None and server:
        raise ValueError("expected a policy folder or a server, found both; leave one out")
    if robot and policy is not None:
        raise ValueError("expected no robot beside a policy, which says what its robot is")
    if policy is not None:
        loaded = Policy.load(policy, device=device)
        return _of(loaded, str(policy), loaded.contract.embodiment, rate)
    if server:
        remote = RemotePolicy(server, token=os.environ.get(TOKEN, ""))
        described = remote.metadata.get("embodiment")
        if described is None and not robot:
            raise ValueError(f"{server} does not say what its robot is; name it with --robot")
        body = find_embodiment(robot) if robot else from_data(Embodiment, described)
        found = _of(remote, server, body, rate)
        return replace(found, stages=lambda: remote.timing, report=remote.report)
    body = find_embodiment(robot) if robot else ALOHA
    body = replace(body, rate=rate) if rate else body
    return _of(SwingingPolicy(body, horizon=HORIZON), "slow swings, without a network", body, 0.0)


def _of(policy: Acting, name: str, body: Embodiment, rate: float) -> Subject:
    body = replace(body, rate=rate) if rate else body
    return Subject(policy=policy, name=name, robot=body, stages=dict, report=lambda mapping: None)


def _tell(data: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=data["what"], title_justify="left")
    for column in ("", "p50", "p95", "p99", "max"):
        table.add_column(column, justify="right" if column else "left")
    rows = {"period, ms": data["period"], "lateness, ms": data["lateness"]}
    rows |= {f"{name}, ms": part for name, part in data["stages"].items()}
    rows |= {
        "age of observations, ms": data["age"],
        "delay, ticks": data["delay"],
        "expected delay, ticks": data["estimate"],
    }
    for name, part in rows.items():
        cells = ("–",) * 4 if part is None else (f"{part[key]:.3f}" for key in ("p50", "p95", "p99", "max"))
        table.add_row(name, *cells)
    console.print(table)
    say(f"drift {data['drift']:+.3f} ms over {data['seconds']:.1f} s")
    say(
        f"deadlines missed: {data['missed']} of {data['ticks'] + data['skipped']}, at most "
        f"{data['longest_miss']} in a row"
    )
    say(
        f"held for want of actions: {data['held']} ticks, at most {data['longest_hold']:.0f} ms; answers: "
        f"{data['used']} used, {data['dropped']} too late, {sum(data['errors'].values())} errors"
    )
    done = ", ".join(f"{name} {count}" for name, count in data["interventions"].items()) or "none"
    say(f"interventions of the guard: {done}")
    if data["joints"]:
        table = Table(title="where chunks meet", title_justify="left")
        for column in ("action", "unit", "at seams", "within", "jerk rms", "jerk max"):
            table.add_column(column, justify="left" if column in ("action", "unit") else "right")
        for joint in data["joints"]:
            numbers = (joint["splice"], joint["within"], joint["jerk_rms"], joint["jerk_max"])
            table.add_row(joint["name"], joint["unit"], *("–" if n is None else f"{n:.4g}" for n in numbers))
        console.print(table)
