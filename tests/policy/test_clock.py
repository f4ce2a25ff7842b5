"""F27: deadlines are absolute, the wall clock does not matter, and late ticks are not made up for."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.policy.clock import Clock, MonotonicTime, Tick
from tests.policy.players import VirtualTime

PERIOD = 0.02


def ticks_under(works: list[float]) -> list[Tick]:
    """Return the ticks of a loop whose bodies take some seconds."""
    moment = VirtualTime()
    clock = Clock(50.0, moment)
    found = []
    for work in works:
        found.append(clock.wait())
        moment.advance(work)
    return found


def test_work_does_not_add_up_to_drift() -> None:
    """A loop that sleeps a period after 7 ms of work drifts by 7 ms a tick."""
    found = ticks_under([0.007] * 3000)
    assert [tick.index for tick in found] == list(range(3000))
    assert found[-1].began - found[0].began == pytest.approx(2999 * PERIOD, abs=1e-9)


def test_f27_a_hog_makes_ticks_late_and_none_is_made_up_for() -> None:
    """65 ms in one tick: 1 to 3 are left out; the third would follow 5 ms late, at once upon the first."""
    found = ticks_under([0.065, 0.001, 0.001, 0.001])
    assert [tick.index for tick in found] == [0, 4, 5, 6]
    assert [tick.skipped for tick in found] == [0, 3, 0, 0]
    assert [tick.lateness for tick in found] == pytest.approx([0, 0, 0, 0])


def test_f27_a_tick_that_is_woken_late_is_not_followed_at_once() -> None:
    """The system wakes the loop 15 ms late: tick 1 begins at 35 ms, tick 2 is left out, 3 is on time."""
    moment = VirtualTime()
    clock = Clock(50.0, moment)
    clock.wait()
    moment.at(0.02, lambda: moment.advance(0.015))
    found = [clock.wait() for _ in range(3)]
    assert [tick.index for tick in found] == [1, 3, 4]
    assert [tick.lateness for tick in found] == pytest.approx([0.015, 0, 0])


@given(works=st.lists(st.floats(0, 0.2), min_size=2, max_size=60))
def test_f27_ticks_are_on_the_grid_apart_and_all_counted(works: list[float]) -> None:
    found = ticks_under(works)
    ends = [tick.began + work for tick, work in zip(found, works, strict=True)]
    for end, after in zip(ends, found[1:], strict=False):
        assert after.began >= end
        assert after.skipped == 0 or after.began >= end + PERIOD / 2 - 1e-9
    for before, after in itertools.pairwise(found):
        assert after.began - before.began >= PERIOD / 2 - 1e-9
        assert after.lateness <= 1e-9
        assert after.deadline == pytest.approx(after.index * PERIOD, abs=1e-9)
        assert after.index == before.index + 1 + after.skipped


def test_f27_the_wall_clock_may_jump_by_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter([3600.0, -3600.0] * 1000)
    honest = time.time
    monkeypatch.setattr(time, "time", lambda: honest() + next(jumps))
    clock = Clock(1000.0, MonotonicTime())
    began = time.monotonic()
    found = [clock.wait() for _ in range(50)]
    assert all(tick.began >= tick.deadline for tick in found)
    assert found[-1].index < 1000 * (time.monotonic() - began) + 1


def test_f27_nothing_between_policy_and_motor_reads_the_wall_clock() -> None:
    folder = Path(__file__).parents[2] / "pizero" / "policy"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert [name for name, text in texts.items() if "time.time(" in text or "datetime" in text] == []
