"""From data to contracts: statistics that fit, tokenizers that come along, refusals that say what to do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pizero.cli.tokenizer import tokenizer
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Samples
from pizero.data.text import ByteTokenizer
from pizero.models.pi0 import Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.policy.policy import Policy
from pizero.records import write_record
from pizero.robots import NAVIGATION2D
from pizero.training.config import TrainConfig
from pizero.training.loop import train
from pizero.training.sources import open_sources
from pizero.training.validation import prompts_of
from tests.small import demonstrate, small_config

HORIZON = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("sources") / "dataset", num_episodes=24)


@pytest.fixture(scope="module")
def tokens(dataset: LeRobotDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "fast"
    tokenizer(
        dataset.folder,
        output=folder,
        robot=NAVIGATION2D.name,
        action_form="displacement",
        horizon=HORIZON,
        vocab_size=400,
        scale=30.0,
    )
    return folder


def fast_config(*, num_steps: int, room: int = 400) -> TrainConfig:
    base = small_config(num_steps=num_steps)
    assert isinstance(base.model, Pi0Config)
    backbone = replace(base.model.backbone, vocab_size=ByteTokenizer.vocab_size + room + 128)
    model = Pi0FASTConfig(
        backbone=backbone, action_dim=2, horizon=HORIZON, max_new_tokens=40, skipped_positions=0
    )
    return replace(
        base, model=model, prompt="pi0_fast", normalization="quantile", max_tokens=120, batch_size=8
    )


def test_a_fast_policy_is_trained_and_carries_its_tokenizer(
    dataset: LeRobotDataset, tokens: Path, tmp_path: Path
) -> None:
    config = fast_config(num_steps=60)
    run = tmp_path / "run"
    sources = open_sources(config, [dataset], tokenizers=run / "tokenizers", action_tokenizer=tokens)
    (folder,) = train(config, sources, run)
    contract = Policy.load(folder).contract
    assert contract.action_tokens is not None
    assert (folder / contract.action_tokens.file.name).read_bytes() == (
        tokens / "tokenizer.json"
    ).read_bytes()
    validation = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert validation[-1]["step"] == 60
    assert validation[-1].get("unreadable", 0.0) < 0.5
    losses = [
        line.split('"loss": ')[1].split(",")[0] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert np.mean([float(loss) for loss in losses[-5:]]) < 0.6 * float(losses[0])


def test_a_fast_policy_s_tokens_are_read_as_actions(
    dataset: LeRobotDataset, tokens: Path, tmp_path: Path
) -> None:
    """What training writes after the prompt, a model that repeats it gives back as the recorded actions."""
    config = fast_config(num_steps=1)
    (source,) = open_sources(config, [dataset], tokenizers=tmp_path / "t", action_tokenizer=tokens)
    samples = Samples([source])
    processor = samples.processors[0]
    for frame in (0, 5, 11):
        example = samples.example(0, frame)
        ids = processor.encode_example(example).inputs.tokens
        written = ids.ids[ids.target]
        actions = processor.decode(written, example.observation)
        np.testing.assert_allclose(actions[example.valid], example.actions[example.valid], atol=0.15)
        spread = np.abs(actions - example.actions)[example.valid].mean()
        assert spread < 0.06


def test_a_model_is_asked_without_the_answer(dataset: LeRobotDataset, tokens: Path, tmp_path: Path) -> None:
    """What validation shows a π0-FAST is what serving shows it: the prompt, without the action's tokens."""
    (source,) = open_sources(
        fast_config(num_steps=1), [dataset], tokenizers=tmp_path / "t", action_tokenizer=tokens
    )
    samples = Samples([source])
    batch = samples.prepare(np.zeros(3, np.int64), np.array([0, 5, 11])).batch
    asked = prompts_of(batch.inputs).tokens
    for row, frame in enumerate((0, 5, 11)):
        served = samples.processors[0].encode(samples.example(0, frame).observation).tokens
        for name in ("ids", "valid", "causal", "target"):
            assert getattr(asked, name)[row].tolist() == getattr(served, name).tolist(), name
    assert batch.inputs.tokens.target.any()


def test_a_tokenizer_that_does_not_fit_is_refused(
    dataset: LeRobotDataset, tokens: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"has room for 270 action tokens, found \d+ .*--vocab-size 270"):
        open_sources(
            fast_config(num_steps=1, room=270), [dataset], tokenizers=tmp_path, action_tokenizer=tokens
        )
    with pytest.raises(ValueError, match="give its folder with --action-tokenizer"):
        open_sources(fast_config(num_steps=1), [dataset], tokenizers=tmp_path)
    with pytest.raises(ValueError, match="writes actions as numbers; leave out the action tokenizer"):
        open_sources(small_config(num_steps=1), [dataset], tokenizers=tmp_path, action_tokenizer=tokens)


def test_statistics_of_another_form_are_refused(dataset: LeRobotDataset, tmp_path: Path) -> None:
    config = small_config(num_steps=1)
    (source,) = open_sources(config, [dataset], tokenizers=tmp_path)
    path = tmp_path / "statistics.json"
    write_record(path, source.contract.statistics)
    (again,) = open_sources(config, [dataset], tokenizers=tmp_path, statistics=path)
    assert again.contract == source.contract
    other = replace(config, action_form="recorded", absolute=("dx",))
    with pytest.raises(
        ValueError, match=r"action form 'displacement', expected 'recorded'; absolute dimensions"
    ):
        open_sources(other, [dataset], tokenizers=tmp_path, statistics=path)


def test_dimensions_in_another_order_are_another_robot(dataset: LeRobotDataset, tmp_path: Path) -> None:
    turned = replace(NAVIGATION2D, name="turned", state=NAVIGATION2D.state[::-1])
    write_record(tmp_path / "turned.json", turned)
    config = replace(small_config(num_steps=1), embodiments=(str(tmp_path / "turned.json"),))
    with pytest.raises(ValueError, match=r"expected states \('y', 'x'\), found \('x', 'y'\)"):
        open_sources(config, [dataset], tokenizers=tmp_path)


def test_a_run_does_not_go_on_under_another_normalisation(dataset: LeRobotDataset, tmp_path: Path) -> None:
    config = small_config(num_steps=1)
    sources = open_sources(config, [dataset], tokenizers=tmp_path / "t")
    train(config, sources, tmp_path / "run")
    other = replace(config, normalization="quantile")
    with pytest.raises(ValueError, match=r"another config .*normalization: 'quantile' ≠ 'zscore'"):
        train(other, open_sources(other, [dataset], tokenizers=tmp_path / "t"), tmp_path / "run")
