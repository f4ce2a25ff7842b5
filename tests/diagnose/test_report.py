"""The report shows what the run's files say, of whatever is there, and refuses a folder that is no run."""

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pizero.cli.main import main
from pizero.data.action_tokens import FastTokenizer
from pizero.data.lerobot import LeRobotDataset
from pizero.data.text import ByteTokenizer
from pizero.data.video import encode_video
from pizero.diagnose.measure import velocity_error
from pizero.diagnose.report import write_report
from pizero.diagnose.run_facts import config_facts, count_parameters
from pizero.diagnose.run_log import MAX_POINTS, smoothed, thinned
from pizero.diagnose.stages import add_stage, read_stages
from pizero.models.build import build
from pizero.models.pi0 import Pi0, Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.policy.policy import Policy
from pizero.records import write_record
from pizero.results import EpisodeResult, summarize, wilson_interval
from pizero.training.config import TrainConfig
from pizero.training.loop import train
from pizero.training.sources import open_sources
from pizero.weights.folder import sha256_of
from tests.pages import PageChecker
from tests.small import demonstrate, small_config, small_contract, small_train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three training steps, not evaluated yet."""
    run = tmp_path_factory.mktemp("report") / "tiny & quick"
    dataset = demonstrate(run / "dataset", num_episodes=8)
    config = small_config(num_steps=3)
    small_train(config, dataset, small_contract(config, dataset), run / "training")
    return run


def add_evaluation(run: Path) -> None:
    results = [
        EpisodeResult(
            task=task, index=index, seed=index, success=index < solved, steps=10 + index, seconds=0.1
        )
        for task, solved in (("red", 8), ("blue", 3))
        for index in range(10)
    ]
    (run / "evaluation" / "videos").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(result)) + "\n" for result in results]
    (run / "evaluation" / "episodes.jsonl").write_text("".join(lines))
    frames = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3)).astype(np.uint8)
    encode_video(run / "evaluation" / "videos" / "red-000.mp4", frames, fps=10)


def read_page(run: Path) -> PageChecker:
    checker = PageChecker()
    checker.feed((run / "report.html").read_text())
    assert checker.open == []
    return checker


def test_a_run_that_is_not_evaluated_says_how(run: Path) -> None:
    report = write_report(run)
    assert report["success_rate"] is None
    assert report["training"]["steps"] == 3
    page = read_page(run)
    assert "Not evaluated yet: pizero evaluate" in page.text
    assert "tiny & quick" in page.text


def test_the_figures_are_those_of_the_files(run: Path) -> None:
    add_evaluation(run)
    for stage, seconds in (("train", 2.0), ("evaluate", 1.0), ("train", 3.0)):
        add_stage(run / "stages.json", stage, seconds)
    write_report(run)
    report = json.loads((run / "report.json").read_text())
    assert report["success_rate"] == pytest.approx(11 / 20)
    assert report["episodes"] == 20
    assert report["tasks"]["red"]["success_rate"] == pytest.approx(0.8)
    assert report["tasks"]["blue"]["median_steps"] == 11
    assert report["wall_seconds"] == pytest.approx(6.0)
    assert report["stages"] == {"train": 5.0, "evaluate": 1.0}
    assert report["seeds"] == {"training": 0}
    assert {"python", "torch", "numpy"} <= report["versions"].keys()
    page = read_page(run)
    for words in ("55%", "red", "blue", "Velocity field", "Predicted chunks", "go to the red disc"):
        assert words in page.text
    assert "evaluation/videos/red-000.mp4" in page.sources
    assert all((run / source).is_file() for source in page.sources if not source.startswith("data:"))


def test_the_velocity_error_of_standing_still_is_the_mean_square_of_the_target(run: Path) -> None:
    """With a last layer of zeros, the error at every time is E (noise - actions)²."""
    policy, dataset = Policy.load(run / "training" / "policy"), LeRobotDataset.open(run / "dataset")
    assert isinstance(policy.model, Pi0)
    for parameter in policy.model.action_out.parameters():
        torch.nn.init.zeros_(parameter)
    error = velocity_error(policy, dataset, list(dataset.episodes))
    assert len(set(error.errors)) == 1
    assert error.errors[0] == pytest.approx(2.0, rel=0.3)  # unit noise, and actions of unit variance
    assert error.reference[0] <= error.errors[0]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run: expected .*config\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_stages_add_up(tmp_path: Path) -> None:
    for seconds in (1.5, 2.5):
        add_stage(tmp_path / "stages.json", "collect", seconds)
    assert read_stages(tmp_path / "stages.json").seconds == {"collect": 4.0}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_agrees_with_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    """The last is the example of Newcombe (1998, table I)."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_summary_counts_every_episode_once() -> None:
    results = [
        EpisodeResult(task="a", index=index, seed=0, success=index % 2 == 0, steps=index, seconds=0.0)
        for index in range(5)
    ]
    assert summarize(results)["tasks"]["a"]["successes"] == 3


def write_lines(path: Path, rows: list[Any]) -> None:
    """Write objects as JSON lines, and texts as they are."""
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def bare_run(folder: Path, config: TrainConfig | None = None) -> Path:
    """Return a run that has nothing but its config yet, as `pizero train` lays it out."""
    folder.mkdir()
    write_record(folder / "config.json", config or small_config(num_steps=300))
    return folder


def read_strictly(run: Path) -> dict[str, Any]:
    """Return `report.json`, which may hold no NaN and no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads((run / "report.json").read_text(), parse_constant=refuse)


def test_a_run_that_just_started_says_so(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "young")
    write_report(run)
    report = read_strictly(run)
    assert (report["finished"], report["training"]["steps"], report["training"]["final_loss"]) == (
        False,
        0,
        None,
    )
    assert "Not finished: No update is made yet" in read_page(run).text


def test_figures_of_a_log_with_damage(tmp_path: Path) -> None:
    """By hand: 32 samples a step; what is damaged, unfinished or not finite counts nowhere."""
    run = bare_run(tmp_path / "run")
    row = {"learning_rate": 0.5, "gradient_norm": 3.0, "step_seconds": 1.5, "wait_seconds": 0.5}
    rows = [
        {"step": 1, "loss": 4.0, "loss_flow": 3.0, "loss_text": 1.0, "parameter_norm": 8.0, **row},
        {"step": 2, "loss": math.nan, "loss_flow": None, **row, "gradient_norm": None},
        '{"step": 3, "lo{"step": 3}\n',
        "\x00\x00\n",
        "[1]\n",
        {"step": 4, "loss": 2.0, "loss_flow": 1.0, "loss_text": 1.0, "parameter_norm": 9.0, **row},
        '{"step": 5, "loss": 1000.0',
    ]
    write_lines(run / "metrics.jsonl", rows)
    samples = [{"dataset": "/a/discs", "episode": number, "frame": number} for number in range(12)]
    bad = {"dataset": "/a/discs", "episode": 77, "frame": 1}
    lines = [
        {"step": 2, "loss": None, "gradient_norm": math.inf, "samples": [*samples, bad]},
        {"step": 3, "loss": math.nan, "gradient_norm": 1.0, "samples": [{**bad, "frame": 5}]},
    ]
    write_lines(run / "skipped.jsonl", lines)
    common = {"world_size": 2, "device": "CPU", "torch": "2", "save_every": 200}
    starts = [{"step": 0, "time": "early", **common}, {"step": 2, "time": "late", **common, "num_workers": 3}]
    write_lines(run / "executions.jsonl", starts)
    write_lines(run / "validation.jsonl", [{"step": 4, "action_error": 0.25, "action_error_of_mean": 1.0}])
    write_report(run)
    report, page = read_strictly(run), read_page(run)
    training = report["training"]
    assert training["steps"] == 4
    assert training["final_loss"] == pytest.approx(3.0)
    assert (training["final_loss_flow"], training["final_loss_text"]) == (2.0, 1.0)
    assert (training["gradient_norm"], training["parameter_norm"]) == (3.0, 9.0)
    assert training["samples_per_second"] == pytest.approx(32 / 2.0)
    assert training["data_wait_share"] == pytest.approx(0.25)
    assert training["held_out_action_error"] == 0.25
    assert training["skipped"] == 2
    assert report["notes"] == ["metrics.jsonl: 3 lines are damaged and passed over"]
    assert report["skipped"]["in_all"] == [{"dataset": "/a/discs", "episode": 77}]
    assert [line["num_samples"] for line in report["skipped"]["rows"]] == [13, 1]
    found = [(line["from_step"], line["to_step"], line["options"]) for line in report["executions"]]
    assert found == [(0, 2, {}), (2, 4, {"num_workers": 3})]
    for words in ("4 of 300", "In all of them: discs, episode 77.", "5 more", "went on after step 2", "flow"):
        assert words in page.text


def test_a_run_of_pizero_train_alone_is_measured_on_its_data(run: Path, tmp_path: Path) -> None:
    """The policy and the data are the demo's, so the velocity error is; evaluated beside, as by default."""
    alone = shutil.copytree(run / "training", tmp_path / "runs" / "alone")
    theirs, ours = write_report(run), write_report(alone)
    assert ours["velocity_error"] == theirs["velocity_error"]
    assert ours["success_rate"] is None
    assert [row["dataset"] for row in ours["samples"]] == [str(run / "dataset")]
    page = read_page(alone)
    assert f"Not evaluated yet: pizero evaluate {alone / 'policy'}" in page.text
    assert "What the model saw first" in page.text
    assert any(source.startswith("data:image/png") for source in page.sources)
    assert "velocity_error" not in write_report(alone, measured=False)
    evaluation = alone.parent / "evaluation"
    evaluation.mkdir()
    result = EpisodeResult(task="red", index=0, seed=0, success=True, steps=3, seconds=0.1)
    write_lines(evaluation / "episodes.jsonl", ["garbage}\n", asdict(result)])
    for sha256, rate in (("0" * 64, None), (sha256_of(alone / "policy" / "manifest.json"), 1.0)):
        write_lines(evaluation / "run.json", [{"policy_sha256": sha256, "config": {"seed": 4}}])
        assert write_report(alone, measured=False)["success_rate"] == rate


def test_data_that_moved_or_changed_is_said(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run / "training", tmp_path / "moved")
    rows = json.loads((moved / "samples.json").read_text())
    for change, words in (
        ({"dataset": "/nowhere/discs"}, "the dataset /nowhere/discs is not there any more"),
        ({"training_frames": 1}, "has changed: the run read 1 frames of it, now"),
    ):
        (moved / "samples.json").write_text(json.dumps([rows[0] | change]))
        report = write_report(moved)
        assert any(words in note for note in report["notes"])
        assert "velocity_error" not in report
        assert words in read_page(moved).text


def test_a_pi0_fast_has_no_velocity(tmp_path: Path) -> None:
    dataset = demonstrate(tmp_path / "dataset", num_episodes=4)
    chunks = np.random.default_rng(0).uniform(-1, 1, (50, 4, 2))
    FastTokenizer.fit(chunks, vocab_size=300).save(tmp_path / "fast")
    base = small_config(num_steps=1)
    assert isinstance(base.model, Pi0Config)
    backbone = replace(base.model.backbone, vocab_size=ByteTokenizer.vocab_size + 300 + 128)
    model = Pi0FASTConfig(backbone=backbone, action_dim=2, horizon=4, max_new_tokens=3, skipped_positions=0)
    config = replace(
        base, model=model, prompt="pi0_fast", normalization="quantile", max_tokens=120, batch_size=4
    )
    run = tmp_path / "run"
    train(
        config,
        open_sources(config, [dataset], tokenizers=run / "tokenizers", action_tokenizer=tmp_path / "fast"),
        run,
    )
    report = write_report(run)
    assert "velocity_error" not in report
    assert report["config"]["model"].startswith("π0-FAST")
    page = read_page(run)
    assert "Predicted chunks" in page.text
    assert "Velocity field" not in page.text


def test_parameters_are_those_of_the_model() -> None:
    config = replace(small_config(num_steps=1), frozen=("backbone.*",))
    model = build(config.model)
    assert isinstance(model, Pi0)
    in_all = sum(weight.numel() for weight in model.parameters())
    still = sum(weight.numel() for weight in model.backbone.parameters())
    assert count_parameters(config) == (in_all, in_all - still)
    assert config_facts(config)["frozen"] == "backbone.* (stored in float32)"


def test_a_long_curve_is_thinned_and_smoothing_passes_over_what_is_not_finite() -> None:
    steps, values = np.arange(1.0, 5001.0), np.tile([1.0, 2.0, 3.0, np.nan, 6.0], 1000)
    at, means = thinned(steps, values)
    assert len(at) == MAX_POINTS
    np.testing.assert_array_equal(at, np.arange(5.0, 5001.0, 5.0))
    np.testing.assert_allclose(means, 3.0)
    np.testing.assert_allclose(thinned(steps, values, most=True)[1], 6.0)
    found = smoothed(np.array([np.nan, 4.0, np.inf, 8.0]), 0.5)
    np.testing.assert_array_equal(found, [np.nan, 4.0, 4.0, 6.0])


@pytest.mark.parametrize(("place", "words"), [("nothing", "is not a run"), ("policy", "found a policy")])
def test_the_verb_refuses_in_one_sentence(
    place: str,
    words: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "nothing" if place == "nothing" else run / "training" / "policy"
    monkeypatch.setattr("sys.argv", ["pizero", "report", str(folder)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
