"""Actions to tokens in training, for π0-FAST and co-trained π0.5; tokens to actions when a π0-FAST acts."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pizero.contract import ActionTokens, Contract, TokenFile
from pizero.data.action_tokens import FastTokenizer
from pizero.data.processor import Processor
from pizero.data.text import ByteTokenizer
from pizero.models.build import build
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import CoTraining, Pi05Config
from pizero.policy.policy import Policy
from pizero.robots import NAVIGATION2D
from pizero.types import Example
from tests.examples import TINY_PI0, contract, observation

FIRST_ID = ByteTokenizer.vocab_size + 511


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a tokenizer of random chunks."""
    chunks = np.random.default_rng(0).uniform(-1, 1, (200, 6, 2))
    FastTokenizer.fit(chunks, vocab_size=512).save(tmp_path / "fast")
    shutil.copyfile(tmp_path / "fast" / "tokenizer.json", tmp_path / "action_tokenizer.json")
    return tmp_path


def fast_contract(folder: Path, **changes: Any) -> Contract:
    fitted = FastTokenizer.load_folder(folder / "fast")
    data = (folder / "action_tokenizer.json").read_bytes()
    tokens = ActionTokens(
        file=TokenFile(name="action_tokenizer.json", sha256=hashlib.sha256(data).hexdigest()),
        scale=fitted.scale,
        min_token=fitted.min_token,
        first_id=FIRST_ID,
    )
    return replace(
        contract(NAVIGATION2D),
        prompt="pi0_fast",
        normalization="quantile",
        horizon=6,
        max_tokens=120,
        action_tokens=replace(tokens, **changes),
    )


def example(processor: Processor) -> Example:
    """Return an example whose normalised actions lie in [-1, 1]."""
    wanted = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 2)).astype(np.float32)
    return Example(
        observation=observation(NAVIGATION2D),
        actions=processor.actions.decode(wanted),
        valid=np.ones(6, dtype=bool),
    )


def test_what_training_shows_is_what_acting_reads(folder: Path) -> None:
    """The target tokens of a training sample, written by a model, give the sample's actions back."""
    processor = Processor(fast_contract(folder), folder)
    sample = example(processor)
    tokens = processor.encode_example(sample).inputs.tokens
    assert np.array_equal(tokens.target, tokens.causal)
    assert tokens.ids[tokens.valid][-1] == 1
    prompt = processor.tokenizer.decode(tokens.ids[tokens.valid & ~tokens.target].tolist())
    assert prompt.startswith("Task: go to the red disc, State: ")
    assert prompt.endswith(";\n")
    decoded = processor.decode(tokens.ids[tokens.target], sample.observation)
    spread = processor.actions.scale
    assert (np.abs(decoded - sample.actions) / spread).max() <= 0.05 * np.sqrt(12)
    only_prompt = processor.encode(sample.observation).tokens
    length = int(only_prompt.valid.sum())
    assert np.array_equal(only_prompt.ids[:length], tokens.ids[:length])
    assert not only_prompt.target.any()


def test_the_files_are_those_of_the_contract(folder: Path) -> None:
    agreed = fast_contract(folder)
    with pytest.raises(ValueError, match="give the folder that holds it"):
        Processor(agreed)
    (folder / "action_tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="another tokenizer than the one that was agreed on"):
        Processor(agreed, folder)


def test_a_policy_writes_tokens_and_acts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Pi0FASTConfig(
        backbone=replace(TINY_PI0.backbone, vocab_size=FIRST_ID + 1),
        action_dim=2,
        horizon=6,
        max_new_tokens=80,
    )
    model, agreed = build(config), fast_contract(folder)
    policy = Policy(model, agreed, files=folder)
    with pytest.raises(ValueError, match=r"the model wrote no actions: expected 'Action: '"):
        policy.act(observation(NAVIGATION2D))
    processor = Processor(agreed, folder)
    sample = example(processor)
    tokens = processor.encode_example(sample).inputs.tokens
    written = torch.from_numpy(tokens.ids[tokens.target])[None]
    monkeypatch.setattr(type(model), "sample", lambda self, inputs, noise: written)
    decoded = policy.act(sample.observation)
    np.testing.assert_array_equal(decoded, processor.decode(written[0].numpy(), sample.observation))
    assert decoded.dtype == np.float32
    cut = torch.cat([written[:, :-4], written[:, -2:]], dim=1)
    monkeypatch.setattr(type(model), "sample", lambda self, inputs, noise: cut)
    with pytest.raises(ValueError, match="the model did not write a whole chunk"):
        policy.act(sample.observation)
    relaxed = Policy(model, fast_contract(folder, decoding="relaxed"), files=folder)
    assert relaxed.act(sample.observation).shape == (6, 2)


def test_actions_of_another_shape_are_refused(folder: Path, unchecked: None) -> None:
    processor = Processor(fast_contract(folder), folder)
    sample = example(processor)
    with pytest.raises(ValueError, match=r"expected actions of shape \[6, 2\].*found \[6, 1\]"):
        processor.encode_example(replace(sample, actions=sample.actions[:, :1]))


def co_trained_contract(folder: Path) -> Contract:
    return replace(fast_contract(folder), prompt="pi05")


def test_a_co_trained_pi05_learns_the_tokens_of_the_chunk_after_its_prompt(folder: Path) -> None:
    """The target is the fitted tokenizer's ids, counted down from the first id, a bar and the end."""
    processor = Processor(co_trained_contract(folder), folder)
    sample = example(processor)
    batch = processor.encode_example(sample)
    tokens = batch.inputs.tokens
    written = FastTokenizer.load_folder(folder / "fast").encode(batch.actions)
    assert tokens.ids[tokens.target].tolist() == [*(FIRST_ID - index for index in written), ord("|") + 3, 1]
    assert np.array_equal(tokens.target, tokens.causal)
    prompt = processor.tokenizer.decode(tokens.ids[tokens.valid & ~tokens.target].tolist())
    assert prompt.startswith("Task: go to the red disc, State: ")
    assert prompt.endswith(";\nAction: ")
    served = processor.encode(sample.observation).tokens
    assert np.array_equal(served.ids, np.where(tokens.target, 0, tokens.ids))
    assert np.array_equal(served.valid, tokens.valid & ~tokens.target)
    assert not served.target.any()


def test_a_co_trained_pi05_acts_by_numbers(folder: Path) -> None:
    """As the same model does under a contract that knows no action tokens."""
    agreed = co_trained_contract(folder)
    config = Pi05Config(
        backbone=replace(TINY_PI0.backbone, vocab_size=FIRST_ID + 1),
        expert=replace(TINY_PI0.expert, conditioned=True),
        action_dim=2,
        horizon=6,
        co_training=CoTraining(),
    )
    policy = Policy(build(config), agreed, files=folder)
    plain = Policy(build(replace(config, co_training=None)), replace(agreed, action_tokens=None))
    shown = observation(NAVIGATION2D)
    chunk = policy.act(shown)
    assert chunk.shape == (6, 2)
    np.testing.assert_array_equal(chunk, plain.act(shown))
    sample = example(policy.processor)
    normalized = policy.processor.encode_example(sample).actions
    np.testing.assert_allclose(policy.processor.decode(normalized, shown), sample.actions, atol=1e-5)


def test_actions_as_tokens_are_refused_where_the_prompt_has_no_place_for_them(folder: Path) -> None:
    processor = Processor(replace(fast_contract(folder), prompt="pi0"), folder)
    with pytest.raises(ValueError, match="after the prompts 'pi05' and 'pi0_fast', found 'pi0'"):
        processor.encode_example(example(processor))
