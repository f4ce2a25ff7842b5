"""`pizero tokenizer` learns from a dataset, tells how well, and leaves what exists alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pizero.cli.tokenizer import tokenizer
from pizero.data.action_tokens import FastTokenizer
from tests.small import demonstrate


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "dataset"
    demonstrate(folder, num_episodes=12)
    return folder


def test_a_tokenizer_of_a_dataset(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"horizon": 5, "vocab_size": 300, "as_json": True}
    tokenizer(dataset, output=tmp_path / "fast", **options)
    figures = json.loads(capsys.readouterr().out)
    fitted = FastTokenizer.load_folder(tmp_path / "fast")
    assert figures["tokens"] == fitted.vocab_size <= 300
    assert figures["chunks_held_out"] > 0
    assert figures["numbers_per_token"] > 1.0
    assert figures["error_rms"] <= 0.5 / 10
    assert figures["error_largest"] >= figures["error_rms"]
    tokenizer(dataset, output=tmp_path / "again", **options)
    chunk = np.linspace(-0.5, 0.5, 10).reshape(5, 2)
    assert FastTokenizer.load_folder(tmp_path / "again").encode(chunk) == fitted.encode(chunk)
    with pytest.raises(ValueError, match="exists already; nothing was overwritten"):
        tokenizer(dataset, output=tmp_path / "fast", **options)


def test_figures_are_a_table(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer(dataset, output=tmp_path / "fast", horizon=5, vocab_size=300)
    printed = capsys.readouterr().out
    for figure in ("chunks held out", "tokens per chunk p99", "numbers per token", "error largest"):
        assert figure in printed
    assert "errors are in units in which" in printed


def test_a_finer_scale_is_longer_and_closer(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = []
    for scale in (5.0, 40.0):
        output = tmp_path / str(scale)
        tokenizer(dataset, output=output, horizon=5, vocab_size=600, scale=scale, as_json=True)
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[1]["tokens_per_chunk_mean"] > figures[0]["tokens_per_chunk_mean"]
    assert figures[1]["error_rms"] < figures[0]["error_rms"]


def test_too_long_a_horizon_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take a shorter horizon"):
        tokenizer(dataset, output=tmp_path / "fast", horizon=10_000)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_the_actions_that_a_model_sees(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"horizon": 5, "vocab_size": 400, "as_json": True, "robot": "navigation2d"}
    tokenizer(dataset, output=tmp_path / "recorded", **options)
    tokenizer(dataset, output=tmp_path / "summed", action_form="displacement", **options)
    recorded, summed = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert recorded != summed
    with pytest.raises(ValueError, match="whose actions these are with --robot"):
        tokenizer(dataset, output=tmp_path / "x", horizon=5, action_form="relative")
