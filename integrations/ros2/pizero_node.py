#!/usr/bin/env python3
"""A ROS 2 node between a robot's topics and a pizero server; torch and the policy stay outside ROS.

    python3 pizero_node.py mapping.json --check       compare the mapping with the server, and end
    python3 pizero_node.py mapping.json --dry-run     do everything but publish
    python3 pizero_node.py mapping.json

The mapping says which topic is which camera, joint and command: docs/ros2.md. Needs Python 3.10, rclpy,
numpy, msgpack, websockets and this repository on the path, and Pillow for compressed images. Only `main`
knows rclpy; the rest is plain and tested without ROS.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pizero.names import nearest
from pizero.planning.instructions import brief, one_line
from pizero.records import read_record
from pizero.serving.client import IncompatibleError, RemotePolicy, Shown, StopRequestedError

CHANNELS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
"""Of an encoding of sensor_msgs/Image: bytes of a pixel, and which of them are red, green and blue."""

MAX_SIDE = 4096
RETRY_SECONDS = 0.2
"""Between two requests while the server cannot be reached, or answers with errors."""


class NotReadyError(Exception):
    """What the robot shows is not complete, not fresh or not readable: the robot is to hold."""


@dataclass(frozen=True, kw_only=True)
class CameraTopic:
    """A camera of the contract, and the topic that shows it."""

    name: str
    topic: str
    message: Literal["image", "compressed_image"] = "image"


@dataclass(frozen=True, kw_only=True)
class StateJoint:
    """A state dimension: contract = scale * ROS + offset, of a joint that is found by its name."""

    name: str
    unit: str
    kind: str
    topic: str
    joint: str
    quantity: Literal["position", "velocity", "effort"] = "position"
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ActionJoint:
    """An action dimension, sent to a joint of an output: ROS = (contract - offset) / scale.

    `max_step` is the most by which it may change in one tick, in the contract's unit; velocities need none.
    """

    name: str
    unit: str
    kind: str
    output: str
    joint: str
    max_step: float = 0.0
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A topic that commands joints, its numbers in the order of `joints`."""

    name: str
    topic: str
    message: Literal["joint_trajectory", "float64_multi_array"]
    joints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NodeMapping:
    """The mapping file. The rate is in Hz; ages are in seconds by the messages' stamps.

    After `num_executed` actions of a chunk the next one is asked for. With the method `wait` the robot stands
    still until it is there; with the others it goes on, and the next chunk goes on from the `delay` actions
    that are executed meanwhile. `contract`, if given, is the hash of the one contract that will do.
    """

    server: str
    embodiment: str
    rate: float
    cameras: tuple[CameraTopic, ...]
    state: tuple[StateJoint, ...]
    actions: tuple[ActionJoint, ...]
    outputs: tuple[Output, ...]
    instruction_topic: str
    instruction: str = ""
    max_age_image: float = 0.2
    max_age_state: float = 0.1
    num_executed: int = 10
    method: Literal["wait", "guided", "guided_identity", "trained"] = "wait"
    delay: int = 0
    contract: str = ""

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise ValueError("the mapping is none yet:\n  " + "\n  ".join(faults))


def _faults(mapping: NodeMapping) -> list[str]:
    faults = []
    for label in ("cameras", "state", "actions", "outputs"):
        counts = Counter(entry.name for entry in getattr(mapping, label))
        faults += [f"{label}: {name!r} occurs {count} times" for name, count in counts.items() if count > 1]
        faults += [] if counts or label == "cameras" else [f"{label}: expected at least one"]
    for entry in (*mapping.state, *mapping.actions):
        if not math.isfinite(entry.scale) or entry.scale == 0 or not math.isfinite(entry.offset):
            faults.append(f"{entry.name}: expected a finite scale other than 0 and a finite offset")
    for action in mapping.actions:
        if action.kind != "velocity" and not action.max_step > 0:
            faults.append(
                f"{action.name}: expected max_step, the most it may change in a tick ({action.unit})"
            )
    positions = {output.name for output in mapping.outputs if output.message == "joint_trajectory"}
    faults += [
        f"{action.name}: a joint_trajectory carries positions, send a velocity as float64_multi_array"
        for action in mapping.actions
        if action.kind == "velocity" and action.output in positions
    ]
    there = Counter((output.name, joint) for output in mapping.outputs for joint in output.joints)
    told = Counter((action.output, action.joint) for action in mapping.actions)
    for output, joint in sorted(there.keys() | told.keys()):
        if (there[output, joint], told[output, joint]) != (1, 1):
            faults.append(
                f"output {output!r}: joint {joint!r} is among its joints {there[output, joint]} times, and "
                f"in {told[output, joint]} actions; expected once each"
            )
    ages = (mapping.rate, mapping.max_age_image, mapping.max_age_state, mapping.num_executed)
    if not min(ages) > 0:
        faults.append("rate, max_age_image, max_age_state, num_executed: expected numbers above 0")
    if (mapping.method == "wait") != (mapping.delay == 0) or mapping.delay < 0:
        faults.append("delay: expected 0 with the method 'wait', above 0 with the others")
    return faults


def expected_of(mapping: NodeMapping) -> dict[str, Any]:
    """Return what the server must say of itself: names, units and kinds, one by one and in this order."""
    parts = {"state": mapping.state, "actions": mapping.actions}
    rows = {
        label: [{"name": entry.name, "unit": entry.unit, "kind": entry.kind} for entry in entries]
        for label, entries in parts.items()
    }
    pinned = {"contract": mapping.contract} if mapping.contract else {}
    return {"rate": mapping.rate, "embodiment": {"name": mapping.embodiment, **rows}, **pinned}


def contract_faults(mapping: NodeMapping, metadata: Mapping[str, Any]) -> list[str]:
    """Return what else a server's metadata does not allow: cameras, and the length of its chunks."""
    if "embodiment" not in metadata:
        return ["embodiment: absent; this is no pizero server, and nothing says what its numbers mean"]
    cameras = {camera["name"]: camera for camera in metadata["embodiment"]["cameras"]}
    mapped, horizon = [camera.name for camera in mapping.cameras], int(metadata["horizon"])
    faults = [f"camera {name!r}: {nearest(name, cameras)}" for name in mapped if name not in cameras]
    faults += [
        f"camera {name!r}: required by the policy, and not in the mapping"
        for name, camera in cameras.items()
        if camera["required"] and name not in mapped
    ]
    if not mapping.delay <= mapping.num_executed <= horizon - mapping.delay:
        faults.append(
            f"chunks of {horizon} actions: expected delay ≤ num_executed ≤ horizon - delay, found "
            f"{mapping.delay} ≤ {mapping.num_executed} ≤ {horizon - mapping.delay}"
        )
    return faults


def decode_image(message: Any) -> np.ndarray:
    """Return a sensor_msgs/Image as `uint8 [height, width, 3]`, RGB; NotReadyError if it is not readable."""
    if message.encoding not in CHANNELS:
        raise NotReadyError(f"encoding {message.encoding!r}: {nearest(message.encoding, CHANNELS)}")
    size, order = CHANNELS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise NotReadyError(f"expected 1 to {MAX_SIDE} pixels a side, found {height} x {width}")
    if step < width * size or len(message.data) != height * step:
        raise NotReadyError(
            f"expected {height} rows of at least {width * size} bytes, found {len(message.data)} bytes in "
            f"rows of {step}"
        )
    rows = np.frombuffer(bytes(message.data), dtype=np.uint8).reshape(height, step)
    pixels = rows[:, : width * size].reshape(height, width, size)
    return np.ascontiguousarray(pixels[..., list(order)])


def decode_compressed_image(message: Any) -> np.ndarray:
    """Return a sensor_msgs/CompressedImage, JPEG or PNG, as `uint8 [height, width, 3]`, RGB."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(bytes(message.data)), formats=("JPEG", "PNG")) as picture:
            if max(picture.size) > MAX_SIDE:
                raise NotReadyError(f"expected at most {MAX_SIDE} pixels a side, found {picture.size}")
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise NotReadyError(f"expected JPEG or PNG, found neither ({type(error).__name__})") from None


def read_joint(message: Any, joint: str, quantity: str) -> float:
    """Return one number of a sensor_msgs/JointState; joints that nobody asks for do not matter."""
    names, values = list(message.name), list(getattr(message, quantity))
    if joint not in names:
        raise NotReadyError(f"no joint {joint!r}: {nearest(joint, names)}")
    if names.count(joint) > 1:
        raise NotReadyError(f"joint {joint!r} occurs {names.count(joint)} times")
    if len(values) != len(names):
        raise NotReadyError(f"expected a {quantity} of each of {len(names)} joints, found {len(values)}")
    value = float(values[names.index(joint)])
    if not math.isfinite(value):
        raise NotReadyError(f"the {quantity} of joint {joint!r} is {value}")
    return value


class Inbox:
    """The newest message of each topic, and what the robot shows by them."""

    def __init__(self, mapping: NodeMapping) -> None:
        self.mapping, self.messages = mapping, dict[str, Any]()
        self.instruction = one_line(mapping.instruction) if mapping.instruction else ""

    def instruct(self, text: str) -> None:
        """Take an instruction; ValueError if it is none, and then there is none any more."""
        self.instruction = ""
        self.instruction = one_line(text)

    def observe(self, now: float, *, pictures: bool = True) -> Shown:
        """Return what the robot shows at `now`, in seconds of ROS time; NotReadyError lists what is wrong.

        Without `pictures` they are held to their age and not decoded.
        """
        faults: list[str] = []
        images, state = {}, []
        for camera in self.mapping.cameras:
            try:
                message = self._fresh(camera.topic, self.mapping.max_age_image, now)
                decode = decode_image if camera.message == "image" else decode_compressed_image
                images |= {camera.name: decode(message)} if pictures else {}
            except NotReadyError as error:
                faults.append(f"camera {camera.name!r} ({camera.topic}): {error}")
        for entry in self.mapping.state:
            try:
                message = self._fresh(entry.topic, self.mapping.max_age_state, now)
                state.append(entry.scale * read_joint(message, entry.joint, entry.quantity) + entry.offset)
            except NotReadyError as error:
                faults.append(f"state {entry.name!r} ({entry.topic}): {error}")
        if not self.instruction:
            faults.append(f"no instruction ({self.mapping.instruction_topic})")
        if faults:
            raise NotReadyError("; ".join(faults))
        return Shown(images=images, state=np.array(state, dtype=np.float32), instruction=self.instruction)

    def _fresh(self, topic: str, max_age: float, now: float) -> Any:
        message = self.messages.get(topic)
        if message is None:
            raise NotReadyError("nothing received yet")
        age = now - (message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)
        if not -max_age <= age <= max_age:
            when = f"{age:.3f} s old" if age > 0 else f"{-age:.3f} s in the future"
            raise NotReadyError(f"stamped {when}, more than the {max_age} s that are allowed")
        return message


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a chunk has to go on from, as the client sends it."""

    actions: np.ndarray
    delay: int
    execution: int
    method: str


@dataclass(kw_only=True)
class Plan:
    """Which action is next and when to ask for more; counts executed actions, not time."""

    mapping: NodeMapping
    rows: list[np.ndarray] = field(default_factory=list)
    executed: int = 0
    observed: int = 0
    asked: int = 0
    committed: int = 0
    moving: bool = False
    starved: bool = False
    impatient: bool = False

    def due(self) -> bool:
        """Return whether to ask for a chunk with the observation of this tick."""
        spliced = self.mapping.method != "wait"
        over = self.executed - self.observed >= self.mapping.num_executed or self.impatient
        return not self.rows or (spliced and over)

    def ask(self) -> Continuation | None:
        """Note that a chunk is asked for, and return what it has to go on from."""
        if self.impatient:
            self.rows, self.impatient = self.rows[: self.mapping.delay], False
        self.asked, self.moving, self.starved = self.executed, bool(self.rows), False
        self.committed = min(self.mapping.delay, len(self.rows))
        if not self.rows or self.mapping.method == "wait":
            return None
        return Continuation(
            actions=np.stack(self.rows),
            delay=self.committed,
            execution=self.mapping.num_executed,
            method=self.mapping.method,
        )

    def answer(self, chunk: np.ndarray) -> None:
        """Take the chunk that was asked for; one that a moving robot waited for too long is not used."""
        if self.moving and self.starved:
            return
        consumed = self.executed - self.asked
        last = self.mapping.num_executed if self.mapping.method == "wait" else len(chunk)
        kept = self.rows[: max(0, self.committed - consumed)]
        self.rows = [*kept, *chunk[max(self.committed, consumed) : last]]
        self.observed = self.asked

    def next(self) -> np.ndarray | None:
        """Return the action of this tick, None if there is none."""
        if not self.rows:
            self.starved = True
            return None
        self.executed += 1
        return self.rows.pop(0)


class Asker:
    """Asks the server in a thread of its own, so that no tick waits for it."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.changed = policy, threading.Condition()
        self.question: tuple[Plan, Shown, Continuation | None] | None = None
        self.found: tuple[Plan, np.ndarray | Exception] | None = None
        self.busy = False
        threading.Thread(target=self._work, name="policy", daemon=True).start()

    def ask(self, plan: Plan, shown: Shown, continuation: Continuation | None) -> None:
        """Leave a question; there is one at a time."""
        with self.changed:
            self.question, self.busy = (plan, shown, continuation), True
            self.changed.notify_all()

    def take(self) -> tuple[Plan, np.ndarray | Exception] | None:
        """Return the answer once, if it is there: a chunk or an error, and the plan that it was for."""
        with self.changed:
            found, self.found = self.found, None
            self.busy = self.busy and found is None
            return found

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.question is not None)
                assert self.question is not None
                (plan, shown, continuation), self.question = self.question, None
            try:
                answer: np.ndarray | Exception = self.policy.act(shown, continuation=continuation)
            except Exception as error:  # whatever it is, the robot holds and says why
                answer = error
            with self.changed:
                self.found = (plan, answer)
                self.changed.notify_all()


class Bridge:
    """One tick after another: checks, asks, and publishes one command, or lets the robot hold.

    `publish(output, numbers)` sends one message. A robot holds by hearing nothing, but for velocities, which
    are told 0 at every tick. `state` is `running`, `holding` or `stopped`, `reason` says why; `counts` counts
    ticks of each state, and by dimension how often a command was beyond limits or changed too fast.
    """

    def __init__(
        self,
        mapping: NodeMapping,
        limits: Sequence[Mapping[str, Any]],
        policy: Any,
        inbox: Inbox,
        publish: Callable[[Output, list[float]], None],
    ) -> None:
        self.mapping, self.inbox, self.publish, self.asker = mapping, inbox, publish, Asker(policy)
        self.low = np.array([dimension["low"] for dimension in limits])
        self.high = np.array([dimension["high"] for dimension in limits])
        self.velocity = np.array([action.kind == "velocity" for action in mapping.actions])
        self.max_step = np.array(
            [action.max_step if action.max_step > 0 else math.inf for action in mapping.actions]
        )
        self.plan, self.instruction, self.pause = Plan(mapping=mapping), inbox.instruction, 0
        self.last: np.ndarray | None = None
        self.state, self.reason, self.failure = "holding", "nothing asked yet", ""
        self.counts: Counter[str] = Counter()

    def tick(self, now: float) -> None:
        """Do what is to be done in this control period; `now` is in seconds of ROS time."""
        if self.state != "stopped":
            self._take()
        row = None if self.state == "stopped" else self._next(now)
        self.counts[self.state] += 1
        if row is None:
            self.hold()
        else:
            self._send(row, rest=False)

    def hold(self) -> None:
        """Tell velocities 0; positions hold by hearing nothing."""
        if self.last is not None and self.velocity.any():
            self._send(np.where(self.velocity, np.clip(0.0, self.low, self.high), self.last), rest=True)

    def _take(self) -> None:
        found = self.asker.take()
        if found is None:
            return
        plan, answer = found
        if isinstance(answer, StopRequestedError):
            self.state, self.reason = "stopped", brief(answer)
        elif isinstance(answer, Exception):
            self.failure, self.pause = brief(answer), math.ceil(RETRY_SECONDS * self.mapping.rate)
        elif plan is self.plan:
            self.failure = ""
            plan.answer(answer)

    def _next(self, now: float) -> np.ndarray | None:
        """Return the action of this tick; None where the robot is to hold."""
        self.pause = max(0, self.pause - 1)
        if self.instruction != self.inbox.instruction:
            self.instruction, self.plan.impatient = self.inbox.instruction, True
            if self.mapping.method == "wait":
                self.plan = Plan(mapping=self.mapping)
        ask = self.plan.due() and not self.asker.busy and not self.pause
        try:
            shown = self.inbox.observe(now, pictures=ask)
        except NotReadyError as error:
            return self._halt(str(error))
        if ask:
            self.asker.ask(self.plan, shown, self.plan.ask())
        row = self.plan.next()
        if row is None:
            return self._halt(self.failure or "waiting for the server", keep=True)
        if self.state != "running":
            self.last = self._shown(shown.state)
        self.state, self.reason = "running", ""
        return self._within(np.asarray(row, dtype=np.float64))

    def _halt(self, reason: str, *, keep: bool = False) -> None:
        self.state, self.reason = "holding", reason
        if not keep:
            self.plan = Plan(mapping=self.mapping)

    def _shown(self, state: np.ndarray) -> np.ndarray:
        """Return where the robot is: by the state's name and kind, else by the last command, else nan."""
        there = dict(zip([(entry.name, entry.kind) for entry in self.mapping.state], state, strict=True))
        keys = [(action.name, action.kind) for action in self.mapping.actions]
        before = [math.nan] * len(keys) if self.last is None else self.last.tolist()
        return np.array([there.get(key, value) for key, value in zip(keys, before, strict=True)])

    def _within(self, row: np.ndarray) -> np.ndarray:
        """Return a command within the limits, and within a step of the last one; nan is no last one."""
        inside = np.clip(row, self.low, self.high)
        assert self.last is not None
        near = np.where(
            np.isnan(self.last), inside, np.clip(inside, self.last - self.max_step, self.last + self.max_step)
        )
        for action, limited, slowed in zip(self.mapping.actions, inside != row, near != inside, strict=True):
            self.counts[f"{action.name} beyond its limits"] += int(limited)
            self.counts[f"{action.name} too fast"] += int(slowed)
        self.last = near
        return near

    def _send(self, row: np.ndarray, *, rest: bool) -> None:
        places = {(action.output, action.joint): place for place, action in enumerate(self.mapping.actions)}
        for output in self.mapping.outputs:
            chosen = [places[output.name, joint] for joint in output.joints]
            if rest and not self.velocity[chosen].any():
                continue
            pairs = [(self.mapping.actions[place], float(row[place])) for place in chosen]
            self.publish(output, [(value - action.offset) / action.scale for action, value in pairs])


def connect(mapping: NodeMapping, token: str) -> RemotePolicy:
    """Return the server's policy; IncompatibleError with every difference, before anything is published."""
    policy = RemotePolicy(mapping.server, token=token, expected=expected_of(mapping))
    faults = contract_faults(mapping, policy.metadata)
    if faults:
        policy.close()
        raise IncompatibleError(f"{mapping.server} does not fit the mapping:", faults)
    return policy


def main() -> None:
    """Run the node until it is interrupted, or the server's operator presses stop (exit status 3)."""
    parser = argparse.ArgumentParser(description="A ROS 2 node between topics and a pizero server.")
    parser.add_argument("mapping", type=Path, help="JSON file; the token is in the variable PIZERO_TOKEN")
    parser.add_argument("--check", action="store_true", help="compare the mapping with the server, and end")
    parser.add_argument("--dry-run", action="store_true", help="do everything but publish")
    given, ros_arguments = parser.parse_known_args()
    try:
        mapping = read_record(NodeMapping, given.mapping)
        policy = connect(mapping, os.environ.get("PIZERO_TOKEN", ""))
    except (OSError, ValueError) as error:
        sys.exit(f"pizero_node: {error}")
    if given.check:
        sys.stdout.write(f"{mapping.server} fits {given.mapping}\n")
        return
    sys.exit(spin(mapping, policy, ros_arguments, dry=given.dry_run))


def spin(mapping: NodeMapping, policy: RemotePolicy, arguments: list[str], *, dry: bool) -> int:
    """Connect topics to a bridge, and let a timer tick it."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import CompressedImage, Image, JointState
    from std_msgs.msg import Float64MultiArray, String
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)  # a last command must go out
    node = rclpy.create_node("pizero")
    log, inbox = node.get_logger(), Inbox(mapping)
    kinds = {"joint_trajectory": JointTrajectory, "float64_multi_array": Float64MultiArray}
    publishers = {
        output.name: node.create_publisher(kinds[output.message], output.topic, 1)
        for output in mapping.outputs
    }
    period = round(1e9 / mapping.rate)

    def publish(output: Output, numbers: list[float]) -> None:
        message: Any = Float64MultiArray(data=numbers)
        if output.message == "joint_trajectory":
            point = JointTrajectoryPoint(positions=numbers)
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(period, 10**9)
            message = JointTrajectory(joint_names=list(output.joints), points=[point])
        if not dry:
            publishers[output.name].publish(message)

    def listen(kind: Any, topic: str) -> None:
        def keep(message: Any) -> None:
            inbox.messages[topic] = message

        node.create_subscription(kind, topic, keep, qos_profile_sensor_data)

    def instruct(message: Any) -> None:
        try:
            inbox.instruct(message.data)
        except ValueError as error:
            log.error(f"{error}; holding until there is another")

    for camera in mapping.cameras:
        listen(Image if camera.message == "image" else CompressedImage, camera.topic)
    for topic in sorted({entry.topic for entry in mapping.state}):
        listen(JointState, topic)
    node.create_subscription(String, mapping.instruction_topic, instruct, 1)
    bridge = Bridge(mapping, policy.metadata["embodiment"]["actions"], policy, inbox, publish)
    told = ""

    def tick() -> None:
        nonlocal told
        bridge.tick(node.get_clock().now().nanoseconds * 1e-9)
        now = f"{bridge.state} {bridge.reason}".strip()
        if now != told:
            told = now
            log.info(now, throttle_duration_sec=0.5)

    node.create_timer(1.0 / mapping.rate, tick)
    try:
        while bridge.state != "stopped":
            rclpy.spin_once(node, timeout_sec=0.5)
    except KeyboardInterrupt:
        log.info("interrupted: the robot is told to hold")
    bridge.hold()
    log.info(f"{dict(bridge.counts)}")
    policy.close()
    node.destroy_node()
    rclpy.try_shutdown()
    return 3 if bridge.state == "stopped" else 0


if __name__ == "__main__":
    main()
