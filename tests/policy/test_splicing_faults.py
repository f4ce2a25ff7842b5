"""F23, F24 and F28: slow starts, answers out of order, and every delay that a chunk can or cannot bear."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pizero.policy.controllers.player import Player
from pizero.policy.controllers.splicer import Splicer, SplicingMethod
from pizero.types import Continuation
from tests.policy.players import numbered, seen, walking


def splicer(horizon: int, *, executed: int, delay: int, method: SplicingMethod = "guided") -> Splicer:
    return Splicer(horizon=horizon, action_dim=3, num_executed=executed, expected_delay=delay, method=method)


def test_f23_a_slow_first_answer_skips_nothing_and_is_not_expected_again() -> None:
    """A network that is compiled at its first call answers 20 times later than it will."""
    player = splicer(12, executed=4, delay=2)
    first = player.request()
    assert first is not None
    for _ in range(40):
        assert player.request() is None
        assert player.action() is None
    assert player.answer(first.sequence, numbered(12))
    assert player.measured is not None
    assert (player.measured.delay, player.measured.consumed, player.measured.counted) == (40, 0, False)
    assert player.estimate == 2
    assert [float(action[0]) for action in iter_actions(player, 4)] == [0, 1, 2, 3]
    again = player.request()
    assert again is not None
    assert again.continuation is not None
    assert again.continuation.delay == 2


def test_f23_the_first_answer_while_moving_is_not_expected_again_either() -> None:
    """The path that goes on from a plan is compiled apart: its first answer is slow a second time."""
    player = splicer(12, executed=4, delay=2)
    answer_after(player, 3, numbered(12))
    iter_actions(player, 4)
    assert answer_after(player, 6, numbered(12))
    assert player.estimate == 2
    assert answer_after(player, 3, numbered(12))
    assert player.estimate == 3


def test_the_longest_of_the_last_ten_delays_is_expected() -> None:
    player = splicer(40, executed=5, delay=0)
    delays = [1, 1, 5, *[2] * 9, 1]
    estimates = []
    for delay in delays:
        answer_after(player, delay, numbered(40))
        estimates.append(player.estimate)
        iter_actions(player, max(0, player.execution - (player.executed - player.observed)))
    assert estimates == [0, 0, *[5] * 10, 2]


def test_f24_answers_out_of_order_and_twice_are_discarded() -> None:
    player = splicer(8, executed=3, delay=1)
    first = player.request()
    assert first is not None
    player.halt()
    second = player.request()
    assert second is not None
    assert second.sequence > first.sequence
    assert not player.answer(first.sequence, numbered(8, 500.0))
    assert player.answer(second.sequence, numbered(8, 100.0))
    assert not player.answer(second.sequence, numbered(8, 700.0))
    assert not player.answer(first.sequence, numbered(8, 500.0))
    assert [float(action[0]) for action in iter_actions(player, 2)] == [100, 101]


def test_f24_answers_to_the_last_episode_are_discarded() -> None:
    player = splicer(8, executed=3, delay=1)
    before = player.request()
    assert before is not None
    player.reset()
    assert not player.answer(before.sequence, numbered(8))
    assert player.action() is None


STEP = 0.01


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, int, int, list[int]]:
    """Draw a horizon, least actions between requests and an expected delay that fit, and delays: mostly
    such as can be borne, some far beyond the horizon.
    """
    horizon = draw(st.integers(4, 16))
    expected = draw(st.integers(0, horizon // 2))
    executed = draw(st.integers(max(1, expected), max(1, horizon - expected)))
    usual = st.lists(st.integers(0, max(1, expected)), min_size=4, max_size=12)
    delays = draw(usual) + draw(st.lists(st.integers(0, horizon + 4), max_size=8))
    return horizon, executed, expected, delays


@settings(max_examples=100)
@given(situation=situations(), seed=st.integers(0, 99))
def test_f28_committed_actions_are_executed_exactly_and_no_seam_is_larger_than_a_step(
    situation: tuple[int, int, int, list[int]], seed: int
) -> None:
    """Any delays from 0 to beyond the horizon: committed rows come out bit for bit, answers that come within
    the estimate make no seam larger than the policy's own steps, and whoever waits in vain stands still at
    the end of the plan: nothing of it is executed twice, and the next chunk is made from there.
    """
    horizon, executed, expected, delays = situation
    player = splicer(horizon, executed=executed, delay=expected)
    here = np.zeros(3, dtype=np.float32)
    act = walking(horizon, np.random.default_rng(seed), step=STEP, position=lambda: here)
    arrivals = iter(delays)
    due, sequence, chunk = -1, 0, numbered(horizon)
    told: Continuation | None = None
    commands: list[np.ndarray | None] = []
    asked_at = 0
    for tick in range(200):
        late = False
        if due == tick:
            assert player.request() is None
            used = player.answer(sequence, chunk)
            moved = sum(command is not None for command in commands[asked_at:tick])
            starved = told is not None and moved < tick - asked_at
            assert used == (not starved)
            late = used and told is not None and moved > told.delay
        request = player.request()
        if request is not None:
            told, asked_at, sequence = request.continuation, tick, request.sequence
            delay = next(arrivals, None)
            if delay is None:
                break
            assert told is None or told.delay <= told.execution
            assert told is None or told.delay <= len(told.actions)
            chunk, due = act(seen(tick), told), tick + delay
            if delay == 0:
                player.answer(sequence, chunk)
        action = player.action()
        commands.append(action)
        here = here if action is None else action
        if told is not None and action is not None:
            moved = sum(command is not None for command in commands[asked_at:]) - 1
            if moved < told.delay:
                np.testing.assert_array_equal(action, told.actions[moved])
        if not late and len(commands) > 1 and action is not None and commands[-2] is not None:
            assert np.abs(action - commands[-2]).max() <= STEP * 1.001


def iter_actions(player: Player, count: int) -> list[np.ndarray]:
    """Return the actions of the next ticks; there must be some."""
    found = []
    for _ in range(count):
        action = player.action()
        assert action is not None
        found.append(action)
    return found


def answer_after(player: Player, delay: int, chunk: np.ndarray) -> bool:
    """Ask, let some ticks pass, answer."""
    request = player.request()
    assert request is not None
    for _ in range(delay):
        player.action()
    return player.answer(request.sequence, chunk)


def test_f28_a_delay_that_grows_too_long_is_waited_for_at_a_standstill() -> None:
    """Chunks of 8 and s = 4 bear delays of 4. Answers after 7 find the robot standing: they are dropped, and
    the chunk that is made from the standstill is executed from its first row. The first is taken for a stall;
    after the second nothing is asked for before the end of the plan.
    """
    player = splicer(8, executed=4, delay=1)
    answer_after(player, 1, numbered(8, 100.0))
    iter_actions(player, 4)
    answer_after(player, 1, numbered(8, 200.0))
    iter_actions(player, 3)
    for estimate in (1, 7):
        assert not answer_after(player, 7, numbered(8, 300.0))
        assert player.estimate == estimate
        assert player.action() is None
        fresh = player.request()
        assert fresh is not None
        assert fresh.continuation is None
        assert player.answer(fresh.sequence, numbered(8, 400.0))
        if estimate == 1:
            iter_actions(player, 4)
    found = []
    for _ in range(9):
        assert player.request() is None or len(found) == 8
        action = player.action()
        found.append(None if action is None else float(action[0]))
    assert found == [400, 401, 402, 403, 404, 405, 406, 407, None]
