"""The arm of the example mapping as a ROS 2 robot that stands still, run by an interpreter that has rclpy.

Prints the first trajectories and gripper commands that it is sent, as one JSON object.
"""

from __future__ import annotations

import io
import json
import sys
import time

import numpy as np
import rclpy
from PIL import Image as Picture
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

SECONDS = 120.0
JOINTS = [
    f"{name}_joint" for name in ("elbow", "shoulder_lift", "shoulder_pan", "wrist_1", "wrist_2", "wrist_3")
]
GRIPPER = "robotiq_85_left_knuckle_joint"


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("arm")
    base = node.create_publisher(Image, "/base_camera/color/image_raw", qos_profile_sensor_data)
    wrist = node.create_publisher(
        CompressedImage, "/wrist_camera/color/image_raw/compressed", qos_profile_sensor_data
    )
    joints = node.create_publisher(JointState, "/joint_states", qos_profile_sensor_data)
    gripper = node.create_publisher(JointState, "/gripper/joint_states", qos_profile_sensor_data)
    jpeg = io.BytesIO()
    Picture.new("RGB", (64, 48), (90, 120, 30)).save(jpeg, "JPEG")
    arm: list[dict[str, object]] = []
    grips: list[list[float]] = []

    def obey(message: JointTrajectory) -> None:
        (point,) = message.points
        after = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
        arm.append({"joints": list(message.joint_names), "at": list(point.positions), "after": after})

    def grip(message: Float64MultiArray) -> None:
        grips.append(list(message.data))

    def show() -> None:
        now = node.get_clock().now().to_msg()
        raw = Image(height=48, width=64, encoding="rgb8", step=192)
        raw.header.stamp, raw.data = now, np.full(48 * 192, 128, dtype=np.uint8).tobytes()
        packed = CompressedImage(format="jpeg", data=jpeg.getvalue())
        packed.header.stamp = now
        state = JointState(name=JOINTS, position=[0.5, -1.0, 0.0, -1.5, 0.2, 0.1])
        state.header.stamp = now
        fingers = JointState(name=[GRIPPER], position=[0.4])
        fingers.header.stamp = now
        for publisher, message in ((base, raw), (wrist, packed), (joints, state), (gripper, fingers)):
            publisher.publish(message)

    node.create_subscription(
        JointTrajectory, "/scaled_joint_trajectory_controller/joint_trajectory", obey, 10
    )
    node.create_subscription(Float64MultiArray, "/gripper_position_controller/commands", grip, 10)
    node.create_timer(0.02, show)
    begun = time.monotonic()
    while len(arm) < 5 or len(grips) < 5:
        if time.monotonic() - begun > SECONDS:
            break
        rclpy.spin_once(node, timeout_sec=0.1)
    sys.stdout.write(json.dumps({"arm": arm[:5], "grips": grips[:5]}) + "\n")
    sys.stdout.flush()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
