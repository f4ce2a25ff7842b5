"""What is shown to a policy, a person and a log is one short line."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.planning.instructions import brief, one_line


@given(st.text(max_size=150))
def test_an_instruction_is_one_line_of_what_can_be_read(text: str) -> None:
    try:
        found = one_line(text)
    except ValueError:
        assert not [c for c in text if not c.isspace() and unicodedata.category(c)[0] != "C"]
        return
    assert found == found.strip()
    assert len(found.splitlines()) == 1
    assert not [c for c in found if unicodedata.category(c)[0] == "C"]
    assert one_line(found) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  open\n\tthe   drawer \r\n", "open the drawer"),
        ("left\u202egnihton\u202c", "leftgnihton"),
        ("zero\u200bwidth", "zerowidth"),
        ("a\u0301 b", "á b"),
        ("ring\x07 \x1b[31mred", "ring [31mred"),
    ],
)
def test_an_instruction_by_example(text: str, expected: str) -> None:
    assert one_line(text) == expected


def test_half_an_instruction_is_none() -> None:
    assert len(one_line("x" * 200)) == 200
    with pytest.raises(ValueError, match="at most 200 characters, found 201"):
        one_line("x" * 201)


def test_an_error_becomes_a_short_line() -> None:
    assert brief(OSError("a\nb")) == "OSError: a b"
    assert brief(TimeoutError()) == "TimeoutError: without words"
    assert len(brief(ValueError("word " * 100_000))) < 250
