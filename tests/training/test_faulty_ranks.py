"""One process of two fails, dies or hangs: all end, the culprit is heard, and the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from pizero.data.lerobot import LeRobotDataset
from pizero.records import write_record
from pizero.training.checkpoint import newest_checkpoint, part_name
from pizero.training.ranks import join_ranks
from tests.small import demonstrate, small_config
from tests.training.on_faulty_ranks import FAILS, POISONED

ROOT = Path(__file__).parents[2]
NUM_STEPS = 5
TIMEOUT = 10
GRACE = 30
"""Seconds that torchrun gives its processes to end, before it kills them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faulty")
    demonstrate(folder / "dataset", num_episodes=4)
    config = replace(small_config(num_steps=NUM_STEPS), batch_size=8, held_out=0.3)
    write_record(folder / "config.json", config)
    return folder


def arguments(folder: Path, run: Path, *more: object) -> list[str]:
    return [
        *("train", "--dataset", str(folder / "dataset"), "--config", str(folder / "config.json")),
        *("--output", str(run), "--save-every", "1", "--keep-last", "9", *map(str, more)),
    ]


def torchrun(fault: str, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "tests.training.on_faulty_ranks", fault, *given),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT + GRACE + 100,  # and the time to start and to import
        check=False,
    )


def one_process(*given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pizero", *given], cwd=ROOT, capture_output=True, text=True, check=False
    )


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_damaged_sample_of_one_process_ends_both_and_a_bad_number_is_skipped_by_both(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = torchrun("damaged", *arguments(folder, run, "--timeout", TIMEOUT))
    assert ended.returncode == 1, "torchrun's own status"
    sentences = [line for line in ended.stderr.splitlines() if "pizero: " in line]
    (culprit,) = [line for line in sentences if "lost another one" not in line]
    assert "frame 7 of episode 2 cannot be decoded [video-damaged]" in culprit
    assert all("the same command goes on" in line for line in sentences if line != culprit)
    newest = newest_checkpoint(run / "checkpoints")
    assert newest == run / "checkpoints" / f"step-{FAILS - 1:08d}"

    (line,) = map(json.loads, (run / "skipped.jsonl").read_text().splitlines())
    assert line["step"] == POISONED
    assert len(line["samples"]) == 8, "the whole batch, of both processes"
    for part in (0, 1):
        before, after, later = (
            load_file(run / f"checkpoints/step-{step:08d}" / part_name(part, 2))
            for step in (POISONED - 1, POISONED, POISONED + 1)
        )
        assert all(before[name].equal(after[name]) for name in before)
        assert not all(after[name].equal(later[name]) for name in before)

    went_on = one_process(*arguments(folder, run))
    assert went_on.returncode == 0, went_on.stderr
    assert steps_of(run) == list(range(1, NUM_STEPS + 1))
    assert json.loads((run / "executions.jsonl").read_text().splitlines()[-1])["step"] == FAILS - 1


@pytest.mark.parametrize("told_to_end", ["while it unwinds", "while it takes leave", "before any loss"])
def test_who_lost_another_one_says_so_also_when_torchrun_tells_it_to_end(
    told_to_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        with join_ranks(timeout=1.0):
            if told_to_end == "before any loss":
                raise KeyboardInterrupt
            try:
                raise RuntimeError("gloo/transport/tcp/pair.cc: Connection closed by peer")
            finally:
                if told_to_end == "while it unwinds":
                    raise KeyboardInterrupt

    def leave() -> None:
        if told_to_end == "while it takes leave":
            raise KeyboardInterrupt

    for name, answer in (("get_rank", 0), ("get_world_size", 2), ("init_process_group", None)):
        monkeypatch.setattr(dist, name, lambda *_given, answer=answer, **_named: answer)
    monkeypatch.setattr(dist, "destroy_process_group", leave)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    expected = KeyboardInterrupt if told_to_end == "before any loss" else RuntimeError
    with pytest.raises(expected) as end:
        run()
    assert ("process 1 of 2 lost another one" in str(end.value)) == (expected is RuntimeError)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["is killed", "hangs", "has a bug"])
def test_no_process_waits_for_ever_for_one_that(fault: str, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = torchrun(fault, *arguments(folder, run, "--timeout", TIMEOUT))
    assert ended.returncode == 1
    assert "process 1 of 2 lost another one" in ended.stderr
    said = {
        "is killed": "Signal 9 (SIGKILL)",
        "hangs": f"did not answer for {TIMEOUT} s",
        "has a bug": "wrist",
    }
    assert said[fault] in ended.stderr
    assert newest_checkpoint(run / "checkpoints") == run / "checkpoints" / f"step-{FAILS - 1:08d}"
    went_on = torchrun("", *arguments(folder, run))
    assert went_on.returncode == 0, went_on.stderr
    assert steps_of(run) == list(range(1, NUM_STEPS + 1))
    assert list(run.rglob("*.partial*")) == []


@pytest.mark.slow
def test_torchrun_passes_a_signal_on(folder: Path, tmp_path: Path) -> None:
    """Both processes save the step that they are in; then the run goes on, bit for bit."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    stopped = torchrun("torchrun is told to stop", *arguments(folder, run, "--save-every", NUM_STEPS))
    assert stopped.returncode != 0
    assert f"stopped after step {FAILS - 1}, which is saved" in stopped.stderr
    assert newest_checkpoint(run / "checkpoints") == run / "checkpoints" / f"step-{FAILS - 1:08d}"
    for output in (run, whole):
        ended = torchrun("", *arguments(folder, output, "--save-every", NUM_STEPS))
        assert ended.returncode == 0, ended.stderr
    ours, theirs = (load_file(path / "policy" / "model.safetensors") for path in (run, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.slow
def test_shards_that_do_not_divide_the_processes(folder: Path, tmp_path: Path) -> None:
    ended = torchrun("", *arguments(folder, tmp_path / "run", "--shards", 3))
    assert ended.returncode == 1
    assert "expected a number of shards that divides the 2 processes, found 3" in ended.stderr
    assert not (tmp_path / "run").exists()
    assert LeRobotDataset.open(folder / "dataset").num_frames > 0
