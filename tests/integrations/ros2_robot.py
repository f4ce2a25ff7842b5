"""A point on a plane as a ROS 2 robot, run by an interpreter that has rclpy: shows itself, obeys, and tells.

Prints one JSON object a line: `moved` once it was told enough, `still` if it was told nothing but rest since.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String

SECONDS = 120.0


def tell(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("point")
    images = node.create_publisher(Image, "/top", qos_profile_sensor_data)
    joints = node.create_publisher(JointState, "/point", qos_profile_sensor_data)
    instructions = node.create_publisher(String, "/instruction", 1)
    position, told, showing = {"x": 0.5, "y": 0.5}, [], True

    def obey(message: Float64MultiArray) -> None:
        told.append(list(message.data))
        for name, number in zip(("y", "x"), message.data, strict=True):
            position[name] = min(max(position[name] + number, 0.0), 1.0)

    def show() -> None:
        if not showing:
            return
        now = node.get_clock().now().to_msg()
        picture = Image(height=32, width=32, encoding="bgr8", step=100)
        picture.header.stamp = now
        picture.data = np.full((32, 100), 200, dtype=np.uint8).tobytes()
        images.publish(picture)
        state = JointState(name=["y", "x"], position=[position["y"], position["x"]])
        state.header.stamp = now
        joints.publish(state)

    node.create_subscription(Float64MultiArray, "/base", obey, 10)
    node.create_timer(0.02, show)
    begun = time.monotonic()

    def spin_until(enough: object, what: str) -> None:
        while not enough():  # type: ignore[operator]
            if time.monotonic() - begun > SECONDS:
                tell(failed=what, told=len(told))
                sys.exit(1)
            rclpy.spin_once(node, timeout_sec=0.1)

    spin_until(lambda: instructions.get_subscription_count() > 0, "nobody listens to instructions")
    instructions.publish(String(data="go to the red disc"))
    spin_until(lambda: sum(any(row) for row in told) >= 20, "no commands")
    tell(moved=told[:20], position=position)
    showing = False
    spin_until(lambda: len(told) >= 10 and not any(any(row) for row in told[-10:]), "it never came to rest")
    tell(still=True)
    showing = True
    resumed = len(told)
    spin_until(lambda: any(any(row) for row in told[resumed:]), "it did not go on")
    tell(resumed=True)
    sys.stdin.readline()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
