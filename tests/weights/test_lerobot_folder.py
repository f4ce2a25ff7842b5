"""A LeRobot folder becomes a policy with LeRobot's own statistics, or says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pizero.cli.convert import convert
from pizero.contract import Contract
from pizero.data.processor import Processor
from pizero.policy.policy import Policy
from pizero.types import Observation
from pizero.weights.folder import read_policy
from tests.golden_weights import GOLDEN, arrays
from tests.orbax_writer import write_orbax

TOKENIZER = GOLDEN / "preprocessing" / "mini_paligemma_tokenizer.model"
OPTIONS: dict[str, Any] = {"compute": "float32", "vision_heads": 4, "tokenizer": TOKENIZER}


@pytest.fixture
def lerobot(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder as LeRobot saves one: its own files, beside golden weights in its names."""
    kind = getattr(request, "param", "pi0")
    write_orbax(tmp_path / "jax", arrays(f"{kind}/params_jax.safetensors"))
    convert(tmp_path / "jax", tmp_path / "weights", to="lerobot", horizon=6, weights_only=True)
    folder = tmp_path / "lerobot"
    shutil.copytree(GOLDEN / "lerobot_checkpoint" / kind, folder)
    shutil.copyfile(tmp_path / "weights" / "model.safetensors", folder / "model.safetensors")
    edit(folder, chunk_size=6)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def contract_of(folder: Path) -> Contract:
    return read_policy(folder).contract


def shown(state: np.ndarray) -> Observation:
    rng = np.random.default_rng(0)
    return Observation(
        images={
            "front": rng.integers(0, 256, (96, 128, 3), dtype=np.uint8),
            "wrist": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        },
        state=state,
        instruction="pick up the fork",
    )


@pytest.mark.parametrize(
    ("lerobot", "normalization"), [("pi0", "zscore"), ("pi05", "quantile")], indirect=["lerobot"]
)
def test_statistics_sizes_and_cameras_are_lerobot_s(
    lerobot: Path, normalization: str, tmp_path: Path
) -> None:
    convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)
    contract = contract_of(tmp_path / "policy")
    (path,) = lerobot.glob("policy_preprocessor_step_*.safetensors")
    stored = load_file(path)
    for field, key in (
        (contract.statistics.state, "observation.state"),
        (contract.statistics.actions, "action"),
    ):
        for name, ours in (
            ("mean", "mean"),
            ("std", "std"),
            ("q01", "q01"),
            ("q99", "q99"),
            ("max", "maximum"),
        ):
            assert getattr(field, ours) == tuple(stored[f"{key}.{name}"].astype(np.float64).tolist())
    assert contract.normalization == normalization
    assert contract.epsilon == 1e-8
    assert contract.horizon == 6
    assert contract.embodiment.camera_names == ("front", "wrist")
    assert (contract.embodiment.state_dim, contract.embodiment.action_dim) == (6, 6)
    assert contract.embodiment.rate == 10.0
    assert contract.width == 10
    policy = Policy.load(tmp_path / "policy")
    actions = policy.act(shown(np.array(contract.statistics.state.mean, dtype=np.float32)))
    assert actions.shape == (6, 6)


def test_state_is_normalised_as_lerobot_does(lerobot: Path, tmp_path: Path) -> None:
    """Its formula, `(x - mean) / (std + eps)`, on its numbers."""
    convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)
    (path,) = lerobot.glob("policy_preprocessor_step_*.safetensors")
    stored = load_file(path)
    state = np.linspace(-1, 1, 6).astype(np.float32)
    inputs = Processor(contract_of(tmp_path / "policy"), tmp_path / "policy").encode(shown(state))
    expected = (state - stored["observation.state.mean"]) / (stored["observation.state.std"] + 1e-8)
    np.testing.assert_allclose(inputs.state, [*expected, 0, 0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("lerobot", ["pi05"], indirect=True)
def test_pi05_sees_its_state_padded_in_the_prompt(lerobot: Path, tmp_path: Path) -> None:
    """LeRobot writes the padded state into the prompt, openpi the robot's own."""
    convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)
    processor = Processor(contract_of(tmp_path / "policy"), tmp_path / "policy")
    tokens = processor.encode(shown(np.zeros(6, dtype=np.float32))).tokens
    text = processor.tokenizer.decode(tokens.ids[tokens.valid].tolist())
    numbers = text.partition("State: ")[2].partition(";")[0].split()
    assert len(numbers) == 10
    assert numbers[6:] == ["128"] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_relative_actions": True}, "relative actions are not read"),
        ({"normalization_mapping": {"STATE": "MIN_MAX", "ACTION": "MIN_MAX"}}, "expected one of MEAN_STD"),
        ({"normalization_mapping": {"STATE": "MEAN_STD", "ACTION": "QUANTILES"}}, "for state and actions"),
        ({"input_features": {}}, "expected the shape of observation.state"),
        ({"type": "pi0_fast"}, "prompts its π0-FAST in another way"),
    ],
)
def test_what_is_not_reproduced_is_refused(
    changes: dict[str, Any], message: str, lerobot: Path, tmp_path: Path
) -> None:
    edit(lerobot, **changes)
    with pytest.raises(ValueError, match=message):
        convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)
    assert not list(tmp_path.glob("policy*"))


def test_the_rate_has_to_be_given(lerobot: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not tell the control rate; give it with --rate"):
        convert(lerobot, tmp_path / "policy", **OPTIONS)


@pytest.mark.parametrize("state_file", ["../evil.safetensors", "absent.safetensors", None])
def test_a_normalizer_elsewhere_is_refused(state_file: Any, lerobot: Path, tmp_path: Path) -> None:
    path = lerobot / "policy_preprocessor.json"
    steps = json.loads(path.read_text(encoding="utf-8"))
    for step in steps["steps"]:
        if step["registry_name"] == "normalizer_processor":
            step["state_file"] = state_file
    path.write_text(json.dumps(steps), encoding="utf-8")
    with pytest.raises(ValueError, match=r"state_file|absent\.safetensors"):
        convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)


def test_the_first_port_keeps_its_statistics_beside_its_weights(lerobot: Path, tmp_path: Path) -> None:
    for path in lerobot.glob("policy_*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"expected LeRobot's policy_preprocessor\.json"):
        convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)
    tensors = load_file(lerobot / "model.safetensors")
    old = {}
    for name, tensor in tensors.items():
        renamed = name.replace(".paligemma.model.language_model.", ".paligemma.language_model.model.")
        renamed = renamed.replace(".paligemma.lm_head.", ".paligemma.language_model.lm_head.")
        old[renamed.replace(".paligemma.model.", ".paligemma.")] = tensor
    statistics = np.arange(12, dtype=np.float32).reshape(2, 6) + 1
    for buffer, (mean, std) in {
        "normalize_inputs.buffer_observation_state": statistics,
        "normalize_targets.buffer_action": statistics * 2,
        "unnormalize_outputs.buffer_action": statistics * 2,
    }.items():
        old |= {f"{buffer}.mean": mean.copy(), f"{buffer}.std": std.copy()}
    save_file(old, lerobot / "model.safetensors")
    convert(lerobot, tmp_path / "policy", rate=10.0, **OPTIONS)
    contract = contract_of(tmp_path / "policy")
    assert contract.statistics.state.mean == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert contract.statistics.actions.std == (14.0, 16.0, 18.0, 20.0, 22.0, 24.0)
    assert contract.embodiment.actions[0].low == 2.0 - 5 * 14.0
