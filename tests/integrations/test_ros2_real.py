"""The ROS 2 node under ROS 2: `PIZERO_ROS_PYTHON` names an interpreter with rclpy and the client's needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.robots import UR5E
from tests.integrations.ros2 import ARM, FOLDER, POINT, changed
from tests.serving.served import running, tiny_policy

PYTHON = os.environ.get("PIZERO_ROS_PYTHON", "")
ROOT = FOLDER.parents[1]
SECONDS = 180.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="PIZERO_ROS_PYTHON names no interpreter with rclpy"),
]


def start(script: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run a script on a ROS domain of its own, on this machine alone."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep),
        "ROS_DOMAIN_ID": "87",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    return subprocess.Popen(
        [PYTHON, str(script), *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], number: int) -> str:
    """Send a signal, and return what the process said to the end."""
    process.send_signal(number)
    return process.communicate(timeout=SECONDS)[1]


def mapping(folder: Path, **change: Any) -> str:
    file = folder / "mapping.json"
    file.write_text(json.dumps({**POINT, "max_age_image": 1.0, "max_age_state": 1.0, **change}))
    return str(file)


def test_a_robot_moves_holds_when_it_is_blind_and_goes_on(tmp_path: Path) -> None:
    with running() as server:
        file = mapping(tmp_path, server=server.uri, instruction="")
        robot = start(ROOT / "tests" / "integrations" / "ros2_robot.py")
        node = start(FOLDER / "pizero_node.py", file)
        try:
            assert robot.stdout is not None
            moved, still, resumed = (json.loads(robot.stdout.readline()) for _ in range(3))
        finally:
            said = end(node, signal.SIGINT)
            robot.kill()
            robot.communicate()
    assert node.returncode == 0, said
    told = np.array(moved["moved"])
    assert told.shape == (20, 2)
    assert np.abs(told).max() <= 0.1 + 1e-9
    assert (still, resumed) == ({"still": True}, {"resumed": True})
    assert "no instruction (/instruction)" in said
    assert "running" in said
    assert "interrupted: the robot is told to hold" in said


def test_the_arm_of_the_example_gets_trajectories_and_gripper_commands(tmp_path: Path) -> None:
    """The arm stands still, and each command follows a hold: none is further from there than one step."""
    with running(tiny_policy(UR5E)) as server:
        file = tmp_path / "mapping.json"
        change = {"server": server.uri, "instruction": "pick up the cup", "num_executed": 1}
        file.write_text(json.dumps(changed(**change, max_age_image=1.0, max_age_state=1.0)))
        robot = start(ROOT / "tests" / "integrations" / "ros2_arm.py")
        node = start(FOLDER / "pizero_node.py", str(file))
        try:
            found = json.loads(robot.communicate(timeout=SECONDS)[0])
        finally:
            said = end(node, signal.SIGTERM)
    assert node.returncode == 0, said
    assert len(found["arm"]) == len(found["grips"]) == 5, said
    for command, fingers in zip(found["arm"], found["grips"], strict=True):
        assert command["joints"] == [f"{name}_joint" for name in ARM]
        assert command["after"] == pytest.approx(0.05)
        away = np.abs(np.array(command["at"]) - [0.0, -1.0, 0.5, -1.5, 0.2, 0.1])
        assert 0 < away.max() <= 0.1 + 1e-6
        assert abs(fingers[0] - 0.4) <= 0.2 / 1.25 + 1e-6


def test_a_check_compares_the_mapping_with_the_server(tmp_path: Path) -> None:
    with running() as server:
        fits = start(FOLDER / "pizero_node.py", mapping(tmp_path, server=server.uri), "--check")
        assert "fits" in fits.communicate(timeout=SECONDS)[0]
        assert fits.returncode == 0
        file = mapping(tmp_path, server=server.uri, rate=50.0)
        differs = start(FOLDER / "pizero_node.py", file, "--check")
        assert "rate: expected 50.0, found 10.0" in differs.communicate(timeout=SECONDS)[1]
        assert differs.returncode == 1
