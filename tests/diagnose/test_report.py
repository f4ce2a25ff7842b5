"""The report shows what the run's files say, of whatever is there, and refuses a folder that is no run."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.lerobot import LeRobotDataset
from pizero.data.video import encode_video
from pizero.diagnose.measure import velocity_error
from pizero.diagnose.report import write_report
from pizero.diagnose.stages import add_stage, read_stages
from pizero.models.pi0 import Pi0
from pizero.policy.policy import Policy
from pizero.results import EpisodeResult, summarize, wilson_interval
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
