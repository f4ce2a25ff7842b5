"""A run with adapters moves them and what is not frozen, and leaves the rest bit for bit as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pizero.data.lerobot import LeRobotDataset
from pizero.models.build import build
from pizero.nn.lora import LoRAConfig, is_adapter
from pizero.training.config import TrainConfig
from pizero.training.freezing import around_adapters, freeze
from tests.small import demonstrate, small_config, small_contract, small_train

LORA = LoRAConfig(attention_rank=2, attention_alpha=2.0, feed_forward_rank=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    folder = tmp_path_factory.mktemp("freezing") / "dataset"
    return demonstrate(folder, num_episodes=6)


def adapted_config() -> TrainConfig:
    """Return a run with adapters on both transformers, frozen as openpi freezes."""
    config = replace(small_config(num_steps=3), batch_size=8)
    model = config.model
    language = replace(model.backbone.language, lora=LORA)
    model = replace(model, backbone=replace(model.backbone, language=language))
    model = replace(model, expert=replace(model.expert, lora=LORA))
    return replace(config, model=model, frozen=around_adapters(model), ema_decay=0.0)


def test_what_is_frozen_stays_and_what_is_not_moves(dataset: LeRobotDataset, tmp_path: Path) -> None:
    config = adapted_config()
    before = build(config.model, config.seed).state_dict()
    policy = small_train(config, dataset, small_contract(config, dataset), tmp_path / "run")
    after = load_file(policy / "model.safetensors")
    assert set(before) == set(after)
    frozen = set(freeze(build(config.model), config.frozen))
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    last = f"backbone.language.layers.{config.model.backbone.language.depth - 1}."
    idle = {
        name
        for name in before
        if name.startswith(last) and is_adapter(name) and ".key." not in name and ".value." not in name
    }
    assert len(frozen) > 20
    assert len(idle) == 5 * 2  # of the last layer, the expert reads keys and values alone
    assert moved == set(before) - frozen - idle


def test_a_wrong_rule_stops_a_run_before_it_begins(dataset: LeRobotDataset, tmp_path: Path) -> None:
    config = replace(adapted_config(), frozen=("expret.*",))
    with pytest.raises(ValueError, match=r"'expret\.\*' fits no weight.*did you mean 'expert\.\*'"):
        small_train(config, dataset, small_contract(config, dataset), tmp_path / "run")
