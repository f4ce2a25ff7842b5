"""Stand-ins for ROS 2: messages that Pillow and plain numbers make, and a robot whose policy a test plays."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from pizero.records import read_record, to_data
from pizero.robots import UR5E

FOLDER = Path(__file__).parents[2] / "integrations" / "ros2"
SECONDS = 60.0


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("pizero_node", FOLDER / "pizero_node.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pizero_node"] = module
    spec.loader.exec_module(module)
    return module


node = _load()
EXAMPLE = read_record(node.NodeMapping, FOLDER / "example.json")


def stamp(seconds: float) -> SimpleNamespace:
    whole = int(seconds)
    return SimpleNamespace(stamp=SimpleNamespace(sec=whole, nanosec=round((seconds - whole) * 1e9)))


def image(pixels: np.ndarray, encoding: str, *, padding: int = 0, seconds: float = 0.0) -> SimpleNamespace:
    """Return a sensor_msgs/Image whose bytes Pillow wrote, rows padded by some bytes."""
    raw = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "L"}[encoding]
    picture = Image.fromarray(pixels).convert({"BGR": "RGB", "BGRA": "RGBA"}.get(raw, raw))
    step = picture.width * len(raw) + padding
    return SimpleNamespace(
        header=stamp(seconds),
        height=picture.height,
        width=picture.width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=picture.tobytes("raw", raw, step),
    )


def joints(seconds: float = 0.0, **positions: float) -> SimpleNamespace:
    """Return a sensor_msgs/JointState."""
    return SimpleNamespace(
        header=stamp(seconds), name=list(positions), position=list(positions.values()), velocity=[], effort=[]
    )


def pixels(height: int = 6, width: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def compressed(data: bytes, seconds: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(header=stamp(seconds), format="rgb8; jpeg compressed bgr8", data=data)


ARM = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")


def ur5e(seconds: float = 10.0, *, instruction: str = "pick up the cup") -> Any:
    """Return an inbox that holds what an arm shows at some second, its joints in an order of their own."""
    inbox = node.Inbox(EXAMPLE)
    inbox.instruct(instruction)
    arm = {f"{name}_joint": 0.1 * place for place, name in enumerate(ARM)}
    png = io.BytesIO()
    Image.fromarray(pixels(seed=2)).save(png, "PNG")
    inbox.messages = {
        "/joint_states": joints(seconds, **dict(sorted(arm.items())), extra_joint=9.0),
        "/gripper/joint_states": joints(seconds, robotiq_85_left_knuckle_joint=0.4),
        "/base_camera/color/image_raw": image(pixels(seed=1), "bgr8", seconds=seconds),
        "/wrist_camera/color/image_raw/compressed": compressed(png.getvalue(), seconds),
    }
    return inbox


def changed(**change: Any) -> dict[str, Any]:
    return json.loads((FOLDER / "example.json").read_text()) | change


POINT = {
    "server": "ws://127.0.0.1:1",
    "embodiment": "navigation2d",
    "rate": 10.0,
    "cameras": [{"name": "top", "topic": "/top"}],
    "state": [
        {"name": n, "unit": "fraction", "kind": "position", "topic": "/point", "joint": n} for n in "xy"
    ],
    "actions": [
        {"name": f"d{n}", "unit": "tenth", "kind": "velocity", "output": "base", "joint": n, "scale": 10.0}
        for n in "xy"
    ],
    "outputs": [{"name": "base", "topic": "/base", "message": "float64_multi_array", "joints": ["y", "x"]}],
    "instruction_topic": "/instruction",
    "instruction": "go to the red disc",
    "num_executed": 2,
}


def point(tmp_path: Path, **change: Any) -> Any:
    file = tmp_path / "point.json"
    file.write_text(json.dumps(POINT | change))
    return read_record(node.NodeMapping, file)


class Answers:
    """A policy whose answers a test gives one by one, when it wants."""

    def __init__(self) -> None:
        self.there = threading.Semaphore(0)
        self.answers: list[Any] = []

    def act(self, observation: Any, *, continuation: Any = None) -> np.ndarray:
        assert self.there.acquire(timeout=SECONDS)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return np.asarray(answer, dtype=np.float32)


Sent = list[tuple[str, list[float]]]


class Rig:
    """A bridge on a fake robot, and what it sent."""

    def __init__(self, mapping: Any, show: Callable[[float], dict[str, Any]], limits: Sequence[Any]) -> None:
        self.policy, self.sent, self.now = Answers(), Sent(), 100.0
        self.inbox, self.show, self.mapping = node.Inbox(mapping), show, mapping
        rows = [to_data(dimension) for dimension in limits]
        self.bridge = node.Bridge(mapping, rows, self.policy, self.inbox, self._publish)
        self.asked: list[tuple[Any, Any]] = []
        self.ask, self.bridge.asker.ask = self.bridge.asker.ask, self._ask

    def _ask(self, plan: Any, shown: Any, continuation: Any) -> None:
        self.asked.append((shown, continuation))
        self.ask(plan, shown, continuation)

    def _publish(self, output: Any, numbers: list[float]) -> None:
        self.sent.append((output.name, numbers))

    def tick(self, *, fresh: bool = True) -> Sent:
        """Let one control period pass, and return what was sent in it."""
        self.now += 1 / self.mapping.rate
        if fresh:
            self.inbox.messages = self.show(self.now)
        self.sent = []
        self.bridge.tick(self.now)
        return self.sent

    def answer(self, answer: Any) -> None:
        """Let the policy answer, and wait until its answer is there."""
        self.policy.answers.append(answer)
        self.policy.there.release()
        asker = self.bridge.asker
        with asker.changed:
            assert asker.changed.wait_for(lambda: asker.found is not None, timeout=SECONDS)


def show_point(now: float) -> dict[str, Any]:
    return {"/top": image(pixels(32, 32), "rgb8", seconds=now), "/point": joints(now, y=0.75, x=0.25)}


def show_arm(now: float) -> dict[str, Any]:
    return ur5e(now).messages


def arm_rig(**change: Any) -> Rig:
    mapping = replace(EXAMPLE, instruction="pick up the cup", **change)
    return Rig(mapping, show_arm, UR5E.actions)
