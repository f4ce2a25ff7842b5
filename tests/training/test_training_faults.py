"""A full disk, a signal, a broken tracker: one sentence at most, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pizero.records import write_record
from pizero.training.checkpoint import part_name
from pizero.weights.folder import sha256_of
from tests.small import demonstrate, small_config
from tests.training.forked import Commands, Ended

NUM_STEPS = 4
CONFIG = replace(small_config(num_steps=NUM_STEPS), batch_size=8, held_out=0.3)


class Place:
    """A dataset, the command that trains on it, and a run that nothing happened to."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder, self.commands = folder, commands
        self.dataset = demonstrate(folder / "dataset", num_episodes=4)
        write_record(folder / "config.json", CONFIG)
        self.whole = folder / "whole"
        assert self.train(self.whole).status == 0

    def train(
        self, output: Path, *more: object, save_every: int = 1, faults: Sequence[Sequence[Any]] = ()
    ) -> Ended:
        return self.commands.run(
            *("train", "--dataset", self.folder / "dataset", "--config", self.folder / "config.json"),
            *("--output", output, "--save-every", save_every, *more),
            faults=faults,
        )

    def goes_on(self, run: Path, step: int) -> None:
        """The same command goes on after `step`, and ends as the run did that nothing happened to."""
        assert [int(path.name.removeprefix("step-")) for path in checkpoints(run)][-1:] == [step][: step > 0]
        ended = self.train(run)
        assert ended.status == 0, ended.said
        starts = [json.loads(line)["step"] for line in (run / "executions.jsonl").read_text().splitlines()]
        assert starts[-1] == step
        assert_same_run(run, self.whole)
        assert list(run.rglob("*.partial*")) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("faults")
    with Commands(folder) as commands:
        yield Place(folder, commands)


def checkpoints(run: Path) -> list[Path]:
    return sorted(run.glob("checkpoints/step-????????"))


def losses(run: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def assert_same_run(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    name = "policy/model.safetensors"
    assert sha256_of(run / name) == sha256_of(whole / name)


# Disks


ROOM = {
    "for its folder": ("at_file", "os.mkdir", "*/step-00000003.partial", 1, "full disk"),
    "for half of the weights": ("half_written", "*/step-00000003.partial/*", 1, "full disk"),
    "for a hash": ("at_file", "open", "*/step-00000003.partial/*.sha256", 1, "full disk"),
    "for its name": ("at_file", "os.rename", "*/step-00000003.partial", 1, "full disk"),
}


def slow_but(*fast: str, of: Iterable[str]) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in of]


@pytest.mark.parametrize("fault", slow_but("for half of the weights", of=ROOM))
def test_without_room_for_a_checkpoint_those_before_it_stay(place: Place, tmp_path: Path, fault: str) -> None:
    ended = place.train(tmp_path / "run", faults=[ROOM[fault]])
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert "step-00000003 could not be written" in sentence
    assert "No space left on device" in sentence
    assert "Traceback" not in ended.said
    assert list((tmp_path / "run").rglob("*.partial*")) == [], "what was half written takes no room"
    place.goes_on(tmp_path / "run", 2)


def test_a_limit_on_the_size_of_files_is_met_in_the_middle_of_the_weights(
    place: Place, tmp_path: Path
) -> None:
    """The system itself refuses to write on (EFBIG), within the first checkpoint."""
    size = (checkpoints(place.whole)[-1] / part_name(0, 1)).stat().st_size
    ended = place.train(tmp_path / "run", faults=[("small_files", size // 2)])
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert "step-00000001 could not be written" in sentence
    assert "File too large" in sentence
    place.goes_on(tmp_path / "run", 0)


@pytest.mark.slow
def test_a_disk_that_is_really_full(place: Place, tmp_path: Path) -> None:
    """A small disk in memory has room for one checkpoint and a half."""
    size = (checkpoints(place.whole)[-1] / part_name(0, 1)).stat().st_size
    mount = f"mount -t tmpfs -o size={size * 3 // 2} none {tmp_path}"
    alone = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    try:
        subprocess.run([*alone, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets a user mount no disk")
    command = (
        f"{sys.executable} -m pizero train --dataset {place.folder / 'dataset'} --save-every 1 "
        f"--config {place.folder / 'config.json'} --output {tmp_path / 'run'}"
    )
    script = (
        f"{mount} && {command}; echo status $?; ls {tmp_path}/run/checkpoints; "
        f"mount -o remount,size={size * 12} {tmp_path} && {command}; echo status $?; "
        f"sha256sum {tmp_path}/run/policy/model.safetensors"
    )
    ended = subprocess.run([*alone, script], capture_output=True, text=True, check=False)
    assert "step-00000002 could not be written" in ended.stderr
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["status 2", "step-00000001"]
    assert "status 0" in lines
    assert lines[-1].split()[0] == sha256_of(place.whole / "policy" / "model.safetensors")


FILES = {
    "policy": ("os.rename", "*/policy.partial"),
    "run": ("open", "*/samples.json.partial"),
    "first_batch.png": ("os.rename", "*/first_batch.partial"),
}


@pytest.mark.parametrize("name", slow_but("policy", of=FILES))
def test_without_room_for_another_file_it_is_named(place: Place, tmp_path: Path, name: str) -> None:
    event, pattern = FILES[name]
    ended = place.train(tmp_path / "run", faults=[("at_file", event, pattern, 1, "full disk")])
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert f"{name} could not be written: [Errno 28] No space left on device" in sentence
    assert "the same command goes on" in sentence
    place.goes_on(tmp_path / "run", NUM_STEPS if name == "policy" else 0)


def test_a_limit_on_files_is_met_in_the_middle_of_the_policy(place: Place, tmp_path: Path) -> None:
    """safetensors has an error of its own for this."""
    run = tmp_path / "run"
    stop = ("at_file", "open", "*/samples.json.partial", NUM_STEPS + 1, "kill")
    assert place.train(run, faults=[stop]).status == -9
    size = (place.whole / "policy" / "model.safetensors").stat().st_size
    ended = place.train(run, faults=[("small_files", size // 2)])
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert "policy could not be written" in sentence
    place.goes_on(run, NUM_STEPS)


@pytest.mark.parametrize("locked", slow_but("run/checkpoints", of=["run", "run/checkpoints"]))
def test_a_folder_that_may_not_be_written(place: Place, tmp_path: Path, locked: str) -> None:
    """Root may write everywhere: the command gives that right up."""
    run = tmp_path / "run"
    assert place.train(run, faults=[("at_update", 2, "SIGTERM")]).status == 130
    (tmp_path / locked).chmod(0o500)
    try:
        ended = place.train(run, faults=[("no_privileges",)])
    finally:
        (tmp_path / locked).chmod(0o700)
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert "Permission denied" in sentence
    assert str(run) in sentence
    place.goes_on(run, 2)


def test_a_new_folder_that_may_not_be_made(place: Place, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ended = place.train(tmp_path / "run", faults=[("no_privileges",)])
    tmp_path.chmod(0o700)
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert f"{tmp_path / 'run'} could not be written: [Errno 13] Permission denied" in sentence
    assert list(tmp_path.iterdir()) == []


# Signals


SIGNALS = {
    "SIGTERM in an update": (("at_update", 2, "SIGTERM"), 2),
    "SIGINT in an update": (("at_update", 2, "SIGINT"), 2),
    "SIGTERM in a save": (("at_file", "open", "*-00000002.partial/*.sha256", 1, "SIGTERM"), 3),
    "SIGINT in a save": (("at_file", "open", "*-00000002.partial/*.sha256", 1, "SIGINT"), 3),
    "SIGTERM before the first step": (("at_file", "os.rename", "*/contract.json.partial", 1, "SIGTERM"), 0),
    "SIGINT before the first step": (("at_file", "os.rename", "*/contract.json.partial", 1, "SIGINT"), 0),
    "twice in an update": (("at_update", 2, "SIGINT SIGINT"), 1),
    "twice in a save": (("at_file", "open", "*-00000003.partial/*.sha256", 1, "SIGINT SIGINT"), 2),
    "SIGTERM, then SIGINT": (("at_update", 3, "SIGTERM SIGINT"), 2),
}
"""What arrives when, and after which step the run then goes on."""


FAST = ("SIGTERM in an update", "SIGINT in a save", "SIGTERM before the first step", "twice in a save")


@pytest.mark.parametrize("case", slow_but(*FAST, of=SIGNALS))
def test_a_signal_ends_a_run_that_goes_on_later(place: Place, tmp_path: Path, case: str) -> None:
    fault, step = SIGNALS[case]
    ended = place.train(tmp_path / "run", faults=[fault])
    assert ended.status == 130
    (sentence,) = ended.sentences
    once = "SIGINT SIGINT" not in fault and "SIGTERM SIGINT" not in fault
    said = f"stopped after step {step}, which is saved" if step and once else "interrupted"
    assert sentence == f"pizero: {said}; run the same command to go on"
    assert "Traceback" not in ended.said
    place.goes_on(tmp_path / "run", step)


def test_a_signal_in_the_last_step_stops_nothing(place: Place, tmp_path: Path) -> None:
    ended = place.train(tmp_path / "run", faults=[("at_update", NUM_STEPS, "SIGTERM")])
    assert ended.status == 0
    assert_same_run(tmp_path / "run", place.whole)


# Trackers


@pytest.mark.parametrize("fault", [("full_log",), ("wandb", "raises"), ("wandb", "hangs")])
def test_a_broken_tracker_changes_nothing_and_is_named_once(
    place: Place, tmp_path: Path, fault: tuple[str, ...]
) -> None:
    more = () if fault[0] == "full_log" else ("--track", "wandb")
    ended = place.train(tmp_path / "run", *more, faults=[fault])
    assert ended.status == 0
    (warning,) = ended.sentences
    assert ("metrics.jsonl" if fault[0] == "full_log" else "Weights & Biases") in warning
    name = "policy/model.safetensors"
    assert sha256_of(tmp_path / "run" / name) == sha256_of(place.whole / name)
    if fault[0] == "wandb":
        assert losses(tmp_path / "run") == losses(place.whole)


def test_a_run_that_diverges_says_so_and_goes_on_from_what_is_whole(place: Place, tmp_path: Path) -> None:
    run, patience = tmp_path / "run", ("--max-skipped", 1)
    ended = place.train(run, *patience, faults=[("poison", 2, 3)])
    assert ended.status == 2
    (sentence,) = ended.sentences
    assert "2 updates had a loss or a gradient that is not finite, 1 are allowed" in sentence
    assert [path.name for path in checkpoints(run)] == ["step-00000001", "step-00000002"]
    assert place.train(run, *patience).status == 0
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]
