"""`pizero train` with wrong input: one sentence that says what to do, before anything is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pizero.cli.main import main
from pizero.recipes import RECIPES
from pizero.records import read_record, write_record
from pizero.training.config import TrainConfig
from pizero.weights.folder import sha256_of
from tests.small import GEMMA, demonstrate, small_config

Run = Callable[..., tuple[int, str]]

NUM_STEPS = 3
CONFIG = replace(small_config(num_steps=NUM_STEPS), batch_size=8, held_out=0.0)
WEIGHTS = "policy/model.safetensors"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `pizero train` in this process; return its exit status and what it said of errors."""

    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pizero", "train", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.err + said.out

    return command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, the config of a small run, and one of another model."""
    home = tmp_path_factory.mktemp("train")
    demonstrate(home / "dataset", num_episodes=4)
    demonstrate(home / "other_dataset", num_episodes=4, seed=1)
    write_record(home / "config.json", CONFIG)
    wider = replace(CONFIG.model, expert=replace(GEMMA, mlp_dim=64))
    write_record(home / "wider.json", replace(CONFIG, model=wider))
    return home


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    """A run that is finished, and whose choices were made on the command line."""
    return home / "finished"


@pytest.fixture
def trained(home: Path, finished: Path, run: Run) -> Path:
    if not finished.exists():
        chosen = ("--steps", 2, "--batch-size", 4, "--rate", 1e-3, "--seed", 5, "--save-every", 1)
        data = ("--dataset", home / "dataset", "--config", home / "config.json")
        assert run(*data, "--output", finished, *chosen)[0] == 0
    return finished


MISTAKES: dict[str, tuple[str, str]] = {
    "a recipe and a config": (
        "--dataset {home}/dataset --output {new} --recipe metaworld --config {home}/config.json",
        "--recipe and --config exclude each other: a config says all that a recipe does",
    ),
    "a misspelt recipe": (
        "--dataset {home}/dataset --output {new} --recipe metaword_fast",
        "unknown recipe 'metaword_fast': did you mean 'metaworld_fast'",
    ),
    "a misspelt robot": (
        "{base} --robot navigation",
        "'navigation': did you mean 'navigation2d'",
    ),
    "statistics kept of nothing": (
        "{base} --keep-statistics",
        "statistics are kept of the policy that a run starts from",
    ),
    "one file of statistics for two robots": (
        "{base} --robot navigation2d navigation2d --statistics {home}/s.json",
        "a file of statistics is of one robot; leave it out, and they are computed of each",
    ),
    "a robot without a dataset": (
        "{base} --robot navigation2d metaworld",
        "expected a dataset of each robot of the recipe, found none of metaworld",
    ),
    "a batch that does not divide": (
        "{base} --batch-size 63 --micro-batches 2",
        "expected a batch that divides into 1 processes × 2 micro-batches, found 63 samples",
    ),
    "more shards than processes": (
        "{base} --shards 3",
        "expected a number of shards that divides the 1 processes, found 3",
    ),
    "no step": ("{base} --steps 0", "expected num_steps of at least 1, found 0"),
    "a seed below zero": ("{base} --seed -1", "expected seed of at least 0, found -1"),
    "weights for other datasets": (
        "{base} --weights 0.5 0.5",
        "expected a weight above 0 for each of 1 datasets",
    ),
    "a start that is no policy": (
        "--dataset {home}/dataset --output {new} --start-from {home}/dataset",
        "expected a policy to start from at",
    ),
    "a recipe of a published policy without it": (
        "--dataset {home}/dataset --output {new} --recipe pi0_lora",
        "starts from a published checkpoint",
    ),
    "fine-tuning of nothing": (
        "--dataset {home}/dataset --output {new} --recipe fine_tune",
        "starts from a policy: name one with --start-from",
    ),
    "a config that is not there": (
        "--dataset {home}/dataset --output {new} --config {home}/none.json",
        "none.json, found none",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    mistake: str, home: Path, tmp_path: Path, run: Run, unchecked: None
) -> None:
    line, expected = MISTAKES[mistake]
    base = "--dataset {home}/dataset --output {new} --config {home}/config.json"
    filled = line.replace("{base}", base).format(home=home, new=tmp_path / "new")
    status, said = run(*filled.split())
    assert status == 2
    sentences = [one for one in said.splitlines() if one.startswith("pizero: ")]
    assert len(sentences) == 1
    assert expected in sentences[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--stepz", 3), "--steps"),
        (("--steps", "ten"), "ten"),
        (("--frames", "vidoe"), "'video'"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_an_option_that_does_not_parse_is_named(
    arguments: tuple[object, ...], expected: str, home: Path, tmp_path: Path, run: Run
) -> None:
    base = ("--dataset", home / "dataset", "--output", tmp_path / "new", "--config", home / "config.json")
    status, said = run(*base, *arguments)
    assert status == 2
    assert expected in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"batchsize": 4}, "unknown field 'batchsize': did you mean 'batch_size'"),
        ({"batch_size": "four"}, "batch_size: expected int, found 'four'"),
        ({"prompt": "pi9"}, "prompt: expected one of 'pi0', 'pi05', 'pi0_fast'"),
        ({"ema_decay": 1.5}, "expected ema_decay in [0, 1), found 1.5"),
    ],
)
def test_a_config_with_a_mistake_is_refused_by_name(
    change: dict[str, object], expected: str, home: Path, tmp_path: Path, run: Run, unchecked: None
) -> None:
    written = json.loads((home / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | change))
    status, said = run(
        *("--dataset", home / "dataset", "--output", tmp_path / "new", "--config", tmp_path / "config.json")
    )
    assert status == 2
    assert f"pizero: {tmp_path / 'config.json'}" in said
    assert expected in said
    assert not (tmp_path / "new").exists()


def test_a_cut_off_config_is_no_json(home: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text((home / "config.json").read_text()[:100])
    status, said = run(
        *("--dataset", home / "dataset", "--output", tmp_path / "new", "--config", tmp_path / "config.json")
    )
    assert status == 2
    assert "config.json is not JSON" in said


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--shards", "3", "divides the 2 processes, found 3"), ("--batch-size", "7", "found 7 samples")],
)
def test_a_dry_run_of_one_of_two_processes_knows_how_many_they_are(
    home: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    expected: str,
) -> None:
    base = ("--dataset", home / "dataset", "--output", tmp_path / "new", "--config", home / "config.json")
    assert run(*base, "--dry-run")[0] == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(*base, "--dry-run")[0] == 0
    status, said = run(*base, "--dry-run", option, value)
    assert status == 2
    assert expected in said
    assert list(tmp_path.iterdir()) == []


def test_the_config_that_a_run_wrote_makes_the_same_policy_again(
    home: Path, trained: Path, tmp_path: Path, run: Run
) -> None:
    written = read_record(TrainConfig, trained / "config.json")
    assert (written.num_steps, written.batch_size, written.seed) == (2, 4, 5)
    assert written.optimizer.peak_rate == 1e-3
    again = ("--dataset", home / "dataset", "--output", tmp_path / "again")
    assert run(*again, "--config", trained / "config.json")[0] == 0
    assert sha256_of(tmp_path / "again" / WEIGHTS) == sha256_of(trained / WEIGHTS)
    other = ("--dataset", home / "dataset", "--output", tmp_path / "other", "--seed", 6)
    assert run(*other, "--config", trained / "config.json")[0] == 0
    assert sha256_of(tmp_path / "other" / WEIGHTS) != sha256_of(trained / WEIGHTS)


@pytest.mark.parametrize("by_name", [True, False])
def test_the_folder_of_another_run_is_left_alone(
    home: Path, trained: Path, run: Run, by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another config, or other data; a recipe says so as a file does."""
    monkeypatch.setitem(RECIPES, "small", lambda **_: CONFIG)
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    given = ("--recipe", "small") if by_name else ("--config", home / "config.json")
    status, said = run("--dataset", home / "dataset", "--output", trained, *given)
    assert status == 2
    assert f"{trained} holds a run with another config (asked ≠ there): " in said
    assert "num_steps: 3 ≠ 2" in said
    status, said = run(
        "--dataset", home / "other_dataset", "--output", trained, "--config", trained / "config.json"
    )
    assert status == 2
    assert f"{trained} holds a run with another contract (asked ≠ there): statistics." in said
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize("other", ["seed", "model"])
def test_a_checkpoint_of_another_run_is_refused(
    home: Path, trained: Path, tmp_path: Path, run: Run, other: str
) -> None:
    """The newest one decides, whether its weights would fit or not."""
    more = ("--config", home / "wider.json") if other == "model" else ("--seed", 7)
    config = () if other == "model" else ("--config", trained / "config.json")
    steps = ("--steps", 3, "--save-every", 1, "--dataset", home / "dataset")
    assert run(*steps, *config, *more, "--output", tmp_path / "foreign")[0] == 0
    mine = tmp_path / "mine"
    shutil.copytree(trained, mine)
    shutil.rmtree(mine / "policy")
    shutil.copytree(tmp_path / "foreign/checkpoints/step-00000003", mine / "checkpoints" / "step-00000003")
    same = ("--dataset", home / "dataset", "--output", mine, "--config", trained / "config.json")
    status, said = run(*same)
    assert status == 2
    assert f"{mine}/checkpoints/step-00000003 was made with another config than {mine}/config.json" in said
    assert not (mine / "policy").exists()
    shutil.rmtree(mine / "checkpoints" / "step-00000003")
    assert run(*same)[0] == 0
    assert sha256_of(mine / WEIGHTS) == sha256_of(trained / WEIGHTS)


@pytest.mark.parametrize("damage", ["a flipped byte", "half a file", "no manifest", "another architecture"])
def test_a_start_that_is_damaged_or_another_model_begins_nothing(
    home: Path, trained: Path, tmp_path: Path, run: Run, damage: str
) -> None:
    start = tmp_path / "start"
    shutil.copytree(trained / "policy", start)
    weights = start / "model.safetensors"
    expected = "model.safetensors is damaged: its sha256 is not the one in manifest.json"
    match damage:
        case "a flipped byte":
            data = bytearray(weights.read_bytes())
            data[-7] ^= 1
            weights.write_bytes(data)
        case "half a file":
            weights.write_bytes(weights.read_bytes()[:5000])
        case "no manifest":
            (start / "manifest.json").unlink()
            expected = "missing manifest.json: name a folder that `pizero train` or `pizero convert` wrote"
        case _:
            expected = "has another model than the recipe (recipe ≠ policy): expert.mlp_dim: 64 ≠ 128"
    config = ("--config", home / "wider.json") if damage == "another architecture" else ()
    steps = ("--steps", 2, "--batch-size", 4)
    run_folder = tmp_path / "run"
    status, said = run(
        "--dataset", home / "dataset", "--output", run_folder, "--start-from", start, *config, *steps
    )
    assert status == 2
    assert expected in said
    for made in ("metrics.jsonl", "checkpoints", "policy"):
        assert not (run_folder / made).exists()
