"""Adapters are merged, taken off and put back on while converting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pizero.cli.convert import convert
from pizero.models.build import construct
from pizero.nn.lora import LoRAConfig, is_adapter, merged_weights
from tests.golden_weights import arrays, from_openpi, golden_config, with_lora
from tests.orbax_writer import write_orbax
from tests.weights.test_convert import assert_same_weights, weights_of


def lora_folder(tmp_path: Path) -> tuple[Path, Any]:
    """Return an Orbax folder of the golden weights with the golden adapters, and its config."""
    golden = arrays("pi0/params_jax.safetensors") | arrays("pi0/lora/lora_params_jax.safetensors")
    write_orbax(tmp_path / "lora", golden)
    lora = LoRAConfig(attention_rank=4, attention_alpha=4.0, feed_forward_rank=4)
    return tmp_path / "lora", with_lora(golden_config("pi0"), lora)


def test_adapters_merged_while_converting_are_those_merged_by_the_model(tmp_path: Path) -> None:
    source, config = lora_folder(tmp_path)
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    convert(source, tmp_path / "merged", merge_lora=True, **options)
    model = construct(config)
    golden = arrays("pi0/params_jax.safetensors") | arrays("pi0/lora/lora_params_jax.safetensors")
    model.load_state_dict(from_openpi(golden, config))
    expected, found = merged_weights(model), weights_of(tmp_path / "merged")
    assert set(expected) == set(found)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-7, rtol=0, msg=name)


def test_adapters_alone_and_back_on_their_base(tmp_path: Path) -> None:
    source, config = lora_folder(tmp_path)
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    convert(source, tmp_path / "whole", **options)
    convert(source, tmp_path / "adapter", to="adapter", **options)
    write_orbax(tmp_path / "base", arrays("pi0/params_jax.safetensors"))
    convert(tmp_path / "base", tmp_path / "again", adapter=tmp_path / "adapter", **options)
    assert_same_weights(tmp_path / "whole", tmp_path / "again")
    assert all(is_adapter(name) for name in load_file(tmp_path / "adapter" / "adapter.safetensors"))
    saved = (tmp_path / "adapter" / "adapter.safetensors").stat().st_size
    assert saved < 0.2 * (tmp_path / "whole" / "model.safetensors").stat().st_size
    assert golden_config("pi0") != config
    with pytest.raises(ValueError, match="holds adapters for a Pi0Config without any"):
        convert(tmp_path / "whole", tmp_path / "twice", adapter=tmp_path / "adapter", **options)


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    source, _ = lora_folder(tmp_path)
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    convert(source, tmp_path / "adapter", to="adapter", dry_run=True, **options)
    assert not (tmp_path / "adapter").exists()
    convert(source, tmp_path / "adapter", to="adapter", **options)
    write_orbax(tmp_path / "base", arrays("pi0/params_jax.safetensors"))
    with pytest.raises(ValueError, match="has no adapters"):
        convert(tmp_path / "base", tmp_path / "none", to="adapter", **options)
    path = tmp_path / "adapter" / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"adapter\.safetensors is damaged"):
        convert(tmp_path / "base", tmp_path / "again", adapter=tmp_path / "adapter", **options)
    assert not list(tmp_path.glob("again*"))
    assert not list(tmp_path.glob("none*"))
