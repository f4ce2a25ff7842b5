"""What a user sees: help that reads well, and one sentence for each mistake, with nothing changed."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from pizero.cli.main import VERBS, main
from pizero.data.lerobot import LeRobotDataset
from pizero.recipes import RECIPES
from pizero.weights.folder import write_policy
from tests.small import demonstrate, small_config, small_contract


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["pizero", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "dataset"
    demonstrate(folder, num_episodes=6)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_every_option(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: pizero {verb}")
    options = [line.strip("│ ") for line in text.splitlines() if line.strip("│ ").startswith("--")]
    assert options or verb == "report"
    assert "(fixed)" not in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("collect", "{new}", "--tasks", "drawer-opn"),
            "unknown task 'drawer-opn': did you mean 'drawer-open'",
        ),
        (("collect", "{dataset}"), "was not made by `pizero collect`; nothing was changed"),
        (("stats", "{new}"), "is not a LeRobot dataset"),
        (("train", "--dataset", "{new}", "--output", "{other}"), "is not a LeRobot dataset"),
        (
            ("train", "--dataset", "{dataset}", "--output", "{other}", "--recipe", "metaword"),
            "unknown recipe 'metaword': did you mean 'metaworld'",
        ),
        (
            ("train", "--dataset", "{dataset}", "--output", "{other}"),
            "was not made by the robot 'metaworld': expected states",
        ),
        (("evaluate", "{new}"), "expected a policy folder at"),
        (("evaluate", "{dataset}"), "is not a policy folder: expected model.safetensors"),
        (("report", "{new}"), "is not a run"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    arguments: tuple[str, ...],
    expected: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(dataset.rglob("*"))
    places = {"new": tmp_path / "new", "other": tmp_path / "other", "dataset": dataset}
    assert run(monkeypatch, *(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert error.startswith("pizero: ")
    assert error.count("\n") == 1
    assert sorted(dataset.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_policy_without_a_file_names_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pizero.data.lerobot import LeRobotDataset
    from pizero.models.build import build

    config = small_config(num_steps=1)
    contract = small_contract(config, LeRobotDataset.open(dataset))
    folder = tmp_path / "policy"
    write_policy(folder, config=config.model, contract=contract, tensors=build(config.model).state_dict())
    (folder / "contract.json").unlink()
    assert run(monkeypatch, "evaluate", folder, "--output", tmp_path / "evaluation") == 2
    assert "missing contract.json" in capsys.readouterr().err
    assert not (tmp_path / "evaluation").exists()


def test_a_policy_of_another_robot_is_not_evaluated(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pizero.data.lerobot import LeRobotDataset
    from pizero.models.build import build

    config = small_config(num_steps=1)
    contract = small_contract(config, LeRobotDataset.open(dataset))
    folder = tmp_path / "policy"
    write_policy(folder, config=config.model, contract=contract, tensors=build(config.model).state_dict())
    arguments = ("--output", tmp_path / "evaluation", "--tasks", "drawer-open")
    assert run(monkeypatch, "evaluate", folder, *arguments) == 2
    assert "the robot 'navigation2d' has no task 'drawer-open'" in capsys.readouterr().err
    assert not (tmp_path / "evaluation").exists()


def test_statistics_as_json_equal_the_file(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "small", lambda: small_config(num_steps=1))
    arguments = (dataset, "--output", tmp_path / "s.json", "--recipe", "small", "--json")
    assert run(monkeypatch, "stats", *arguments) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "s.json").read_text())


def test_statistics_are_compared(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "small", lambda: small_config(num_steps=1))
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert run(monkeypatch, "stats", dataset, "--output", one, "--recipe", "small") == 0
    written = json.loads(one.read_text())
    written["state"]["mean"][1] += 2 * written["state"]["std"][1]
    written["actions"]["std"][0] *= 3
    other.write_text(json.dumps(written))
    capsys.readouterr()
    assert run(monkeypatch, "stats", "diff", one, one) == 0
    assert "←" not in capsys.readouterr().out.replace("arrows", "")
    assert run(monkeypatch, "stats", "diff", one, other, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    rows = {row["dimension"]: (row["shift"], row["width"]) for row in found["dimensions"]}
    assert found["settings"] == []
    assert rows["state[1]"] == pytest.approx((2.0, 1.0))
    assert rows["actions[0]"] == pytest.approx((0.0, 3.0))
    assert rows["state[0]"] == (0.0, 1.0)
    written["horizon"] = 9
    other.write_text(json.dumps(written))
    assert run(monkeypatch, "stats", "diff", one, other) == 1
    assert "horizon: 4 ≠ 9" in capsys.readouterr().out
    assert run(monkeypatch, "stats", "diff", one, tmp_path / "none") == 2
    assert "expected a file of statistics or a policy folder" in capsys.readouterr().err


def test_statistics_take_every_choice(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    choices = ("--robot", "navigation2d", "--action-form", "relative", "--absolute", "dx", "--horizon", "3")
    assert run(monkeypatch, "stats", dataset, "--output", path, *choices) == 0
    written = json.loads(path.read_text())
    assert (written["action_form"], written["absolute"], written["horizon"]) == ("relative", ["dx"], 3)


def test_dry_runs_write_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "small", lambda **_: small_config(num_steps=7))
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "demo", "--dry-run") == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("$")] == [
        "collect",
        "stats",
        "train",
        "evaluate",
        "report",
    ]
    small = ("train", "--output", "o", "--recipe", "small", "--dry-run", "--dataset")
    assert run(monkeypatch, *small, str(dataset)) == 0
    assert "would train 7 steps into o; nothing was written" in capsys.readouterr().out
    assert run(monkeypatch, *small, str(dataset), "d", "--json") == 2
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert [row["problem"] is None for row in found["datasets"]] == [True, False]
    assert found["datasets"][0]["frames"] == LeRobotDataset.open(dataset).num_frames
    assert found["memory"]["peak"] > found["memory"]["weights"] == 4 * found["parameters"]
    assert "d is not a LeRobot dataset" in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_dataset_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset, tmp_path / "d.partial")
    assert run(monkeypatch, "stats", tmp_path / "d") == 2
    assert "half-written" in capsys.readouterr().err
