"""Typed lines arrive as instructions, from a pipe and from a terminal alike."""

import os
import pty
from collections.abc import Iterator

import numpy as np
import pytest

from pizero.planning.planner import PlanFailedError, Situation
from pizero.planning.typed import MAX_LINE, TypedPlanner
from pizero.types import Observation

NOW = Situation(goal="", observation=Observation(images={}, state=np.zeros(2, dtype=np.float32)), seconds=0.0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:  # closed by the test
            continue


def test_the_newest_line_is_in_force_and_the_last_one_stays(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    planner = TypedPlanner(reader)
    os.write(writer, b"open the drawer\n")
    assert planner.plan(NOW) == "open the drawer"
    assert planner.plan(NOW) == "open the drawer", "nothing typed: no waiting"
    os.write(writer, b"one\ntwo\n\n  \nthr")
    assert planner.plan(NOW) == "two"
    os.write(writer, "ée\r\n".encode())
    assert planner.plan(NOW) == "thrée"
    os.write(writer, b"cut off")
    os.close(writer)
    assert planner.plan(NOW) == "cut off"
    assert planner.plan(NOW) == "cut off", "the end of the input is no order"


def test_done_ends_it(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"go\nDone\n")
    assert TypedPlanner(reader).plan(NOW) is None


def test_an_input_that_ends_before_it_begins(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"\n \n")
    os.close(writer)
    with pytest.raises(PlanFailedError, match="the input ended before an instruction"):
        TypedPlanner(reader).plan(NOW)


def test_control_characters_and_bytes_that_are_no_text_do_not_pass(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"go\x1b[2J \x00\xff left\n")
    said = TypedPlanner(reader).plan(NOW)
    assert said == "go[2J \ufffd left"


def test_a_line_that_is_too_long_is_an_error_and_the_last_instruction_stays(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    planner = TypedPlanner(reader)
    os.write(writer, b"go\n" + b"x" * (3 * MAX_LINE) + b"\n")
    with pytest.raises(ValueError, match="at most 200 characters"):
        planner.plan(NOW)
    assert planner.plan(NOW) == "go"
    assert len(planner.begun) <= MAX_LINE


def test_a_flood_does_not_keep_it_from_answering() -> None:
    """`/dev/zero` never pauses and has no line in it."""
    reader = os.open("/dev/zero", os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="no instruction among the first lines"):
            TypedPlanner(reader).plan(NOW)
    finally:
        os.close(reader)


def test_a_terminal_gives_whole_lines() -> None:
    person, terminal = pty.openpty()
    try:
        planner = TypedPlanner(terminal)
        os.write(person, b"go\n")
        assert planner.plan(NOW) == "go"
        os.write(person, b"lefd\x7ft")
        assert planner.plan(NOW) == "go"
        os.write(person, b"\n")
        assert planner.plan(NOW) == "left"
    finally:
        os.close(person)
        os.close(terminal)
