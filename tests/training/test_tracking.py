"""Figures arrive where they should, once, and no tracker can stop a run or make it wait."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from pizero.training import tracking
from pizero.training.tracking import (
    Background,
    Direct,
    JsonLines,
    Log,
    Sink,
    TensorBoard,
    Trackers,
    open_trackers,
)

NEVER = threading.Event()
"""What a sink that hangs waits for."""

ENOUGH = 60.0
"""Seconds that nothing here should need; only a failing test uses them up."""


class Kept:
    """A sink that keeps its rows; it raises at step `bad`, or waits for `until` in every write."""

    def __init__(self, *, bad: int | None = None, until: threading.Event | None = None) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.bad, self.until = bad, until
        self.entered = threading.Event()
        self.closed = 0

    def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        self.entered.set()
        if step == self.bad:
            raise OSError(28, "No space left on device")
        if self.until is not None:
            self.until.wait()
        self.rows.append((kind, step, dict(figures)))

    def close(self) -> None:
        self.closed += 1

    @property
    def steps(self) -> list[int]:
        return [step for _, step, _ in self.rows]


def made(sink: Sink) -> Callable[[], Sink]:
    return lambda: sink


def no_sink() -> Sink:
    raise ConnectionError("no route to host")


def warnings_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def write_steps(trackers: Trackers, steps: range) -> None:
    for step in steps:
        trackers.write(step, {"loss": 1.0 / step})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard's own reader shows."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def open_here(folder: Path, step: int, **given: Any) -> Trackers:
    return open_trackers(folder, step, config_data={"seed": 3}, run_name="tiny", **given)


def test_figures_are_in_the_files_and_in_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_here(tmp_path, 0, names=["tensorboard"]) as trackers:
        trackers.write(1, {"loss": 0.5, "learning_rate": 0.25})
        trackers.write(2, {"loss": 0.125, "learning_rate": 0.0625})
        trackers.write(2, {"action_error": 8.0}, kind="validation")
    assert lines_of(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "learning_rate": 0.25},
        {"step": 2, "loss": 0.125, "learning_rate": 0.0625},
    ]
    assert lines_of(tmp_path / "validation.jsonl") == [{"step": 2, "action_error": 8.0}]
    shown = tmp_path / "tensorboard"
    assert scalars(shown, "metrics/loss") == [(1, 0.5), (2, 0.125)]
    assert scalars(shown, "metrics/learning_rate") == [(1, 0.25), (2, 0.0625)]
    assert scalars(shown, "validation/action_error") == [(2, 8.0)]
    assert warnings_of(capsys) == []


def test_a_resumed_run_shows_no_step_twice(tmp_path: Path) -> None:
    """Steps 4 to 6 were made after the checkpoint of step 3; the second start makes 4 and 5 again."""
    with open_here(tmp_path, 0) as trackers:
        write_steps(trackers, range(1, 7))
        trackers.write(6, {"action_error": 1.0}, kind="validation")
    with open_here(tmp_path, 3) as trackers:
        trackers.write(4, {"loss": 16.0})
        trackers.write(5, {"loss": 32.0})
    expected = [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 16.0), (5, 32.0)]
    assert [(row["step"], row["loss"]) for row in lines_of(tmp_path / "metrics.jsonl")] == expected
    assert lines_of(tmp_path / "validation.jsonl") == []
    assert scalars(tmp_path / "tensorboard", "metrics/loss") == [
        (step, pytest.approx(loss)) for step, loss in expected
    ]
    with open_here(tmp_path, 5) as trackers:  # a third start, in the same second
        trackers.write(6, {"loss": 64.0})
    assert scalars(tmp_path / "tensorboard", "metrics/loss")[3:] == [(4, 16.0), (5, 32.0), (6, 64.0)]


def test_a_log_that_was_damaged_goes_on_with_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "loss": 1.0}\n\x00\xff\x00}\n[{}\n{"loss": 2.0}\n{"step": 3, "loss": 3.0}\n'
        b'{"step": 9, "loss": 9.0}\n{"step": 4, "lo'
    )
    with Log(path, 4) as log:
        log.write(step=5, loss=5.0)
    assert lines_of(path) == [{"step": step, "loss": float(step)} for step in (1, 3, 5)]


def test_a_log_that_cannot_be_rewritten_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the lines to be kept are written: the old ones are still there."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def full(path: Path, *_: object, **__: object) -> int:
        path.open("w").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        Log(path, 1)
    assert lines_of(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("kind", [Direct, Background])
def test_a_tracker_that_raises_is_closed_after_one_warning(
    kind: type[Direct] | type[Background], capsys: pytest.CaptureFixture[str]
) -> None:
    broken, others = Kept(bad=3), [Kept(), Kept()]
    trackers = [
        Direct("one", made(others[0])),
        kind("broken", made(broken)),
        Background("two", made(others[1])),
    ]
    with Trackers(trackers, close_seconds=ENOUGH) as all_of_them:
        write_steps(all_of_them, range(1, 9))
    (warning,) = warnings_of(capsys)
    assert "broken stopped (OSError: [Errno 28] No space left on device); figures from step 3 on" in warning
    assert "training goes on" in warning
    assert broken.steps == [1, 2]
    assert [sink.steps for sink in others] == [list(range(1, 9))] * 2
    assert [sink.closed for sink in (broken, *others)] == [1, 1, 1]


@pytest.mark.parametrize("kind", [Direct, Background])
def test_a_tracker_that_cannot_be_opened_gives_one_warning(
    kind: type[Direct] | type[Background], capsys: pytest.CaptureFixture[str]
) -> None:
    other = Kept()
    with Trackers([kind("remote", no_sink), Direct("one", made(other))], close_seconds=ENOUGH) as trackers:
        write_steps(trackers, range(1, 4))
    (warning,) = warnings_of(capsys)
    assert "remote" in warning
    assert "ConnectionError: no route to host" in warning
    assert other.steps == [1, 2, 3]


def test_a_full_disk_gives_one_warning_for_each_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full refuses every byte, as a full disk does."""

    def full_disk(mode: str) -> Any:
        return Path("/dev/full").open(mode)

    def lines() -> Sink:
        sink = JsonLines(tmp_path, 0)
        for log in sink.logs.values():
            log.file.close()
            log.file = full_disk("w")
        return sink

    def board() -> Sink:
        sink = TensorBoard(tmp_path / "tensorboard", 0)
        sink.file.close()
        sink.file = full_disk("wb")
        sink.records = RecordWriter(sink.file)
        return sink

    other = Kept()
    trackers = [Direct("lines", lines), Background("board", board), Direct("other", made(other))]
    with Trackers(trackers, close_seconds=ENOUGH) as all_of_them:
        for step in range(1, 6):
            all_of_them.write(step, {"loss": 1.0})
            all_of_them.write(step, {"action_error": 1.0}, kind="validation")
    found = sorted(warnings_of(capsys))
    assert [line.split()[1] for line in found] == ["board", "lines"]
    assert all("No space left on device" in line and "from step 1 on" in line for line in found)
    assert len(other.rows) == 10


@pytest.mark.parametrize("hanging", ["open", "write"])
def test_a_tracker_that_hangs_holds_nobody_up(hanging: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = Kept()
    stuck = Kept(until=NEVER)

    def make() -> Sink:
        if hanging == "open":
            NEVER.wait()
        return stuck

    with Trackers([Background("stuck", make), Direct("one", made(other))], close_seconds=0.05) as trackers:
        write_steps(trackers, range(1, 51))
    (warning,) = warnings_of(capsys)
    assert "stuck did not finish in time" in warning
    lost = 50 if hanging == "open" else 49
    assert f"{lost} rows" in warning or f"{lost + 1} rows" in warning
    assert other.steps == list(range(1, 51))


def test_a_slow_tracker_loses_its_oldest_rows_and_they_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = threading.Event()
    slow = Kept(until=gate)
    background = Background("slow", made(slow), size=4)
    with Trackers([background], close_seconds=ENOUGH) as trackers:
        write_steps(trackers, range(1, 2))
        assert slow.entered.wait(ENOUGH)  # row 1 is being written; the queue is empty
        write_steps(trackers, range(2, 12))
        gate.set()
    assert slow.steps == [1, 8, 9, 10, 11]
    (warning,) = warnings_of(capsys)
    assert "slow was too slow; 6 rows" in warning


def test_a_tracker_that_was_given_up_says_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    gate = threading.Event()
    late = Kept(bad=2, until=gate)
    background = Background("late", made(late))
    with Trackers([background], close_seconds=0.05) as trackers:
        write_steps(trackers, range(1, 4))
    gate.set()
    background.thread.join(ENOUGH)
    assert late.steps == [1]  # and step 2 raised
    assert len(warnings_of(capsys)) == 1


def test_broken_trackers_change_nothing_that_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    """Gradient descent on x²/2 at rate 1/2 halves x, whatever becomes of its figures."""
    broken = [
        Direct("a", made(Kept(bad=2))),
        Background("b", no_sink),
        Background("c", made(Kept(until=NEVER))),
    ]
    x = 1.0
    with Trackers(broken, close_seconds=0.05) as trackers:
        for step in range(1, 41):
            x -= 0.5 * x
            trackers.write(step, {"x": x})
    assert x == 2.0**-40
    assert len(warnings_of(capsys)) == 3


def test_ctrl_c_is_not_swallowed() -> None:
    class Interrupted(Kept):
        def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Trackers([Direct("one", made(Interrupted()))]) as trackers:
        trackers.write(1, {})


class FakeRun:
    """One run as the service keeps it: steps never go back."""

    def __init__(self) -> None:
        self.step, self.finished = 0, 0
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, figures: dict[str, float], *, step: int) -> None:
        assert step >= self.step, "the service would refuse this"
        self.step = step
        self.rows.append((step, figures))

    def finish(self) -> None:
        self.step, self.finished = self.step + 1, self.finished + 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module `wandb` that keeps runs by id, and what `init` was told."""
    service = SimpleNamespace(runs={}, told=[])

    def init(**given: Any) -> FakeRun:
        service.told.append(given)
        return service.runs.setdefault(given["id"], FakeRun())

    module = ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    vars(module).update(init=init, Settings=lambda **given: given)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return service


def test_weights_and_biases_goes_on_with_the_same_run(
    service: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_here(tmp_path, 0, names=["wandb"]) as trackers:
        write_steps(trackers, range(1, 6))
        trackers.write(5, {"action_error": 2.0}, kind="validation")
    with open_here(tmp_path, 3, names=["tensorboard", "wandb"]) as trackers:
        write_steps(trackers, range(4, 8))
    (run,) = service.runs.values()
    assert run.rows == [
        *((step, {"metrics/loss": 1 / step}) for step in range(1, 6)),
        (5, {"validation/action_error": 2.0}),
        *((step, {"metrics/loss": 1 / step}) for step in (6, 7)),
    ]
    assert run.finished == 2
    first, second = service.told
    assert first["id"] == second["id"] == (tmp_path / "wandb-id.txt").read_text()
    assert (first["config"], first["name"], first["resume"]) == ({"seed": 3}, "tiny", "allow")
    assert Path(first["dir"]) == tmp_path
    (tmp_path / "another").mkdir()
    with open_here(tmp_path / "another", 0, names=["wandb"]):
        pass
    assert len(service.runs) == 2
    assert warnings_of(capsys) == []


@pytest.mark.parametrize("fault", ["raises", "hangs", "exits"])
def test_weights_and_biases_without_a_network(
    service: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    def init(**_: Any) -> None:
        if fault == "raises":
            raise ConnectionError("no route to host")
        if fault == "exits":
            raise SystemExit(1)
        NEVER.wait()

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    trackers = open_here(tmp_path, 0, names=["wandb"])
    trackers.close_seconds = 0.5 if fault == "hangs" else ENOUGH
    with trackers:
        write_steps(trackers, range(1, 4))
    found = [line for line in warnings_of(capsys) if "Weights & Biases" in line]
    assert len(found) == 1
    assert [row["step"] for row in lines_of(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"'wandb' is not installed: `pip install pizero\[wandb\]`"):
        open_here(tmp_path, 0, names=["wandb"])
    assert list(tmp_path.iterdir()) == []


def test_no_trackers_are_no_trouble() -> None:
    with Trackers() as trackers:
        trackers.write(1, {"loss": 1.0})
