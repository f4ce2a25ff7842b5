"""The ROS 2 node without ROS: chunks become commands, and whatever goes wrong makes the robot hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.robots import NAVIGATION2D
from pizero.serving.client import ConnectionLostError, RemotePolicy, ServerError, StopRequestedError
from pizero.types import Observation
from tests.integrations.ros2 import FOLDER, SECONDS, Rig, arm_rig, node, point, show_point
from tests.serving.served import QUICK, running, tiny_policy


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(point(tmp_path), show_point, NAVIGATION2D.actions)


def test_a_chunk_becomes_one_command_a_tick_in_the_units_and_order_of_the_output(rig: Rig) -> None:
    assert rig.tick() == []
    assert rig.bridge.reason == "waiting for the server"
    rig.answer([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert rig.tick() == [("base", pytest.approx([0.02, 0.01]))]
    assert rig.tick() == [("base", pytest.approx([0.04, 0.03]))]
    assert rig.tick() == [("base", [0.0, 0.0])], "velocities stop while the next chunk is made"
    (first, second) = rig.asked
    np.testing.assert_allclose(first[0].state, [0.25, 0.75])
    assert first[1] is second[1] is None
    assert rig.bridge.counts["running"] == 2


def test_commands_are_held_within_the_limits_and_counted(rig: Rig) -> None:
    rig.tick()
    rig.answer([[7.0, -3.0], [0.5, 0.5], [0.0, 0.0]])
    assert rig.tick() == [("base", pytest.approx([-0.1, 0.1]))]
    rig.tick()
    assert rig.bridge.counts["dx beyond its limits"] == rig.bridge.counts["dy beyond its limits"] == 1


def test_a_stale_robot_holds_and_what_was_planned_is_forgotten(rig: Rig) -> None:
    rig.tick()
    rig.answer([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    rig.tick()
    rig.tick(fresh=False)
    assert rig.tick(fresh=False) == [("base", [0.0, 0.0])]
    assert rig.bridge.state == "holding"
    assert "state 'x' (/point): stamped 0.200 s old" in rig.bridge.reason
    assert rig.tick() == [("base", [0.0, 0.0])], "the rest of the old chunk is not executed"
    assert len(rig.asked) == 2
    rig.answer([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    assert rig.tick() == [("base", pytest.approx([0.05, 0.05]))]


@pytest.mark.parametrize(
    "failure",
    [ConnectionLostError("no connection"), ServerError("DEADLINE", "too late"), RuntimeError("a\nbug")],
)
def test_a_lost_server_makes_the_robot_hold_and_it_goes_on_by_itself(rig: Rig, failure: Exception) -> None:
    rig.tick()
    rig.answer([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    rig.tick()
    rig.tick()
    rig.tick()
    rig.answer(failure)
    assert rig.tick() == [("base", [0.0, 0.0])]
    assert rig.bridge.reason.startswith(type(failure).__name__)
    assert rig.bridge.reason.isprintable()
    assert len(rig.asked) == 2, "the next request waits a little"
    for _ in range(3):
        assert rig.tick() == [("base", [0.0, 0.0])]
    assert len(rig.asked) == 3
    rig.answer([[0.4, 0.4], [0.0, 0.0], [0.0, 0.0]])
    assert rig.tick() == [("base", pytest.approx([0.04, 0.04]))]


def test_the_server_s_operator_can_stop_the_robot(rig: Rig) -> None:
    rig.tick()
    rig.answer([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    rig.tick()
    rig.tick()
    rig.tick()
    rig.answer(StopRequestedError("the operator pressed stop"))
    for _ in range(5):
        assert rig.tick() == [("base", [0.0, 0.0])]
    assert rig.bridge.state == "stopped"
    assert len(rig.asked) == 2


def test_a_new_instruction_drops_the_plan_and_the_answer_to_the_old_one(rig: Rig) -> None:
    rig.tick()
    rig.inbox.instruct("go to the blue disc")
    rig.answer([[0.9, 0.9]] * 3)
    assert rig.tick() == [], "made under the old instruction"
    assert [shown.instruction for shown, _ in rig.asked] == ["go to the red disc", "go to the blue disc"]
    rig.answer([[0.1, 0.1]] * 3)
    assert rig.tick() == [("base", pytest.approx([0.01, 0.01]))]
    rig.inbox.instruct("go to the red disc")
    assert rig.tick() == [("base", [0.0, 0.0])]


def test_positions_never_jump_and_an_arm_holds_by_hearing_nothing() -> None:
    """The arm stands at 0.0 … 0.5 rad with a gripper at 0.5; a step is 0.1 rad, and 0.2 of the gripper."""
    rig = arm_rig(num_executed=2)
    rig.tick()
    rig.answer([[3.0] * 7, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5], [0.0] * 7])
    assert rig.tick() == [
        ("arm", pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])),
        ("gripper", pytest.approx([0.56])),
    ]
    assert rig.tick() == [
        ("arm", pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])),
        ("gripper", pytest.approx([0.4])),
    ]
    assert rig.tick() == []
    assert rig.bridge.counts["elbow too fast"] == 1
    assert rig.bridge.counts["gripper beyond its limits"] == 1


def numbered(first: int, length: int = 8) -> list[list[float]]:
    return [[round(0.01 * (first + row), 2), 0.0] for row in range(length)]


def test_spliced_chunks_keep_what_is_committed_and_go_on_by_what_was_executed(tmp_path: Path) -> None:
    """Two ticks late where three were expected: three rows are the plan's, the rest the new chunk's own."""
    mapping = point(tmp_path, method="guided", num_executed=4, delay=3)
    rig = Rig(mapping, show_point, NAVIGATION2D.actions)
    rig.tick()
    rig.answer(numbered(0))
    told = [rig.tick()[0][1][1] for _ in range(5)]
    assert len(rig.asked) == 2
    _, given = rig.asked[1]
    assert (given.delay, given.execution, given.method) == (3, 4, "guided")
    np.testing.assert_allclose(given.actions, numbered(4, 4), rtol=1e-6)
    told += [rig.tick()[0][1][1]]
    rig.answer(numbered(50))
    told += [rig.tick()[0][1][1] for _ in range(3)]
    expected = [0, 1, 2, 3, 4, 5, 6, 53, 54]
    assert told == pytest.approx([0.001 * number for number in expected])


def test_a_spliced_chunk_later_than_expected_goes_on_by_what_was_executed(tmp_path: Path) -> None:
    mapping = point(tmp_path, method="guided", num_executed=4, delay=3)
    rig = Rig(mapping, show_point, NAVIGATION2D.actions)
    rig.tick()
    rig.answer(numbered(0))
    told = [rig.tick()[0][1][1] for _ in range(8)]
    rig.answer(numbered(50))
    told += [rig.tick()[0][1][1] for _ in range(2)]
    assert told == pytest.approx([0.001 * number for number in (0, 1, 2, 3, 4, 5, 6, 7, 54, 55)])


def test_a_spliced_chunk_that_comes_after_the_robot_ran_out_is_not_used(tmp_path: Path) -> None:
    mapping = point(tmp_path, method="guided", num_executed=4, delay=3)
    rig = Rig(mapping, show_point, NAVIGATION2D.actions)
    rig.tick()
    rig.answer(numbered(0))
    for _ in range(8):
        rig.tick()
    assert rig.tick() == [("base", [0.0, 0.0])]
    rig.answer(numbered(50))
    assert rig.tick() == [("base", [0.0, 0.0])]
    assert len(rig.asked) == 3
    assert rig.asked[2][1] is None, "made from where the robot stands"
    rig.answer(numbered(70))
    assert rig.tick()[0][1][1] == pytest.approx(0.07)


def test_a_new_instruction_is_asked_for_at_once_while_the_robot_moves_on(tmp_path: Path) -> None:
    mapping = point(tmp_path, method="guided", num_executed=4, delay=3)
    rig = Rig(mapping, show_point, NAVIGATION2D.actions)
    rig.tick()
    rig.answer(numbered(0))
    rig.tick()
    rig.inbox.instruct("go to the blue disc")
    assert rig.tick()[0][1][1] == pytest.approx(0.001)
    shown, given = rig.asked[1]
    assert shown.instruction == "go to the blue disc"
    np.testing.assert_allclose(given.actions, numbered(1, 3), rtol=1e-6)


def test_against_a_server_the_commands_are_the_policy_s(tmp_path: Path) -> None:
    local = tiny_policy()
    with running() as server:
        mapping = point(tmp_path, server=server.uri, num_executed=3)
        policy = RemotePolicy(server.uri, expected=node.expected_of(mapping), times=QUICK)
        rig = Rig(mapping, show_point, NAVIGATION2D.actions)
        rig.bridge.asker.policy = policy
        rig.tick()
        asker = rig.bridge.asker
        with asker.changed:
            assert asker.changed.wait_for(lambda: asker.found is not None, timeout=SECONDS)
        told = np.array([rig.tick()[0][1] for _ in range(3)])
        policy.close()
    local.reset(seed=0)
    shown = rig.inbox.observe(rig.now)
    expected = np.clip(local.act(_observation(shown)), -1.0, 1.0)[:, ::-1] / 10.0
    np.testing.assert_allclose(told, expected, atol=1e-6)


def _observation(shown: Any) -> Observation:
    return Observation(images=shown.images, state=shown.state, instruction=shown.instruction)


def test_the_node_needs_neither_torch_nor_ros_to_be_read() -> None:
    statement = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import pizero_node; "
        "sys.exit(bool({'torch', 'rclpy', 'jaxtyping', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", statement], cwd=FOLDER.parents[1], check=False)
    assert found.returncode == 0
