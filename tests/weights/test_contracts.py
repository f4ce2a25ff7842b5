"""Presets: what the published checkpoints do not say about themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.cli.convert import convert
from pizero.data.action_tokens import FastTokenizer
from pizero.data.processor import Processor
from pizero.robots import find_embodiment
from pizero.types import Observation
from pizero.weights.folder import read_policy, sha256_of
from pizero.weights.published import PRESETS, find_preset
from tests.golden_weights import GOLDEN, arrays
from tests.orbax_writer import write_orbax

TOKENIZER = GOLDEN / "preprocessing" / "mini_paligemma_tokenizer.model"
STATISTICS = GOLDEN / "policy" / "pi05_libero" / "norm_stats.json"


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    """Return a FAST tokenizer in the published layout."""
    chunks = arrays("preprocessing/fast_processor.npz")["train_chunks"]
    FastTokenizer.fit(chunks, vocab_size=400).save(tmp_path / "fast")
    return tmp_path / "fast"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_orbax(tmp_path / "jax", arrays("pi0_fast/params_jax.safetensors"))
    return tmp_path / "jax"


def test_a_pi0_fast_of_libero(checkpoint: Path, fast: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "preset": "pi0_fast_libero",
        "statistics": STATISTICS,
        "tokenizer": TOKENIZER,
        "action_tokenizer": fast,
    }
    convert(checkpoint, tmp_path / "policy", **options)
    files = read_policy(tmp_path / "policy")
    contract = files.contract
    assert (files.config.horizon, files.config.action_dim) == (10, 7)
    assert contract.slots == ("image", "wrist_image", "")
    assert contract.absent_valid
    assert contract.width == 0
    assert contract.statistics.action_form == "relative"
    assert contract.normalization == "quantile"
    assert contract.action_tokens is not None
    assert contract.action_tokens.first_id == 1792 - 1 - 128
    for name in ("tokenizer.model", "action_tokenizer.json"):
        assert (tmp_path / "policy" / name).is_file()
    assert contract.action_tokens.file.sha256 == sha256_of(fast / "tokenizer.json")
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in ("image", "wrist_image")}
    seen = Processor(contract, tmp_path / "policy").encode(
        Observation(images=images, state=np.zeros(8, np.float32), instruction="Put_it DOWN")
    )
    assert seen.camera_valid.tolist() == [True, True, True]
    assert not seen.images[2].any()
    assert seen.state.shape == (8,)


def test_a_pi0_fast_needs_its_action_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "pi0_fast_libero", "statistics": STATISTICS, "tokenizer": TOKENIZER}
    with pytest.raises(ValueError, match="give its folder with --action-tokenizer"):
        convert(checkpoint, tmp_path / "policy", **options)
    with pytest.raises(ValueError, match="found no processor_config"):
        convert(checkpoint, tmp_path / "policy", action_tokenizer=tmp_path, **options)


def test_a_base_takes_the_layout_of_the_robot_that_is_named(tmp_path: Path) -> None:
    write_orbax(tmp_path / "jax", arrays("policy/pi0_aloha/params_jax.safetensors"))
    convert(
        tmp_path / "jax",
        tmp_path / "policy",
        preset="pi0_base",
        robot="aloha",
        action_form="relative",
        statistics=GOLDEN / "policy" / "pi0_aloha" / "norm_stats.json",
        tokenizer=TOKENIZER,
    )
    contract = read_policy(tmp_path / "policy").contract
    assert contract.embodiment == find_embodiment("aloha")
    assert contract.convention == "aloha"
    assert contract.slots == ("cam_high", "cam_left_wrist", "cam_right_wrist")
    assert contract.statistics.action_form == "relative"
    assert contract.horizon == 50


@pytest.mark.parametrize(
    ("name", "model", "horizon", "max_tokens", "normalization", "robot"),
    [
        ("pi0_base", "Pi0", 50, 48, "zscore", ""),
        ("pi0_droid", "Pi0", 10, 48, "zscore", "droid"),
        ("pi0_aloha_sim", "Pi0", 50, 48, "zscore", "aloha"),
        ("pi0_libero", "Pi0", 50, 48, "zscore", "libero"),
        ("pi05_base", "Pi05", 50, 200, "quantile", ""),
        ("pi05_droid", "Pi05", 15, 200, "quantile", "droid"),
        ("pi05_libero", "Pi05", 10, 200, "quantile", "libero"),
        ("pi0_fast_base", "Pi0FAST", 32, 250, "quantile", ""),
        ("pi0_fast_droid", "Pi0FAST", 10, 250, "quantile", "droid"),
        ("pi0_fast_libero", "Pi0FAST", 10, 180, "quantile", "libero"),
    ],
)
def test_presets_are_openpi_s_configs(
    name: str, model: str, horizon: int, max_tokens: int, normalization: str, robot: str
) -> None:
    """The table of section 7.9 of the specification that the presets were written from."""
    preset = find_preset(name)
    assert (preset.model, preset.horizon, preset.max_tokens) == (model, horizon, max_tokens)
    assert (preset.normalization, preset.robot) == (normalization, robot)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_its_robot(name: str) -> None:
    preset = PRESETS[name]
    if preset.robot:
        cameras = find_embodiment(preset.robot).camera_names
        assert len(preset.slots) == 3
        assert set(preset.slots) - {""} <= set(cameras)
        assert preset.asset
    assert (preset.prompt == "pi0_fast") == (preset.model == "Pi0FAST") == preset.absent_valid
