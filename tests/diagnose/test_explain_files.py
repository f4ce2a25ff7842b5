"""What `pizero explain` leaves behind, and how it ends."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pizero.cli.explain import explain as command
from pizero.data.lerobot import LeRobotDataset
from pizero.diagnose.explain.explain import explain
from pizero.diagnose.explain.files import explanation_data, write_explanation
from pizero.diagnose.explain.judgement import Explanation
from pizero.diagnose.explain.recording import write_rerun
from pizero.policy.policy import Policy
from pizero.weights.folder import read_policy, write_policy
from tests.fixtures.explain.make_policy import FOLDER
from tests.fixtures.explain.quick import quick
from tests.fixtures.explain.world import ROBOT, demonstration, write
from tests.pages import PageChecker

NUM_EPISODES = 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    folder = tmp_path_factory.mktemp("explain") / "data & more"
    return write(folder, [demonstration(seed) for seed in range(NUM_EPISODES)])


@pytest.fixture(autouse=True, scope="module")
def quickly() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(FOLDER)


@pytest.fixture(scope="module")
def explanation(dataset: LeRobotDataset, policy: Policy) -> Explanation:
    return explain(policy, dataset, files=FOLDER, num_samples=16)


@pytest.fixture(scope="module")
def other_robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy in a contract of a robot with three joints."""
    files = read_policy(FOLDER)
    state = files.contract.statistics.state
    fewer = replace(state, **{name: getattr(state, name)[:3] for name in STATISTICS})
    contract = replace(
        files.contract,
        embodiment=replace(ROBOT, name="three", state=ROBOT.state[:3]),
        statistics=replace(files.contract.statistics, action_form="recorded", state=fewer),
    )
    folder = tmp_path_factory.mktemp("other") / "policy"
    write_policy(folder, config=files.config, contract=contract, tensors=dict(files.tensors))
    return folder


STATISTICS = ("mean", "std", "minimum", "maximum", "q01", "q99", "floor")


def read_page(path: Path) -> PageChecker:
    checker = PageChecker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert checker.open == []
    return checker


def test_the_page_stands_alone_and_shows_the_models_very_pixels(
    explanation: Explanation, dataset: LeRobotDataset, tmp_path: Path
) -> None:
    write_explanation(explanation, tmp_path, "<policy>", dataset.folder.name)
    page = read_page(tmp_path / "explain.html")
    assert "<policy> on data & more" in page.text
    pictures = [source for source in page.sources if source.startswith("data:image/png;base64,")]
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert "<script" not in (tmp_path / "explain.html").read_text()
    assert explanation.measured is not None
    shown = [picture for sample in explanation.measured.seen for picture in sample.pictures]
    assert len(pictures) == len(shown) == 6
    for source, picture in zip(pictures, shown, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as decoded:
            np.testing.assert_array_equal(np.asarray(decoded), picture.pixels)


def test_the_json_says_what_the_page_says(
    explanation: Explanation, dataset: LeRobotDataset, tmp_path: Path
) -> None:
    data = write_explanation(explanation, tmp_path, "policy", "dataset")
    assert json.loads((tmp_path / "explain.json").read_text()) == data
    assert data["healthy"] is True
    measured = data["measured"]
    assert len(measured["frames"]) == 16
    assert [row["name"] for row in measured["dimensions"]] == list(dataset.action_names)
    assert not any(hypothesis["explains"] for hypothesis in measured["hypotheses"])
    assert sum(task["samples"] for task in measured["tasks"]) == 16
    page = read_page(tmp_path / "explain.html").text
    for row in measured["dimensions"]:
        assert f"{row['error']:.3g}" in page


def test_the_same_seed_gives_the_same_explanation(
    explanation: Explanation, dataset: LeRobotDataset, policy: Policy
) -> None:
    again = explain(policy, dataset, files=FOLDER, num_samples=16)
    assert explanation_data(again, "p", "d") == explanation_data(explanation, "p", "d")


def run(*arguments: Path, **options: object) -> int:
    try:
        command(*arguments, **options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_healthy_policy_ends_with_0(
    dataset: LeRobotDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FOLDER, dataset.folder, output=tmp_path / "out", samples=16) == 0
    text = capsys.readouterr().out
    assert re.search(r"^healthy: the error is \d% of that of always answering the mean", text, re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["explain.html", "explain.json"]


def test_an_unhealthy_policy_ends_with_1_and_its_culprit(
    other_robot: Path, dataset: LeRobotDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(other_robot, dataset.folder) == 1
    text = capsys.readouterr().out
    assert "UNHEALTHY: the policy cannot be shown these samples" in text
    assert "1. the contract is another robot's [another-robot]" in text
    page = read_page(other_robot.parent / "explain" / "explain.html")
    assert "the contract (three) has 3 numbers" in page.text
    assert run(other_robot, dataset.folder, output=tmp_path, as_json=True) == 1
    data = json.loads(capsys.readouterr().out)
    assert [culprit["code"] for culprit in data["culprits"]] == ["another-robot"]
    with pytest.raises(ValueError, match="there is nothing to write into"):
        command(other_robot, dataset.folder, output=tmp_path, rerun=tmp_path / "a.rrd")
    assert not (tmp_path / "a.rrd").exists()


def test_a_recording_holds_all_samples(explanation: Explanation, policy: Policy, tmp_path: Path) -> None:
    reading = pytest.importorskip("rerun.chunk")
    assert explanation.measured is not None
    write_rerun(explanation.measured, policy, tmp_path / "new" / "a.rrd")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.rrd"]
    found: dict[str, dict[int, list[float]]] = {}
    for chunk in reading.RrdReader(tmp_path / "new" / "a.rrd").stream():
        if "tick" in chunk.timeline_names:
            batch = chunk.to_record_batch()
            column = next(name for name in batch.schema.names if ":" in name)
            rows = zip(batch.column("tick").to_pylist(), batch.column(column).to_pylist(), strict=True)
            found.setdefault(str(chunk.entity_path), {}).update(rows)
    horizon = policy.contract.horizon
    for place, sample in enumerate(explanation.measured.samples):
        first = place * (horizon + 1)
        prompt = found["/model/prompt"][first]
        assert prompt == [f"{sample.observation.instruction}\n\n(frame {sample.frame})"]
        assert first in found["/model/camera/front"]
        predicted = [found["/actions/shoulder/predicted"][first + step][0] for step in range(horizon)]
        np.testing.assert_allclose(predicted, explanation.measured.predicted[place][:, 0], rtol=1e-6)
        for step in range(horizon):
            recorded = found["/actions/gripper/recorded"].get(first + step)
            assert recorded == ([pytest.approx(sample.actions[step, 3])] if sample.valid[step] else None)


def test_without_rerun_the_extra_is_named(
    explanation: Explanation, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert explanation.measured is not None
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pizero\[rerun\]'"):
        write_rerun(explanation.measured, policy, tmp_path / "a.rrd")
    assert list(tmp_path.iterdir()) == []
