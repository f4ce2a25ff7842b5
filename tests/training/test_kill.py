"""Killed at any point, a run goes on from a checkpoint that is whole, and ends as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.records import write_record
from pizero.training.checkpoint import part_name
from pizero.weights.folder import sha256_of
from tests.small import demonstrate, small_config
from tests.training.forked import Commands, Ended

NUM_STEPS = 4
CHANCES = ("metrics.jsonl", "executions.jsonl", "tensorboard/*")
"""Files that say when something was, so that no two runs have the same."""

KILLED = -9


class Runs:
    """A dataset, the command that trains on it, and a run of it that nobody disturbed."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder, self.commands = folder, commands
        self.number = 0
        demonstrate(folder / "dataset", num_episodes=4)
        config = replace(small_config(num_steps=NUM_STEPS), batch_size=8, held_out=0.3)
        write_record(folder / "config.json", config)
        self.whole = self.folder / "whole"
        assert self.train(self.whole, "--keep-last", 99).status == 0
        self.states = {
            path.parent.name: sha256_of(path)
            for path in sorted(self.whole.glob(f"checkpoints/*/{part_name(0, 1)}"))
        }
        assert list(self.states) == [f"step-{step:08d}" for step in range(1, NUM_STEPS + 1)]
        assert len(set(self.states.values())) == NUM_STEPS, "states would not tell checkpoints apart"

    def train(self, output: Path, *more: object, save_every: int = 1, **given: Any) -> Ended:
        return self.commands.run(
            *("train", "--dataset", self.folder / "dataset", "--config", self.folder / "config.json"),
            *("--output", output, "--save-every", save_every, *more),
            **given,
        )

    def new(self) -> Path:
        self.number += 1
        return self.folder / f"run{self.number}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("kill")
    with Commands(folder) as commands:
        yield Runs(folder, commands)


def newest_whole(run: Path, states: dict[str, str]) -> int:
    """The step of the newest checkpoint; every folder that bears a checkpoint's name has the right bytes.

    Only of those that are about to be removed, all but the newest two, something may be gone.
    """
    found = sorted(run.glob("checkpoints/step-????????"))
    for path in found[-2:]:
        assert sha256_of(path / part_name(0, 1)) == states[path.name]
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["files"][part_name(0, 1)] == states[path.name]
    return int(found[-1].name.removeprefix("step-")) if found else 0


def figures(run: Path, name: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{key: row[key] for key in row if not key.endswith("_seconds")} for row in rows]


def assert_as_if_undisturbed(run: Path, whole: Path, *, kept: Sequence[int] = (3, 4)) -> None:
    """Every file of the run is there, with the bytes of the other run's, and no other file."""
    names, others = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (run, whole)
    )
    gone = {name for name in others if name.startswith("checkpoints/")}
    gone -= {name for name in gone for step in kept if f"step-{step:08d}" in name}
    events = {name for name in names | others if name.startswith("tensorboard/")}
    assert names - events == others - gone - events
    for name in sorted(names - events - {"metrics.jsonl", "executions.jsonl"}):
        if not name.endswith("progress.json") and not name.endswith("manifest.json"):
            assert sha256_of(run / name) == sha256_of(whole / name), name
    assert figures(run, "metrics.jsonl") == figures(whole, "metrics.jsonl")
    assert [row["step"] for row in figures(run, "metrics.jsonl")] == list(range(1, NUM_STEPS + 1))


def kill_and_go_on(runs: Runs, *faults: Sequence[Any], kill_after: float | None = None) -> tuple[Path, int]:
    """Kill a run, go on with it, compare; return its folder, and where it went on."""
    run = runs.new()
    killed = runs.train(run, faults=faults, kill_after=kill_after)
    assert killed.status in ((KILLED,) if kill_after is None else (KILLED, 0))
    newest = newest_whole(run, runs.states)
    went_on = runs.train(run)
    assert went_on.status == 0, went_on.said
    lines = figures(run, "executions.jsonl") if (run / "executions.jsonl").exists() else []
    if killed.status == KILLED and len(lines) == 2:
        assert lines[1]["step"] == newest, "it did not go on from the newest checkpoint that is whole"
    assert_as_if_undisturbed(run, runs.whole)
    return run, newest


POINTS: dict[str, tuple[tuple[Any, ...], int]] = {
    "claiming the folder": (("at_file", "os.rename", "*/contract.json.partial", 1), 0),
    "drawing the first batch": (("at_file", "os.rename", "*/first_batch.partial", 2), 0),
    "the first checkpoint has its weights": (("at_file", "open", "*-00000001.partial/state*.sha256", 1), 0),
    "half a line of figures": (("half_line", 3), 2),
    "a new checkpoint is an empty folder": (("at_file", "open", "*-00000002.partial/state*", 1), 1),
    "half the weights": (("half_written", "*/step-00000003.partial/*", 1), 2),
    "no manifest": (("at_file", "open", "*/step-00000003.partial/manifest.json.partial", 1), 2),
    "whole but for its name": (("at_file", "os.rename", "*/step-00000003.partial", 1), 2),
    "named, and the old one not removed": (("at_file", "shutil.rmtree", "*/step-00000001", 2), 3),
    "half of the old one removed": (("at_file", "os.remove", "progress.json", 1), 3),
    "after the last checkpoint": (("at_file", "open", "*/samples.json.partial", NUM_STEPS + 1), 4),
    "half of the last old one removed": (("at_file", "os.remove", "progress.json", 2), 4),
    "half the policy": (("half_written", "*/policy.partial/*", 1), 4),
    "the policy has no name yet": (("at_file", "os.rename", "*/policy.partial", 1), 4),
}
"""Where a run is killed, and from which step on it then goes on."""


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(runs: Runs, point: str) -> None:
    fault, step = POINTS[point]
    run, newest = kill_and_go_on(runs, (*fault, "kill") if fault[0] != "half_line" else fault)
    assert newest == step
    assert list(run.rglob("*.partial*")) == []


def test_a_checkpoint_that_was_begun_when_the_run_was_stopped_is_cleared_away(runs: Runs) -> None:
    """No later save has its step, so that none would overwrite it."""
    run = runs.new()
    stopped = (("at_update", 1, "SIGTERM"), ("half_written", "*/step-00000001.partial/*", 1, "kill"))
    assert runs.train(run, save_every=NUM_STEPS, faults=stopped).status == KILLED
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001.partial"]
    assert runs.train(run, save_every=NUM_STEPS).status == 0
    assert_as_if_undisturbed(run, runs.whole, kept=[NUM_STEPS])


def test_killed_again_and_again(runs: Runs) -> None:
    run = runs.new()
    for step in (1, 2, 3):
        fault = ("half_written", f"*/step-{step:08d}.partial/*", 1, "kill")
        assert runs.train(run, faults=[fault]).status == KILLED
        assert newest_whole(run, runs.states) == step - 1
        fault = ("at_file", "open", "*/samples.json.partial", 2, "kill")  # the first is written at the start
        assert runs.train(run, faults=[fault]).status == KILLED
        assert newest_whole(run, runs.states) == step
    assert runs.train(run).status == 0
    assert_as_if_undisturbed(run, runs.whole)


@pytest.mark.slow
def test_killed_at_every_file(runs: Runs) -> None:
    """Just before each thing that a run does to its files, one after the other."""
    ends = []
    for number in range(1, 400):
        run = runs.new()
        fault = ("at_any_file", str(run), number)
        ended = runs.train(run, faults=[fault])
        newest_whole(run, runs.states)
        if ended.status == 0:
            break
        assert ended.status == KILLED
        assert runs.train(run).status == 0
        assert_as_if_undisturbed(run, runs.whole)
        ends.append(number)
        shutil.rmtree(run)
    assert len(ends) > 60


@pytest.mark.slow
def test_killed_at_random_moments(runs: Runs) -> None:
    rng = np.random.default_rng(0)
    reached = []
    for delay in rng.uniform(0.05, 1.2, size=60):
        run, newest = kill_and_go_on(runs, kill_after=float(delay))
        reached.append(newest)
        shutil.rmtree(run)
    assert len(set(reached)) > 2, "the moments lay too close together"
