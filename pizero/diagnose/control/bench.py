"""A robot that is driven for some time, and the report of it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pizero.diagnose.control.measure import measure
from pizero.diagnose.control.page import control_page
from pizero.diagnose.control.stand_ins import Delayed, SimulatedRobot
from pizero.embodiment import Embodiment
from pizero.policy.acting import Acting
from pizero.policy.controllers.controller import ControllerConfig, make_player
from pizero.policy.executor import Executor
from pizero.policy.guard import Guard, OnViolation
from pizero.policy.inference import InferenceThread
from pizero.policy.limits import Limits
from pizero.policy.record import Record
from pizero.policy.steps import StepChooser
from pizero.progress import counting


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """How a robot is driven: for how many seconds, by which controller, at how many commands a second (0: one
    an action), how late each answer is made in seconds, and among which numbers of flow steps is chosen.
    """

    seconds: float = 60.0
    controller: ControllerConfig
    command_rate: float = 0.0
    latency: float = 0.0
    steps: tuple[int, ...] = ()
    on_violation: OnViolation = "clamp"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.latency < 0 or self.command_rate < 0:
            raise ValueError(
                f"expected a run of more than 0 seconds, latency and commands a second of 0 or more, found "
                f"{self.seconds}, {self.latency} and {self.command_rate}"
            )


def drive(
    config: ControlConfig,
    policy: Acting,
    robot: Embodiment,
    limits: Limits,
    *,
    instruction: str = "",
    stages: Callable[[], Mapping[str, float]] = dict,
    report: Callable[[Mapping[str, Any]], None] = lambda mapping: None,
) -> Record:
    """Drive a simulated robot with a policy, in real time, and return what happened."""
    player = make_player(config.controller, horizon=policy.horizon, embodiment=robot)
    guard = Guard(robot, limits, config.on_violation, rate=config.command_rate or None)
    policy.reset(seed=config.seed)
    answering = Delayed(policy, config.latency) if config.latency else policy
    with counting("driving", round(config.seconds), "s") as progress:

        def tell(mapping: Mapping[str, Any]) -> None:
            report(mapping)
            passed = int((mapping["tick"] + 1) / robot.rate)
            if passed > progress.done:
                progress.advance(passed - progress.done, note=f"{mapping['guard']['state']}")

        executor = Executor(
            SimulatedRobot(robot, instruction, seed=config.seed),
            player,
            InferenceThread(answering, stages=stages),
            guard,
            command_rate=config.command_rate or None,
            steps=StepChooser(config.steps) if config.steps else None,
            report=tell,
        )
        return executor.run(seconds=config.seconds)


def write_control(
    folder: Path, title: str, setting: Mapping[str, str], record: Record, robot: Embodiment
) -> dict[str, Any]:
    """Write `control.json` and `control.html` into a folder, and return the figures of the former."""
    figures = measure(record, robot)
    data = {"what": title, "setting": dict(setting), "machine": machine(), **asdict(figures)}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "control.json", json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / "control.html", control_page(title, {**setting, **machine()}, figures, record, robot))
    return data


def machine() -> dict[str, str]:
    """Return what a reader must know of the machine: a figure of time means nothing without it."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "not known"
    return {
        "system": platform.platform(),
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load over 1, 5 and 15 minutes, at the end": load,
    }


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
