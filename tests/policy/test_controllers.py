"""From chunks to actions: waiting, averaging and splicing, by what comes out tick after tick."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.policy.controllers.chunks import ChunkPlayer
from pizero.policy.controllers.controller import ControllerConfig, Kind, make_player
from pizero.policy.controllers.ensemble import EnsemblePlayer
from pizero.policy.controllers.simulated import SimulatedController
from pizero.policy.controllers.splicer import Splicer
from pizero.robots import LIBERO, METAWORLD, METAWORLD_POSITIONS
from pizero.types import ActionChunk, Continuation, Observation
from tests.policy.players import ARM, Scripted, numbered, seen

ASYNCHRONOUS: tuple[Kind, ...] = ("naive", "guided", "guided_identity", "trained")


def hundreds(horizon: int) -> Scripted:
    """Return a policy whose n-th chunk is 100 n, 100 n + 1, …"""
    count = 0

    def act(observation: Observation, continuation: Continuation | None) -> ActionChunk:
        nonlocal count
        count += 1
        return numbered(horizon, 100.0 * count)

    return Scripted(horizon, act)


def played(config: ControllerConfig, policy: Scripted, *, latency: int, ticks: int) -> list[float]:
    """Return the joint's commands; the slide's hold tells where the robot stands still: 0."""
    player = make_player(config, horizon=policy.horizon, embodiment=ARM)
    controller = SimulatedController(player, policy, ARM, latency=latency)
    return [float(controller.step(seen)[1]) for _ in range(ticks)]


def test_a_receding_horizon_looks_again_after_some_actions() -> None:
    config = ControllerConfig(kind="receding", num_executed=2)
    assert played(config, hundreds(4), latency=0, ticks=5) == [100, 101, 200, 201, 300]


def test_synchronous_execution_stands_still_while_it_waits() -> None:
    config = ControllerConfig(kind="synchronous")
    found = played(config, hundreds(3), latency=2, ticks=10)
    assert found == [0, 0, 100, 101, 102, 0, 0, 200, 201, 202]


@pytest.mark.parametrize("kind", ASYNCHRONOUS)
def test_asynchronous_execution_goes_on_from_the_row_of_the_consumed_actions(kind: Kind) -> None:
    """Chunks of 8, s = 3, answers after 2 ticks: rows 0 and 1 of each later chunk are never executed."""
    config = ControllerConfig(kind=kind, num_executed=3, delay=2)
    policy = hundreds(8)
    found = played(config, policy, latency=2, ticks=13)
    assert found == [0, 0, 100, 101, 102, 103, 104, 202, 203, 204, 302, 303, 304]
    told = [asked for asked in policy.asked if asked is not None]
    assert len(told) == (0 if kind == "naive" else 3)
    if told:
        assert [told[0].delay, told[0].execution, told[0].method] == [2, 3, kind]
        assert told[0].actions[:, 1].tolist() == [103, 104, 105, 106, 107]
        assert told[1].actions[:, 1].tolist() == [203, 204, 205, 206, 207]


@pytest.mark.parametrize("kind", ASYNCHRONOUS)
def test_without_latency_asynchronous_execution_is_a_receding_horizon(kind: Kind) -> None:
    config = ControllerConfig(kind=kind, num_executed=3)
    plain = ControllerConfig(kind="receding", num_executed=3)
    ours = played(config, hundreds(8), latency=0, ticks=20)
    assert ours == played(plain, hundreds(8), latency=0, ticks=20)


def test_an_ensemble_weighs_as_act_does() -> None:
    """At tick 2 three chunks reach the action; the oldest has the weight 1, the next exp(-m), exp(-2 m)."""
    decay = 0.5
    config = ControllerConfig(kind="ensemble", decay=decay)
    found = played(config, hundreds(3), latency=0, ticks=4)
    w = [math.exp(-decay * i) for i in range(3)]
    expected = [
        100.0,
        (w[0] * 101 + w[1] * 200) / (w[0] + w[1]),
        (w[0] * 102 + w[1] * 201 + w[2] * 300) / sum(w),
        (w[0] * 202 + w[1] * 301 + w[2] * 400) / sum(w),
    ]
    assert found == pytest.approx(expected, rel=1e-6)


def test_an_ensemble_under_latency_asks_when_the_last_answer_is_there() -> None:
    """Answers after two ticks: chunks of ticks 0, 2, 4 … reach the actions; the robot waits for the first."""
    found = played(ControllerConfig(kind="ensemble", decay=0.0), hundreds(5), latency=2, ticks=6)
    # Actions 0 and 1 are of chunk 1 alone, asked for before them. Chunk 2, asked for before action 0, is
    # there at action 2, chunk 3, asked for before action 2, at action 4.
    assert found == pytest.approx([0, 0, 100, 101, (102 + 202) / 2, (103 + 203) / 2])


def test_an_ensemble_of_angles_averages_the_short_way_round() -> None:
    angle = ARM.actions[0].__class__(name="a", unit="rad", kind="angle", low=-math.pi, high=math.pi)
    robot = ARM.__class__(name="r", state=ARM.state, actions=(angle,), cameras=(), rate=50.0)
    player = EnsemblePlayer(horizon=2, embodiment=robot, decay=0.0)
    for value in (3.0, -3.1):
        request = player.request()
        assert request is not None
        player.answer(request.sequence, np.full((2, 1), value, dtype=np.float32))
        action = player.action()
    assert action is not None
    middle = (3.0 + (2 * math.pi - 3.1)) / 2
    assert float(action[0]) == pytest.approx(middle, abs=1e-6)


def test_holding_is_zero_velocity_the_last_position_and_the_last_gripper() -> None:
    policy = Scripted(2, lambda *_: np.tile(np.array([3.0, 0.7, 0.9], np.float32), (2, 1)))
    player = make_player(ControllerConfig(kind="synchronous"), horizon=2, embodiment=ARM)
    controller = SimulatedController(player, policy, ARM, latency=1)
    commands = [controller.step(lambda: seen(joint=1.25)).tolist() for _ in range(4)]
    moving = [3.0, np.float32(0.7), np.float32(0.9)]
    assert commands == [[1.25, 0.0, 0.5], moving, moving, [3.0, 0.0, np.float32(0.9)]]


def test_robots_of_the_catalog_can_be_told_to_stay_before_their_first_action() -> None:
    for robot in (METAWORLD, METAWORLD_POSITIONS, LIBERO):
        state = np.full(robot.state_dim, 0.4, dtype=np.float32)
        player = ChunkPlayer(horizon=2, num_executed=2)
        policy = Scripted(2, lambda *_, width=robot.action_dim: np.zeros((2, width), np.float32))
        controller = SimulatedController(player, policy, robot, latency=1)
        command = controller.step(lambda state=state: Observation(images={}, state=state))
        positions = [dimension.kind == "position" for dimension in robot.actions]
        assert command.tolist() == [np.float32(0.4) if position else 0.0 for position in positions]


@given(
    horizon=st.integers(1, 12),
    executed=st.integers(1, 12),
    delay=st.integers(0, 12),
)
def test_delays_that_chunks_cannot_bear_are_refused(horizon: int, executed: int, delay: int) -> None:
    """d ≤ s ≤ H - d with s = max(d, least actions), as the paper has it."""

    def build() -> Splicer:
        return Splicer(
            horizon=horizon, action_dim=3, num_executed=executed, expected_delay=delay, method="guided"
        )

    if delay <= max(delay, executed) <= horizon - delay:
        build()
    else:
        with pytest.raises(ValueError, match="expected delay ≤ actions ≤ horizon - delay"):
            build()


def test_replanning_keeps_what_is_committed_and_asks_at_once() -> None:
    """s = 5 would ask at row 5; an instruction that changes before row 2 asks there, and row 3 is the last
    of the old plan: it is committed, with an expected delay of 2.
    """
    config = ControllerConfig(kind="guided", num_executed=5, delay=2)
    policy = hundreds(10)
    player = make_player(config, horizon=10, embodiment=ARM)
    controller = SimulatedController(player, policy, ARM, latency=2)
    found = [float(controller.step(seen)[1]) for _ in range(4)]
    controller.replan()
    found += [float(controller.step(seen)[1]) for _ in range(4)]
    assert found == [0, 0, 100, 101, 102, 103, 202, 203]
    (told,) = [asked for asked in policy.asked if asked is not None]
    assert told.actions[:, 1].tolist() == [102, 103]


def test_replanning_of_chunks_drops_the_chunk() -> None:
    player = make_player(ControllerConfig(kind="synchronous"), horizon=10, embodiment=ARM)
    controller = SimulatedController(player, hundreds(10), ARM)
    found = [float(controller.step(seen)[1]) for _ in range(2)]
    controller.replan()
    assert [*found, float(controller.step(seen)[1])] == [100, 101, 200]


def test_everything_between_a_policy_and_a_motor_needs_no_torch() -> None:
    root = Path(__file__).parents[2]
    names = [
        f"pizero.policy.{path.relative_to(root / 'pizero/policy').with_suffix('').as_posix()}".replace(
            "/", "."
        )
        for path in sorted((root / "pizero/policy").rglob("*.py"))
        if path.name not in ("__init__.py", "policy.py", "prepared.py", "golden.py")
    ]
    assert len(names) > 8
    statement = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", statement], cwd=root, check=False).returncode == 0
