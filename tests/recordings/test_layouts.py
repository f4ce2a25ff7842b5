"""Layouts say what they mean, refuse what they cannot mean, and agree with the catalog of robots."""

import json
from pathlib import Path

import pytest

from pizero.recordings.layouts import (
    DROID_JOINT_POSITION_LAYOUT,
    DROID_LAYOUT,
    LAYOUTS,
    RecordingLayout,
    find_layout,
    parse_field,
)
from pizero.records import to_data, write_record
from pizero.robots import DROID


@pytest.mark.parametrize(
    ("text", "path", "wanted"),
    [
        ("data/state", "data/state", slice(None, None)),
        ("data/state[:7]", "data/state", slice(None, 7)),
        ("data/state[2:]", "data/state", slice(2, None)),
        ("data/state[-3:-1]", "data/state", slice(-3, -1)),
        ("@task", "@task", slice(None, None)),
    ],
)
def test_fields_and_their_parts(text: str, path: str, wanted: slice) -> None:
    assert parse_field(text) == (path, wanted)


@pytest.mark.parametrize("text", ["", "state[7]", "state[:7", "state[a:b]", "state[:7][:2]", "[:7]"])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a field as `path` or `path\[start:stop\]`"):
        parse_field(text)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_survives_its_file(tmp_path: Path, name: str) -> None:
    write_record(tmp_path / "layout.json", LAYOUTS[name])
    assert find_layout(str(tmp_path / "layout.json")) == LAYOUTS[name] == find_layout(name)


def test_a_file_of_ones_own_needs_no_more_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "state": ["a"], "fps": 5}))
    assert find_layout(str(path)) == RecordingLayout(name="mine", state=("a",), fps=5.0)
    path.write_text(json.dumps({"name": "mine", "states": ["a"]}))
    with pytest.raises(ValueError, match="unknown field 'states': did you mean 'state'"):
        find_layout(str(path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": ()}, "at least one field that makes the state"),
        ({"action": ("a[7]",)}, "expected a field"),
        ({"cameras": {"a/b": "c"}}, "names without '/', found 'a/b'"),
        ({"columns": {"": "c"}}, "names without '/'"),
        ({"only": {"path": "("}}, "is no pattern"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RecordingLayout(**({"name": "mine", "state": ("a",)} | changes))


def test_droids_layouts_name_what_the_robot_names() -> None:
    assert DROID_LAYOUT.action_names == tuple(dimension.name for dimension in DROID.actions)
    assert DROID_JOINT_POSITION_LAYOUT.action_names == DROID_LAYOUT.state_names
    assert DROID_LAYOUT.fps == DROID.rate
    assert {camera.name for camera in DROID.cameras} <= set(DROID_LAYOUT.cameras)
    assert to_data(DROID_LAYOUT)["only"] == {"episode_metadata/file_path": "success"}
