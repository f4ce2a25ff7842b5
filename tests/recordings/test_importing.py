"""An import comes back whole, goes on where it was, and changes nothing when it must not."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.recordings import importing
from pizero.recordings.executor import SerialExecutor
from pizero.recordings.fields import Wording, Writing
from pizero.recordings.import_records import ImportRecord
from pizero.recordings.importing import EpisodeJob, ImportSummary, import_episode, import_recordings
from pizero.recordings.layouts import RecordingLayout
from pizero.recordings.rlds import open_rlds
from pizero.recordings.source import LeftOutError, RecordingError, RecordingSource
from pizero.records import read_record
from tests.recordings.recorded import FIXTURES, TableSource, copy_of, rlds_truth

LAYOUT = RecordingLayout(name="table", state=("state",), action=("action",), fps=10.0)
PNG = Writing(pictures="image")
"""What is compared byte by byte has no video in it: that is the encoder's affair."""

CONTENTS: dict[str, object] = {"a": 1, "b": 2, "c": 3, "d": 4}


class Recorder(SerialExecutor):
    """Does jobs in this process, and remembers which were more than a comparison."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        object.__setattr__(self, "stop_after", stop_after)
        object.__setattr__(self, "imported", [])

    def run(self, function: Callable, jobs: Iterable[EpisodeJob]) -> Iterator:
        for number, job in enumerate(jobs):
            if number == self.__dict__["stop_after"]:
                raise KeyboardInterrupt
            outcome = function(job)
            if outcome.fate == "imported":
                self.__dict__["imported"].append(outcome.key)
            yield outcome


def run(
    contents: dict[str, object] | RecordingSource,
    folder: Path,
    executor: SerialExecutor | None = None,
    **options,
) -> ImportSummary:
    source = TableSource(contents, LAYOUT) if isinstance(contents, dict) else contents
    options = {"format_name": "table", "writing": PNG} | options
    return import_recordings(source, folder, executor or SerialExecutor(), **options)


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def states(folder: Path) -> list[np.ndarray]:
    dataset = LeRobotDataset.open(folder)
    return [dataset.states[episode.start : episode.start + episode.length] for episode in dataset.episodes]


def expected(*contents: int) -> list[np.ndarray]:
    source = TableSource({str(content): content for content in contents}, LAYOUT)
    return [source.read(key).columns["observation.state"] for key in source.episode_keys()]


def assert_same(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_dataset_holds_the_episodes_in_order_and_says_where_they_came_from(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    summary = run(CONTENTS, folder, writing=Writing())
    assert (summary.imported, summary.kept) == (4, 0)
    assert_same(states(folder), expected(1, 2, 3, 4))
    dataset = LeRobotDataset.open(folder)
    assert [episode.tasks for episode in dataset.episodes] == [("do 1",), ("do 0",), ("do 1",), ("do 0",)]
    assert dataset.images("front", range(2))[0].shape == (8, 8, 3)
    record = read_record(ImportRecord, folder / "meta" / "import.json")
    assert [(entry.key, entry.content_hash) for entry in record.episodes] == [
        (key, str(content)) for key, content in CONTENTS.items()
    ]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_finished_import_is_left_alone(tmp_path: Path) -> None:
    folder, executor = tmp_path / "dataset", Recorder()
    run(CONTENTS, folder)
    before = fingerprint(folder)
    summary = run(CONTENTS, folder, executor)
    assert (summary.imported, summary.kept, summary.written, executor.imported) == (0, 4, False, [])
    assert fingerprint(folder) == before


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_an_interrupted_import_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    folder, executor = tmp_path / "dataset", Recorder()
    run(CONTENTS, tmp_path / "at once")
    with pytest.raises(KeyboardInterrupt):
        run(CONTENTS, folder, Recorder(stop_after=stop_after))
    assert not folder.exists()
    summary = run(CONTENTS, folder, executor)
    assert (summary.imported, summary.kept) == (4 - stop_after, stop_after)
    assert executor.imported == list(CONTENTS)[stop_after:]
    assert fingerprint(folder) == fingerprint(tmp_path / "at once")


@pytest.mark.parametrize("step", ["merge_shards", "write_record", "_put_in_place", "_link"])
def test_an_interruption_at_the_very_end_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each step of the end is interrupted before it and after it, every time that it is done."""
    contents: dict[str, object] = {"a": 0, "b": 5}
    run(contents, tmp_path / "at once")
    original, wanted = getattr(importing, step), fingerprint(tmp_path / "at once")
    for when in ("before", "after"):
        for count in range(1, 12):
            folder, calls = tmp_path / f"{when} {count}", iter(range(1, 100))

            def interrupt(*arguments: object, count=count, when=when, calls=calls) -> None:
                number = next(calls)
                if number == count and when == "before":
                    raise KeyboardInterrupt
                original(*arguments)
                if number == count and when == "after":
                    raise KeyboardInterrupt

            monkeypatch.setattr(importing, step, interrupt)
            interrupted = False
            try:
                run(contents, folder)
            except KeyboardInterrupt:
                interrupted = True
            monkeypatch.setattr(importing, step, original)
            if folder.exists():
                assert fingerprint(folder) == wanted
            run(contents, folder)
            assert fingerprint(folder) == wanted
            assert not (tmp_path / f"{when} {count}.partial").exists()
            if not interrupted:
                break
        else:
            pytest.fail("never ran to its end")


def test_a_replacement_that_is_interrupted_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    folder, work = tmp_path / "dataset", tmp_path / "dataset.partial"
    run(CONTENTS, folder)
    old = fingerprint(folder)
    run(CONTENTS | {"e": 5}, tmp_path / "new")
    work.mkdir()
    shutil.copytree(tmp_path / "new", work / "dataset")
    folder.rename(work / "replaced")
    summary = run(CONTENTS | {"e": 5}, folder)
    assert (summary.imported, summary.kept) == (0, 5)
    assert fingerprint(folder) == fingerprint(tmp_path / "new") != old
    assert not work.exists()


def test_new_episodes_come_behind_those_that_are_there(tmp_path: Path) -> None:
    folder, said = tmp_path / "dataset", []
    run({"b": 2, "c": 3}, folder)
    summary = run({"a": 1, "b": 2, "c": 3, "d": 4}, folder, say=said.append)
    assert said == ["2 episodes new: a, d; the dataset is built anew, the one that is there stays until then"]
    assert_same(states(folder), expected(2, 3, 1, 4))
    assert [entry.key for entry in summary.record.episodes] == ["b", "c", "a", "d"]
    assert run({"a": 1, "b": 2, "c": 3, "d": 4}, folder).imported == 0


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a": 1, "b": 20, "c": 3, "d": 4}, "1 episode changed: b"),
        ({"a": 1, "d": 4}, "2 episodes no longer there: b, c"),
        (
            {"a": 10, "c": 3, "d": 4, "e": 5},
            "1 episode new: e; 1 episode changed: a; 1 episode no longer there: b",
        ),
    ],
)
def test_a_changed_source_is_refused_and_refreshed_on_request(
    tmp_path: Path, contents: dict[str, object], words: str
) -> None:
    folder = tmp_path / "dataset"
    run(CONTENTS, folder)
    before = fingerprint(folder)
    with pytest.raises(ValueError, match=r"nothing was changed\. --refresh") as refusal:
        run(contents, folder)
    assert words in str(refusal.value)
    assert fingerprint(folder) == before
    run(contents, folder, refresh=True)
    assert_same(
        states(folder), expected(*(content for content in contents.values() if isinstance(content, int)))
    )


def test_a_change_under_an_unfinished_import_is_refused_and_refreshed_on_request(tmp_path: Path) -> None:
    folder, executor = tmp_path / "dataset", Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(CONTENTS, folder, Recorder(stop_after=2))
    with pytest.raises(ValueError, match="1 episode changed since they were imported: b"):
        run(CONTENTS | {"b": 20}, folder)
    assert not folder.exists()
    run(CONTENTS | {"b": 20}, folder, executor, refresh=True)
    assert executor.imported == ["b"]
    assert_same(states(folder), expected(1, 20, 3, 4))


def test_another_plan_is_refused_with_the_differences(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    run(CONTENTS, folder)
    before = fingerprint(folder)
    with pytest.raises(ValueError, match=r"dataset\.fps: 20\.0 ≠ 10\.0.*--refresh"):
        run(CONTENTS, folder, writing=Writing(fps=20.0, pictures="image"))
    assert fingerprint(folder) == before
    with pytest.raises(KeyboardInterrupt):
        run(CONTENTS, tmp_path / "begun", Recorder(stop_after=2))
    with pytest.raises(ValueError, match="imported in another way"):
        run(CONTENTS, tmp_path / "begun", options={"task": "another"})
    run(CONTENTS, folder, writing=Writing(fps=20.0, pictures="image"), refresh=True)
    assert LeRobotDataset.open(folder).fps == 20.0
    executor = Recorder()
    run(CONTENTS, tmp_path / "begun", executor, options={"task": "another"}, refresh=True)
    assert len(executor.imported) == 4


def test_damaged_episodes_are_told_of_once_all_others_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    contents = CONTENTS | {"b": RecordingError("file b is torn"), "d": RecordingError("file d is torn")}
    with pytest.raises(ValueError, match=r"2 of 4 episodes cannot be imported, 0 are allowed") as error:
        run(contents, folder)
    assert "b: file b is torn; d: file d is torn" in str(error.value)
    assert "--skip-damaged 2" in str(error.value)
    assert not folder.exists()
    with pytest.raises(ValueError, match="1 are allowed"):
        run(contents, folder, allowed_damaged=1)
    summary = run(contents, folder, allowed_damaged=2)
    assert (summary.imported, summary.kept) == (0, 2)
    assert_same(states(folder), expected(1, 3))
    listed = json.loads((folder / "meta" / "import.json").read_text())["damaged"]
    assert [(entry["key"], entry["fault"]) for entry in listed] == [
        ("b", "b: file b is torn"),
        ("d", "d: file d is torn"),
    ]
    assert run(contents, folder, allowed_damaged=2).imported == 0


def test_an_episode_that_does_not_fit_the_others_is_damaged(tmp_path: Path) -> None:
    class Ragged(TableSource):
        def read(self, key: str):
            episode = super().read(key)
            if key == "c":
                return replace(
                    episode, columns=episode.columns | {"action": episode.columns["action"][:, :1]}
                )
            if key == "d":
                return replace(
                    episode,
                    columns=episode.columns
                    | {"observation.state": np.full_like(episode.columns["observation.state"], np.nan)},
                )
            return episode

    with pytest.raises(ValueError, match=r"2 of 4.*c: .*'action' of shape.*d: .*not finite, first at step 0"):
        run(Ragged(CONTENTS, LAYOUT), tmp_path / "dataset")


def test_what_is_no_fault_of_an_episode_stops_the_import(tmp_path: Path) -> None:
    class Broken(TableSource):
        def read(self, key: str):
            if key == "b":
                raise OSError("no space left on device")
            return super().read(key)

    with pytest.raises(OSError, match="no space left"):
        run(Broken(CONTENTS, LAYOUT), tmp_path / "dataset", allowed_damaged=4)
    assert not (tmp_path / "dataset").exists()


def test_episodes_left_out_by_rule_are_listed_and_are_no_fault(tmp_path: Path) -> None:
    contents = CONTENTS | {"a": LeftOutError("it failed")}
    summary = run(contents, tmp_path / "dataset")
    assert [(entry.key, entry.fault) for entry in summary.record.left_out] == [("a", "it failed")]
    assert_same(states(tmp_path / "dataset"), expected(2, 3, 4))
    assert run(contents, tmp_path / "dataset").imported == 0
    with pytest.raises(ValueError, match="found none among 1: it failed"):
        run({"a": LeftOutError("it failed")}, tmp_path / "nothing")


def test_the_first_few_can_be_imported_before_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    assert run(CONTENTS, folder, limit=2).imported == 2
    assert_same(states(folder), expected(1, 2))
    run(CONTENTS, folder)
    assert_same(states(folder), expected(1, 2, 3, 4))
    assert run(CONTENTS, folder, limit=2).kept == 4


def test_a_folder_that_is_no_import_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "thesis.txt").write_text("years of work")
    for refresh in (False, True):
        with pytest.raises(ValueError, match="was not made by `pizero import`; nothing was changed"):
            run(CONTENTS, tmp_path / "dataset", refresh=refresh)
    assert (tmp_path / "dataset" / "thesis.txt").read_text() == "years of work"


def test_an_unknown_rate_and_odd_pictures_are_said_before_anything_is_written(tmp_path: Path) -> None:
    source = TableSource(CONTENTS, replace(LAYOUT, fps=None))
    with pytest.raises(ValueError, match="--fps gives it"):
        run(source, tmp_path / "dataset")

    class Odd(TableSource):
        def read(self, key: str):
            episode = super().read(key)
            pictures = np.zeros((len(episode.columns["action"]), 7, 8, 3), np.uint8)
            return replace(episode, images={"observation.images.front": pictures})

    with pytest.raises(ValueError, match=r"pictures of 8×7, and video needs even sides; --pictures image"):
        run(Odd(CONTENTS, LAYOUT), tmp_path / "dataset", writing=Writing())
    assert list(tmp_path.iterdir()) == []
    run(Odd(CONTENTS, LAYOUT), tmp_path / "dataset", writing=PNG)
    assert LeRobotDataset.open(tmp_path / "dataset").image_shape("front") == (7, 8)


def test_a_damaged_import_leaves_no_trace_of_the_episode(tmp_path: Path) -> None:
    source = TableSource({"a": RecordingError("torn")}, LAYOUT)
    run({"a": 1}, tmp_path / "dataset")
    layout = importing.dataset_layout(LAYOUT, TableSource({"a": 1}, LAYOUT).read("a"), Writing())
    outcome = import_episode(EpisodeJob(source=source, key="a", folder=tmp_path / "one", layout=layout))
    assert (outcome.fate, outcome.fault) == ("damaged", "a: torn")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_tensorflows_episodes_come_back_exactly_with_embedded_pictures(tmp_path: Path, version: str) -> None:
    source = open_rlds(FIXTURES / "open_x_fixture", wording=Wording())
    writing = Writing(fps=5.0, version="v3.0" if version == "v3.0" else "v2.1", pictures="image")
    run(source, tmp_path / "dataset", writing=writing)
    dataset, truth = LeRobotDataset.open(tmp_path / "dataset"), rlds_truth("open_x_fixture")
    for episode in dataset.episodes:
        fields = truth[episode.index]
        steps = range(episode.start, episode.start + episode.length)
        np.testing.assert_array_equal(dataset.images("image", steps), fields["steps/observation/image"])
        np.testing.assert_array_equal(dataset.states[steps], fields["steps/observation/state"])
        np.testing.assert_array_equal(dataset.actions[steps], fields["steps/action"].astype(np.float32))
        assert episode.tasks == (str(fields["steps/language_instruction"][0]),)


def test_an_episode_whose_hash_cannot_be_had_is_damaged_and_stays_so(tmp_path: Path) -> None:
    folder = copy_of("open_x_fixture", tmp_path)
    path = folder / "open_x_fixture-train.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-10])
    writing = Writing(fps=5.0)
    with pytest.raises(ValueError, match=r"1 of 5 episodes.*00001-of-00002#\d: .*cut off"):
        run(open_rlds(folder), tmp_path / "dataset", writing=writing)
    summary = run(open_rlds(folder), tmp_path / "dataset", writing=writing, allowed_damaged=1)
    assert (summary.kept, len(summary.record.damaged)) == (4, 1)
    assert run(open_rlds(folder), tmp_path / "dataset", writing=writing).imported == 0
