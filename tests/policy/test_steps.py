"""Numbers of flow steps follow from measured seconds by arithmetic that anybody can do."""

from __future__ import annotations

import pytest

from pizero.policy.steps import BUFFER, RETRY, StepChooser


def test_what_was_not_tried_lies_on_the_line_through_what_was() -> None:
    """2 steps take 30 ms and 4 take 50: 10 ms for each step and 10 ms besides, so 10 take 110 ms."""
    chooser = StepChooser((2, 4, 10))
    for number, seconds in ((2, 0.03), (4, 0.05)):
        for _ in range(3):
            chooser.add(number, seconds)
    assert chooser.expected(10) == pytest.approx(0.11)
    assert [chooser.choose(budget) for budget in (1.0, 0.111, 0.109, 0.04, 0.0)] == [10, 10, 4, 2, 2]


def test_one_number_alone_is_taken_for_proportional() -> None:
    chooser = StepChooser((5, 10))
    chooser.add(5, 9.0)
    chooser.add(5, 0.05)
    assert chooser.expected(10) == pytest.approx(0.1)


def test_the_first_measurement_is_of_compilation_and_the_longest_of_the_rest_counts() -> None:
    chooser = StepChooser((5,))
    for seconds in (60.0, 0.05, 0.07, 0.06):
        chooser.add(5, seconds)
    assert chooser.expected(5) == pytest.approx(0.07)
    for _ in range(BUFFER):
        chooser.add(5, 0.04)
    assert chooser.expected(5) == pytest.approx(0.04)


def test_a_slow_spell_is_not_held_against_a_number_for_ever() -> None:
    chooser = StepChooser((2, 10))
    for _ in range(3):
        chooser.add(2, 0.02)
        chooser.add(10, 5.0)
    found = [chooser.choose(0.2) for _ in range(RETRY + 1)]
    assert found == [2] * RETRY + [10]


def test_numbers_of_steps_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected numbers of flow steps of 1 or more, found \[0, 5\]"):
        StepChooser((0, 5))
