"""A run that starts from a policy has its weights and contract, trains what it should, and refuses others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pizero.contract import Contract
from pizero.data.lerobot import LeRobotDataset
from pizero.models.build import ModelConfig
from pizero.models.pi0 import PI0, Pi0Config
from pizero.nn.lora import is_adapter
from pizero.policy.policy import Policy
from pizero.recipes import NEEDS_START, find_recipe
from pizero.records import read_record
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import train
from pizero.training.optimizer import OptimizerConfig
from pizero.training.sources import open_sources
from pizero.training.starting import inherit, read_start
from pizero.training.state import make_state
from tests.small import demonstrate, small_config, small_contract, small_train

ROBOT = "navigation2d"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("starting") / "dataset", num_episodes=20)


@pytest.fixture(scope="module")
def policy(dataset: LeRobotDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that was trained for a few steps, with contract fields that no recipe has."""
    config = small_config(num_steps=6)
    contract = replace(small_contract(config, dataset), instruction="go", absent_valid=True)
    return small_train(config, dataset, contract, tmp_path_factory.mktemp("base") / "run")


def tuned(way: str, policy: Path, **chosen: object) -> TrainConfig:
    """Return the config of a short fine-tuning run."""
    start = read_start(policy)
    config = find_recipe(way, start.model)(num_steps=4)
    optimizer = OptimizerConfig(peak_rate=1e-2, warmup_steps=0, decay_steps=4)
    small = replace(
        config, embodiments=(ROBOT,), batch_size=16, augmentation=None, optimizer=optimizer, **chosen
    )
    return inherit(small, start)


def run(
    config: TrainConfig, policy: Path, dataset: LeRobotDataset, folder: Path, *, keep: bool = True
) -> Path:
    sources = open_sources(
        config,
        [dataset],
        tokenizers=folder / "tokenizers",
        start=read_start(policy),
        keep_statistics=keep,
    )
    (made,) = train(config, sources, folder, execution=Execution(), start=policy)
    return made


def test_a_run_starts_with_the_policy_s_weights(policy: Path) -> None:
    state = make_state(tuned("fine_tune", policy), start=policy)
    there = load_file(policy / "model.safetensors")
    own = {name: parameter.detach() for name, parameter in state.model.named_parameters()}
    assert own.keys() == there.keys() == state.average.keys()
    assert all(own[name].equal(there[name]) for name in there)
    assert all(state.average[name].equal(there[name]) for name in there)


def test_adapters_are_fresh_and_the_rest_is_frozen_in_the_policy_s_numbers(policy: Path) -> None:
    config = tuned("fine_tune_lora", policy, frozen_dtype="bfloat16")
    state, again = (make_state(config, start=policy) for _ in range(2))
    there = load_file(policy / "model.safetensors")
    fresh = 0
    for name, parameter in state.model.named_parameters():
        if is_adapter(name):
            fresh += 1
            assert parameter.requires_grad
            assert parameter.detach().std().item() == pytest.approx(0.01, rel=0.5)
            assert parameter.equal(again.model.get_parameter(name))
        elif name.startswith(("expert.", "backbone.language.", "backbone.embedding")):
            assert not parameter.requires_grad
            assert parameter.equal(there[name].to(torch.bfloat16))
        else:
            assert parameter.requires_grad
            assert parameter.equal(there[name])
    assert fresh == 2 * 2 * 7 * 2, "two matrices for each of seven maps of two layers of two transformers"
    assert state.average == {}


@pytest.mark.parametrize("way", ["fine_tune", "fine_tune_lora", "fine_tune_expert"])
def test_what_moves_is_what_the_recipe_says(
    way: str, policy: Path, dataset: LeRobotDataset, tmp_path: Path
) -> None:
    made = run(tuned(way, policy), policy, dataset, tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, made))
    moved = {name for name in before if not before[name].equal(after[name].to(before[name].dtype))}
    unused = {name for name in before if name.startswith("backbone.language.final_norm")}
    last = "backbone.language.layers.1."
    unused |= {
        name for name in before if name.startswith(last) and ("key" not in name and "value" not in name)
    }
    unused.discard(f"{last}attention_norm.scale")
    may_move = {
        "fine_tune": set(before) - unused,
        "fine_tune_lora": {
            name
            for name in before
            if not name.startswith(("expert.", "backbone.language.", "backbone.embedding"))
        },
        "fine_tune_expert": {name for name in before if not name.startswith("backbone.")},
    }[way]
    assert moved == may_move
    Policy.load(made)


def test_the_contract_is_the_policy_s_and_statistics_are_kept_or_new(
    policy: Path, dataset: LeRobotDataset, tmp_path: Path
) -> None:
    config = tuned("fine_tune", policy)
    known = read_record(Contract, policy / "contract.json")
    kept = run(config, policy, dataset, tmp_path / "kept")
    assert read_record(Contract, kept / "contract.json") == known
    other = demonstrate(tmp_path / "other", num_episodes=6, seed=5)
    new = read_record(Contract, run(config, policy, other, tmp_path / "new", keep=False) / "contract.json")
    assert new.statistics != known.statistics
    assert replace(new, statistics=known.statistics) == known
    assert (config.action_form, config.image_size, config.max_tokens) == ("displacement", 32, 24)
    assert config.starts_from == read_start(policy).sha256


def test_a_policy_of_another_model_is_refused_with_the_difference(policy: Path) -> None:
    start = read_start(policy)
    assert isinstance(start.model, Pi0Config)
    wider: ModelConfig = replace(start.model, expert=replace(start.model.expert, mlp_dim=96))
    config = replace(small_config(num_steps=4), model=wider)
    with pytest.raises(ValueError, match=r"another model than the recipe.*expert\.mlp_dim: 96 ≠ 128"):
        inherit(config, start)


def test_a_policy_whose_weights_do_not_fit_is_refused_before_any_is_copied(
    policy: Path, dataset: LeRobotDataset, tmp_path: Path
) -> None:
    config = tuned("fine_tune", policy)
    assert isinstance(config.model, Pi0Config)
    longer = replace(config, model=replace(config.model, expert=replace(config.model.expert, mlp_dim=96)))
    with pytest.raises(ValueError, match=r"does not fit the model of its config.*6 of another shape"):
        make_state(longer, start=policy)


def test_statistics_of_another_robot_cannot_be_kept(
    policy: Path, dataset: LeRobotDataset, tmp_path: Path
) -> None:
    start = read_start(policy)
    faster = replace(start.contract.embodiment, rate=start.contract.embodiment.rate * 2)
    other = replace(start, contract=replace(start.contract, embodiment=faster))
    with pytest.raises(ValueError, match=r"kept for the same robot alone.*rate: .* ≠"):
        open_sources(
            tuned("fine_tune", policy), [dataset], tokenizers=tmp_path, start=other, keep_statistics=True
        )
    with pytest.raises(ValueError, match="name it, and no file"):
        open_sources(small_config(num_steps=1), [dataset], tokenizers=tmp_path, keep_statistics=True)


def test_a_folder_without_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a policy to start from at .*missing manifest\.json, config\.json"):
        read_start(tmp_path)


@pytest.mark.parametrize("name", list(NEEDS_START))
def test_recipes_of_published_checkpoints_train_what_openpi_trains(name: str) -> None:
    """Sizes and frozen parts; the optimizer's defaults are held to openpi's in test_optimizer.py."""
    config = find_recipe(name)()
    assert (config.batch_size, config.num_steps, config.width, config.num_slots) == (32, 30_000, 32, 3)
    assert config.optimizer.decay_steps == config.num_steps
    adapted = config.model.backbone.language.lora is not None
    assert adapted == name.endswith("lora")
    assert (config.ema_decay is None) == adapted
    if name == "pi0":
        assert config.model == PI0
