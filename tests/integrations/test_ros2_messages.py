"""The ROS 2 node without ROS: what it makes of messages, of a mapping file, and of a server's contract."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pizero.records import read_record
from pizero.robots import UR5E
from pizero.serving.client import IncompatibleError
from tests.integrations.ros2 import (
    EXAMPLE,
    POINT,
    changed,
    compressed,
    image,
    joints,
    node,
    pixels,
    point,
    ur5e,
)
from tests.serving.served import running, tiny_policy


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_pictures_are_read_in_each_encoding(encoding: str, padding: int) -> None:
    np.testing.assert_array_equal(node.decode_image(image(pixels(), encoding, padding=padding)), pixels())


@pytest.mark.parametrize("padding", [0, 6])
def test_a_grey_picture_is_grey_in_all_colours(padding: int) -> None:
    found = node.decode_image(image(pixels(), "mono8", padding=padding))
    grey = np.asarray(Image.fromarray(pixels()).convert("L"))
    np.testing.assert_array_equal(found, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"encoding": "16UC1"}, "encoding '16UC1'.*Known: bgr8"),
        ({"encoding": "rgb_8"}, "did you mean 'rgb8'"),
        ({"step": 29}, "expected 6 rows of at least 30 bytes, found 180 bytes in rows of 29"),
        ({"height": 7}, "expected 7 rows"),
        ({"data": b""}, "found 0 bytes"),
        ({"height": 0, "data": b""}, "found 0 x 10"),
        ({"width": 2**31}, "at most|1 to 4096 pixels"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(node.NotReadyError, match=complaint):
        node.decode_image(SimpleNamespace(**vars(image(pixels(), "rgb8")) | change))


def test_compressed_pictures() -> None:
    for form, tolerance in (("PNG", 0), ("JPEG", 12)):
        file = io.BytesIO()
        smooth = np.broadcast_to(np.array([200, 100, 30], dtype=np.uint8), (16, 24, 3))
        Image.fromarray(smooth.copy()).save(file, form, quality=95)
        found = node.decode_compressed_image(compressed(file.getvalue())).astype(int)
        assert np.abs(found - smooth).max() <= tolerance
    gif, huge = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, "GIF")
    Image.new("1", (5000, 2)).save(huge, "PNG")
    for data, complaint in (
        (b"", "expected JPEG or PNG"),
        (b"\x89PNG\r\n\x1a\n broken", "expected JPEG or PNG"),
        (gif.getvalue(), "expected JPEG or PNG"),
        (huge.getvalue(), "at most 4096 pixels"),
    ):
        with pytest.raises(node.NotReadyError, match=complaint):
            node.decode_compressed_image(compressed(data))


def test_a_joint_is_found_by_its_name() -> None:
    message = joints(elbow=0.1, wrist=0.2, base=0.3)
    assert [node.read_joint(message, name, "position") for name in ("base", "elbow")] == [0.3, 0.1]
    for change, complaint in (
        ({"name": ["elbow", "wrist_1", "base"]}, "no joint 'wrist': did you mean 'wrist_1'.*base, elbow"),
        ({"name": ["wrist", "wrist", "base"]}, "joint 'wrist' occurs 2 times"),
        ({"position": [0.1]}, "expected a position of each of 3 joints, found 1"),
        ({"position": [0.1, float("nan"), 0.3]}, "the position of joint 'wrist' is nan"),
    ):
        with pytest.raises(node.NotReadyError, match=complaint):
            node.read_joint(SimpleNamespace(**vars(message) | change), "wrist", "position")
    with pytest.raises(node.NotReadyError, match="expected a velocity of each of 3 joints, found 0"):
        node.read_joint(message, "wrist", "velocity")


def test_the_example_shows_what_the_arm_shows() -> None:
    shown = ur5e().observe(10.05)
    np.testing.assert_allclose(shown.state, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(shown.images["base_rgb"], pixels(seed=1))
    np.testing.assert_array_equal(shown.images["wrist_rgb"], pixels(seed=2))
    assert shown.instruction == "pick up the cup"


def test_the_example_fits_the_robot_of_the_catalog() -> None:
    with running(tiny_policy(UR5E)) as server:
        mapping = replace(EXAMPLE, server=server.uri, num_executed=3)
        with node.connect(mapping, "") as policy:
            assert policy.rate == UR5E.rate
            assert node.contract_faults(mapping, policy.metadata) == []


@pytest.mark.parametrize(
    ("now", "complaints"),
    [
        (10.15, ["state 'elbow' (/joint_states): stamped 0.150 s old, more than the 0.1 s"]),
        (10.25, ["camera 'base_rgb' (/base_camera/color/image_raw): stamped 0.250 s old", "state 'gripper'"]),
        (9.85, ["state 'elbow' (/joint_states): stamped 0.150 s in the future"]),
        (0.0, ["stamped 10.000 s in the future"]),
    ],
)
def test_what_is_stale_or_from_the_future_is_named(now: float, complaints: list[str]) -> None:
    with pytest.raises(node.NotReadyError) as error:
        ur5e().observe(now)
    for complaint in complaints:
        assert complaint in str(error.value)


def test_everything_that_is_missing_is_named_at_once() -> None:
    inbox = node.Inbox(EXAMPLE)
    with pytest.raises(node.NotReadyError) as error:
        inbox.observe(0.0)
    text = str(error.value)
    assert text.count("nothing received yet") == 9
    assert "camera 'wrist_rgb'" in text
    assert "no instruction (/pizero/instruction)" in text


def test_an_instruction_is_one_line_or_none() -> None:
    inbox = ur5e(instruction="  open\nthe \x1b drawer ")
    assert inbox.observe(10.0).instruction == "open the drawer"
    with pytest.raises(ValueError, match="nothing to read"):
        inbox.instruct("\n")
    with pytest.raises(node.NotReadyError, match="no instruction"):
        inbox.observe(10.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cameras": [{"name": "a", "topics": "/a"}]}, "unknown field 'topics': did you mean 'topic'"),
        ({"rate": "20"}, "rate: expected float"),
        ({"rate": 0}, "expected numbers above 0"),
        ({"method": "guided"}, "above 0 with the others"),
        ({"method": "fast"}, "expected one of 'wait'"),
        (
            {"actions": changed()["actions"][:-1]},
            "'robotiq_85_left_knuckle_joint' is among its joints 1 times",
        ),
        ({"actions": [*changed()["actions"], changed()["actions"][0]]}, "'shoulder_pan' occurs 2 times"),
        ({"actions": [changed()["actions"][0] | {"max_step": 0}]}, "expected max_step.*rad"),
        (
            {"actions": [changed()["actions"][0] | {"kind": "velocity"}]},
            "a joint_trajectory carries positions",
        ),
        ({"state": [changed()["state"][0] | {"scale": 0}]}, "a finite scale other than 0"),
        ({"state": []}, "state: expected at least one"),
    ],
)
def test_a_mapping_is_read_strictly(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps(changed(**change)))
    with pytest.raises(ValueError, match=complaint):
        read_record(node.NodeMapping, file)


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({"embodiment": "navigation"}, ["embodiment.name: expected 'navigation', found 'navigation2d'"]),
        ({"rate": 50.0}, ["rate: expected 50.0, found 10.0"]),
        (
            {"state": [row | {"unit": "m"} for row in POINT["state"][::-1]]},
            [
                "embodiment.state[0].name: expected 'y', found 'x'",
                "embodiment.state[0].unit: expected 'm', found 'fraction'",
            ],
        ),
        ({"state": POINT["state"][:1]}, ["embodiment.state: expected 1 entries, found 2"]),
        ({"cameras": []}, ["camera 'top': required by the policy, and not in the mapping"]),
        (
            {"cameras": [{"name": "tip", "topic": "/top"}]},
            ["camera 'tip': did you mean 'top'", "camera 'top': required"],
        ),
        ({"contract": "0" * 64}, ["contract: expected '000"]),
        ({"num_executed": 4}, ["expected delay ≤ num_executed ≤ horizon - delay, found 0 ≤ 4 ≤ 3"]),
        (
            {"num_executed": 2, "delay": 2, "method": "guided"},
            ["expected delay ≤ num_executed ≤ horizon - delay, found 2 ≤ 2 ≤ 1"],
        ),
    ],
)
def test_a_server_that_does_not_fit_is_refused_with_the_differences(
    tmp_path: Path, change: dict[str, Any], differences: list[str]
) -> None:
    with running() as server, pytest.raises(IncompatibleError) as error:
        node.connect(point(tmp_path, server=server.uri, **change), "")
    for difference in differences:
        assert difference in str(error.value)


def test_a_server_that_says_nothing_of_its_numbers_is_refused() -> None:
    assert "nothing says what its numbers mean" in node.contract_faults(EXAMPLE, {"server": "openpi"})[0]
