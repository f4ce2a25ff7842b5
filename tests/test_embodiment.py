"""An embodiment is refused with everything that is wrong with it, and is the same before and after a file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.embodiment import (
    ROTATION_LENGTHS,
    Camera,
    Dimension,
    DimensionKind,
    Embodiment,
    read_embodiment,
)
from pizero.records import fingerprint, from_data, to_data, write_record
from tests.examples import unchecked

KINDS: tuple[DimensionKind, ...] = get_args(DimensionKind)
LETTERS = dict(zip(KINDS, "pjavgxeqwr", strict=True))
WHOLE_ROTATIONS = re.compile("(?:[pjavg]|xxx|eee|qqqq|wwww|rrrrrr)*")
"""Another way to say what rotations are: one letter for each kind, and a grammar."""

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)

X = Dimension(name="x", unit="m", kind="position", low=-1.0, high=1.0)
TOP = Camera(name="top", height=8, width=6)
DOT = Embodiment(
    name="dot", state=(X,), actions=(replace(X, name="dx", kind="velocity"),), cameras=(TOP,), rate=10.0
)


def of_kinds(kinds: list[DimensionKind]) -> tuple[Dimension, ...]:
    return tuple(replace(X, name=f"d{index}", kind=kind) for index, kind in enumerate(kinds))


@st.composite
def dimensions(draw: st.DrawFn) -> tuple[Dimension, ...]:
    """Draw numbers and whole rotations, with limits in order and names that differ."""
    chosen: list[DimensionKind] = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    kinds: list[DimensionKind] = [kind for kind in chosen for _ in range(ROTATION_LENGTHS.get(kind, 1))]
    names = draw(st.lists(words, min_size=len(kinds), max_size=len(kinds), unique=True))
    drawn = []
    for name, kind in zip(names, kinds, strict=True):
        low, high = sorted(draw(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2, unique=True)))
        drawn.append(Dimension(name=name, unit=draw(words), kind=kind, low=low, high=high))
    return tuple(drawn)


@st.composite
def robots(draw: st.DrawFn) -> Embodiment:
    """Draw a robot that makes no sense and is valid."""
    even = st.integers(1, 500).map(lambda half: 2 * half)
    with unchecked():
        return Embodiment(
            name=draw(words),
            state=draw(dimensions()),
            actions=draw(dimensions()),
            cameras=tuple(
                Camera(name=name, height=draw(even), width=draw(even), required=draw(st.booleans()))
                for name in draw(st.lists(words, max_size=3, unique=True))
            ),
            rate=draw(st.floats(1e-3, 1e4)),
        )


@given(robots())
def test_a_robot_survives_json_with_its_hash(robot: Embodiment) -> None:
    again = from_data(Embodiment, json.loads(json.dumps(to_data(robot))))
    assert again == robot
    assert fingerprint(again) == fingerprint(robot)
    assert robot.diff(again) == []


def is_accepted(kinds: list[DimensionKind]) -> bool:
    try:
        replace(DOT, state=of_kinds(kinds))
    except ValueError as error:
        return "next to each other for each rotation" not in str(error)
    return True


@pytest.mark.usefixtures("unchecked")
def test_rotations_are_whole_or_refused() -> None:
    """Every two kinds, in rows of up to seven numbers each, and one kind alone in rows of up to twelve."""
    rows: list[list[DimensionKind]] = [[kind] * count for kind in KINDS for count in range(1, 13)]
    pairs = [one + other for one in rows for other in rows if max(len(one), len(other)) < 8]
    for kinds in (*rows, *pairs):
        whole = WHOLE_ROTATIONS.fullmatch("".join(LETTERS[kind] for kind in kinds)) is not None
        assert is_accepted(kinds) == whole, kinds


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "expected a name, found none"),
    "no state": ({"state": ()}, "state: expected at least one dimension, found none"),
    "no actions": ({"actions": ()}, "actions: expected at least one dimension, found none"),
    "rate 0": ({"rate": 0.0}, "expected a control rate above 0 Hz, found 0.0"),
    "rate below 0": ({"rate": -50.0}, "expected a control rate above 0 Hz, found -50.0"),
    "rate without end": ({"rate": float("inf")}, "expected a control rate above 0 Hz, found inf"),
    "rate not a number": ({"rate": float("nan")}, "expected a control rate above 0 Hz, found nan"),
    "name twice": ({"state": (X, X, X)}, "state: expected names that differ, found 'x' 3 times"),
    "empty name": (
        {"actions": (replace(X, name=""),)},
        "actions: expected a name for each, found an empty one",
    ),
    "limits equal": (
        {"state": (replace(X, low=1.0),)},
        "state: expected finite limits of 'x', low < high, found 1.0 and 1.0",
    ),
    "limits exchanged": (
        {"actions": (replace(X, low=1.0, high=-1.0),)},
        "actions: expected finite limits of 'x', low < high, found 1.0 and -1.0",
    ),
    "lower limit without end": (
        {"state": (replace(X, low=-float("inf")),)},
        "state: expected finite limits of 'x', low < high, found -inf and 1.0",
    ),
    "upper limit without end": (
        {"state": (replace(X, high=float("inf")),)},
        "state: expected finite limits of 'x', low < high, found -1.0 and inf",
    ),
    "limit not a number": (
        {"state": (replace(X, low=float("nan")),)},
        "state: expected finite limits of 'x', low < high, found nan and 1.0",
    ),
    "half a rotation": (
        {"state": of_kinds(["position", "axis_angle", "axis_angle", "gripper"])},
        "state: expected 3 numbers of kind 'axis_angle' next to each other for each rotation, "
        "found 2 (d1, d2)",
    ),
    "camera twice": (
        {"cameras": (TOP, replace(TOP, width=10))},
        "cameras: expected names that differ, found 'top' 2 times",
    ),
    "odd height": (
        {"cameras": (replace(TOP, height=7),)},
        "cameras: expected an even height and width of 'top', as video needs, found 7 x 6",
    ),
    "odd width": (
        {"cameras": (replace(TOP, width=5),)},
        "cameras: expected an even height and width of 'top', as video needs, found 8 x 5",
    ),
    "no width": (
        {"cameras": (replace(TOP, width=0),)},
        "cameras: expected an even height and width of 'top', as video needs, found 8 x 0",
    ),
    "height below 0": (
        {"cameras": (replace(TOP, height=-2),)},
        "cameras: expected an even height and width of 'top', as video needs, found -2 x 6",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_refused_alone(fault: str) -> None:
    changes, sentence = FAULTS[fault]
    name = changes.get("name", "dot")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        replace(DOT, **changes)
    assert str(caught.value) == f"the embodiment {name!r} is not one yet: {sentence}"


def test_all_faults_are_told_at_once() -> None:
    chosen = ["rate 0", "name twice", "limits exchanged", "camera twice"]
    changes = {key: value for fault in chosen for key, value in FAULTS[fault][0].items()}
    with pytest.raises(ValueError, match="not one yet") as caught:
        replace(DOT, **changes)
    assert str(caught.value).split(": ", 1)[1].split("; ") == [FAULTS[fault][1] for fault in chosen]


@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_are_the_same_robot() -> None:
    """`low=0` would otherwise be another text than `0.0`, and another hash after a file than before."""
    whole: Any = {"low": -1, "high": 1}
    robot = replace(DOT, state=(replace(X, **whole),), rate=10)
    assert fingerprint(robot) == fingerprint(DOT)
    assert isinstance(robot.rate, float)


def test_a_negative_zero_is_the_same_robot() -> None:
    """-0.0 equals 0.0, but is another text."""
    one, other = (replace(DOT, state=(replace(X, low=zero),)) for zero in (0.0, -0.0))
    assert one == other
    assert fingerprint(one) == fingerprint(other)


def test_a_robot_s_file_is_read(tmp_path: Path) -> None:
    write_record(tmp_path / "dot.json", DOT)
    assert read_embodiment(tmp_path / "dot.json") == DOT


def test_a_file_may_leave_out_types_and_defaults(tmp_path: Path) -> None:
    """What a person writes by hand: no `type`, whole numbers, and no `required`."""
    data = {
        "name": "dot",
        "state": [{"name": "x", "unit": "m", "kind": "position", "low": -1, "high": 1}],
        "actions": [{"name": "dx", "unit": "m", "kind": "velocity", "low": -1, "high": 1}],
        "cameras": [{"name": "top", "height": 8, "width": 6}],
        "rate": 10,
    }
    (tmp_path / "dot.json").write_text(json.dumps(data), encoding="utf-8")
    assert fingerprint(read_embodiment(tmp_path / "dot.json")) == fingerprint(DOT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rate"', '"rat"', "Embodiment: unknown field 'rat': did you mean 'rate'?"),
        ('"high"', '"hihg"', r"state\[0\]: unknown field 'hihg': did you mean 'high'?"),
        (
            '"position"',
            '"place"',
            r"state\[0\]\.kind: expected one of 'position', 'joint',.* found 'place'",
        ),
        ('"low": -1.0', '"low": "-1"', r"state\[0\]\.low: expected float, found '-1'"),
        ('"low": -1.0', '"low": NaN', "'dot' is not one yet: state: expected finite limits of 'x'"),
        (
            '"low": -1.0',
            '"low": 1e400',
            "state: expected finite limits of 'x', low < high, found inf and 1.0",
        ),
        ('"height": 8', '"height": 8.0', r"cameras\[0\]\.height: expected int, found 8\.0"),
        ('"type": "Embodiment"', '"type": "Contract"', "expected a Embodiment, found a Contract"),
        ("{", "[", "is not JSON"),
    ],
)
def test_a_file_that_is_no_robot_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dot.json"
    write_record(path, DOT)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"dot.json.*{message}"):
        read_embodiment(path)


def test_two_robots_differ_in_what_was_changed() -> None:
    slower = replace(DOT, rate=5.0, state=(replace(X, unit="cm"),))
    assert DOT.diff(slower) == ["state[0].unit: 'm' ≠ 'cm'", "rate: 10.0 ≠ 5.0"]
    assert slower.diff(DOT) == ["state[0].unit: 'cm' ≠ 'm'", "rate: 5.0 ≠ 10.0"]
