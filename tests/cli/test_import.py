"""`pizero import` from end to end: what it says, what it writes, and what a second call does."""

import json
from pathlib import Path

import numpy as np
import pytest
import tyro

from pizero.cli.import_recordings import import_recordings
from pizero.data.lerobot import LeRobotDataset
from tests.recordings.recorded import FIXTURES, copy_of, rlds_truth

OPEN_X = FIXTURES / "open_x_fixture"
DROID = FIXTURES / "droid_fixture"


def run(*arguments: object) -> None:
    """Do what the verb does with these arguments."""
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    tyro.cli(import_recordings, args=[*map(str, arguments), "--workers", "1"], config=options)


def test_a_dry_run_shows_what_would_be_made_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run(DROID, tmp_path / "out", "--format", "rlds", "--dry-run")
    text = capsys.readouterr().out
    for words in (
        "5 episodes",
        "steps/observation/joint_position",
        "steps/action_dict/joint_velocity + steps/action_dict/gripper_position",
        "video [18, 32, 3]",
        "v3.0, 15 Hz, layout droid",
        "joint_velocity_1",
        "nothing was written",
    ):
        assert words in text
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_as_json_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(OPEN_X, tmp_path / "out", "--format", "rlds", "--fps", 5, "--limit", 2, "--dry-run", "--json")
    data = json.loads(capsys.readouterr().out)
    assert len(data["episodes"]) == 2
    assert data["fields"]["steps/observation/depth"] == "image uint16 [16, 24, 1]"
    assert data["dataset"]["features"]["observation.state"]["shape"] == [3]
    assert data["layout"]["action"] == ["steps/action"]


def test_droid_becomes_a_dataset_that_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (DROID, tmp_path / "droid", "--format", "rlds", "--skip-unlabelled")
    run(*arguments)
    text = capsys.readouterr().out
    assert "3 episodes (3 imported now)" in text
    assert "left out by rule: 2 episodes, the first: " in text
    dataset = LeRobotDataset.open(tmp_path / "droid")
    assert (dataset.fps, len(dataset.episodes), dataset.action_names[-1]) == (15.0, 3, "gripper")
    assert sorted(task for episode in dataset.episodes for task in episode.tasks) == [
        "cups on top of each other",
        "stack the cups",
        "stack the cups",
    ]
    run(*arguments)
    assert "3 episodes (nothing to do, the source is unchanged)" in capsys.readouterr().out


def test_a_layout_file_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = {
        "name": "mine",
        "state": ["steps/observation/mask", "steps/observation/state[1:]"],
        "action": ["steps/action[:1]"],
        "cameras": {"front": "steps/observation/image"},
        "instructions": ["steps/language_instruction"],
        "columns": {"next.number": "steps/number"},
        "fps": 4.0,
        "state_names": ["a", "b", "c", "d", "y", "z"],
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(layout))
    run(OPEN_X, tmp_path / "out", "--format", "rlds", "--layout", path, "--version", "v2.1", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "dataset": str(tmp_path / "out"),
        "episodes": 5,
        "imported_now": 5,
        "kept": 0,
        "damaged": [],
        "left_out": [],
    }
    dataset, truth = LeRobotDataset.open(tmp_path / "out"), rlds_truth("open_x_fixture")
    assert dataset.info["codebase_version"] == "v2.1"
    assert dataset.state_names == ("a", "b", "c", "d", "y", "z")
    masks = np.concatenate([fields["steps/observation/mask"].reshape(-1, 4) for fields in truth.values()])
    ends = np.concatenate([fields["steps/observation/state"][:, 1:] for fields in truth.values()])
    state = np.concatenate([masks, ends], axis=1)
    np.testing.assert_array_equal(dataset.states, state.astype(np.float32))
    numbers = np.concatenate([fields["steps/number"] for fields in truth.values()])
    np.testing.assert_array_equal(np.asarray(dataset.column("next.number")).reshape(-1), numbers)


def test_damage_is_told_and_may_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of("open_x_fixture", tmp_path)
    path = folder / "open_x_fixture-train.tfrecord-00000-of-00002"
    raw = bytearray(path.read_bytes())
    raw[500] ^= 1
    path.write_bytes(raw)
    arguments = (folder, tmp_path / "out", "--format", "rlds", "--fps", 5)
    with pytest.raises(ValueError, match=r"1 of 5 episodes.*00000-of-00002: record 0 at byte 0 is damaged"):
        run(*arguments)
    run(*arguments, "--skip-damaged", 1)
    text = capsys.readouterr().out
    assert "left out, damaged: open_x_fixture-train.tfrecord-00000-of-00002#0" in text
    assert "4 episodes (0 imported now)" in text
    run(*arguments, "--skip-damaged", 1, "--json")
    assert len(json.loads(capsys.readouterr().out)["damaged"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{new}", "{out}", "--format", "rlds"), "expected recordings at .*, found nothing"),
        ((OPEN_X, "{out}", "--format", "rlds"), "--fps gives it"),
        (
            (OPEN_X, "{out}", "--format", "rlds", "--layout", "driod"),
            "unknown layout 'driod': did you mean 'droid'",
        ),
        (
            (OPEN_X, "{out}", "--format", "rlds", "--layout", "droid"),
            "no field 'steps/observation/joint_position'",
        ),
        ((OPEN_X, "{out}", "--format", "zarr"), "with meta/episode_ends, found no arrays"),
        ((OPEN_X, "{out}", "--format", "aloha"), r"expected files \*\.hdf5"),
    ],
)
def test_each_mistake_is_one_sentence_and_changes_nothing(
    tmp_path: Path, arguments: tuple[object, ...], words: str
) -> None:
    places = {"{new}": tmp_path / "new", "{out}": tmp_path / "out"}
    with pytest.raises(ValueError, match=words):
        run(*(places.get(str(argument), argument) for argument in arguments))
    assert list(tmp_path.iterdir()) == []
