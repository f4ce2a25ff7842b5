"""What a user asks to convert, with everything that has to be found out before the first byte is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pizero.contract import ActionForm, Contract, Normalization, PromptFormat
from pizero.models.build import ComputeDtype, ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.records import read_record
from pizero.robots import find_embodiment
from pizero.weights import lerobot_folder
from pizero.weights.adapters import AdaptedTensors
from pizero.weights.contracts import FoundContract, build_contract, changed, find_statistics
from pizero.weights.folder import CONFIG, CONTRACT, WEIGHTS, check_seal
from pizero.weights.keymap import NameScheme, check_coverage
from pizero.weights.own_tensors import OwnTensors, identify, own_scheme, shapes_of
from pizero.weights.published import PRESETS, Preset, find_preset, layout_of
from pizero.weights.sources import open_tensors
from pizero.weights.tensors import TensorSource

DEFAULT_HORIZON = 50
"""Of weights that nothing is said about; no tensor depends on it."""

OWN_MARK = "backbone.embedding"
"""A tensor that every model of ours has, and no foreign checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a user says about a checkpoint; None where the preset or the checkpoint tells."""

    preset: str | None = None
    robot: str | None = None
    statistics: Path | None = None
    tokenizer: Path | None = None
    action_tokenizer: Path | None = None
    weights_only: bool = False
    horizon: int | None = None
    max_tokens: int | None = None
    prompt: PromptFormat | None = None
    instruction: str | None = None
    normalization: Normalization | None = None
    action_form: ActionForm | None = None
    bytes_prompt: bool = False
    rate: float | None = None
    vision_heads: int | None = None
    skipped_positions: int | None = None
    compute: ComputeDtype = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Tensors ready to be read under our names, and the contract that goes with them, if any."""

    tensors: OwnTensors
    found: FoundContract | None


def open_source(
    path: Path,
    changes: Changes,
    *,
    dtype: torch.dtype | None = None,
    merge_lora: bool = False,
    adapter: Path | None = None,
) -> Request:
    """Find out everything about a checkpoint; ValueError if a tensor, a statistic or a file does not fit."""
    source = open_tensors(path)
    opened = _open_own if OWN_MARK in source.infos else _open_foreign
    source, config, scheme, found = opened(path, source, changes)
    if changes.skipped_positions is not None:
        if not isinstance(config, Pi0FASTConfig):
            raise ValueError("only a π0-FAST writes token after token; leave --skipped-positions out")
        config = replace(config, skipped_positions=changes.skipped_positions)
    if adapter is not None:
        source = AdaptedTensors(OwnTensors(source, config, scheme), adapter)
        config, scheme = source.config, own_scheme(source.config)
        check_coverage(scheme, source.infos, shapes_of(config), source.description)
    tensors = OwnTensors(source, config, scheme, dtype=dtype, merge_adapters=merge_lora)
    return Request(tensors=tensors, found=found)


def _open_own(
    path: Path, source: TensorSource, changes: Changes
) -> tuple[TensorSource, ModelConfig, NameScheme, FoundContract | None]:
    check_seal(path, (WEIGHTS, CONFIG), "a folder of converted weights")
    config = read_record(ModelConfig, path / CONFIG)
    check_coverage(own_scheme(config), source.infos, shapes_of(config), source.description)
    found = None
    if (path / CONTRACT).is_file() and not changes.weights_only:
        contract = read_record(Contract, path / CONTRACT)
        files = [contract.tokenizer, contract.action_tokens.file if contract.action_tokens else None]
        found = FoundContract(
            contract=contract, files={file.name: path / file.name for file in files if file is not None}
        )
    elif changes.preset and not changes.weights_only:
        preset = _changed_preset(changes)
        config = replace(config, horizon=preset.horizon)
        found = _from_preset(path, preset, config, changes)
    return source, config, own_scheme(config), found


def _open_foreign(
    path: Path, source: TensorSource, changes: Changes
) -> tuple[TensorSource, ModelConfig, NameScheme, FoundContract | None]:
    folder = path if path.is_dir() else path.parent
    saved = lerobot_folder.read_config(folder)
    lerobot = lerobot_folder.is_lerobot(folder)
    preset = _changed_preset(changes) if changes.preset else None
    said = saved.get("chunk_size") if lerobot else saved.get("action_horizon")
    horizon = changes.horizon or (preset.horizon if preset else None) or said or DEFAULT_HORIZON
    config, scheme = identify(
        source,
        horizon=int(horizon),
        compute_dtype=changes.compute,
        vision_heads=changes.vision_heads,
    )
    if changes.weights_only:
        return source, config, scheme, None
    if lerobot and preset is None:
        config = lerobot_folder.sized(config, folder)
        found = lerobot_folder.lerobot_contract(
            folder,
            config,
            source,
            rate=changes.rate,
            embodiment=find_embodiment(changes.robot) if changes.robot else None,
            tokenizer=changes.tokenizer,
        )
        return source, config, scheme, found
    if preset is None:
        raise ValueError(
            f"{source.description} holds weights, but nothing about a robot: say which published checkpoint "
            f"it is or was fine-tuned like with --preset ({', '.join(PRESETS)}), or convert the weights "
            f"alone with --weights-only"
        )
    if preset.robot and isinstance(config, Pi0FASTConfig):
        config = replace(config, action_dim=find_embodiment(preset.robot).action_dim)
    return source, config, scheme, _from_preset(path, preset, config, changes)


def _changed_preset(changes: Changes) -> Preset:
    assert changes.preset is not None
    preset = find_preset(changes.preset)
    if changes.robot and changes.robot != preset.robot:
        find_embodiment(changes.robot)
        plain = changed(preset, robot=changes.robot, convention="native", slots=(), asset="")
        preset = changed(plain, **layout_of(changes.robot, fast=preset.prompt == "pi0_fast"))
    return changed(
        preset,
        horizon=changes.horizon,
        max_tokens=changes.max_tokens,
        prompt=changes.prompt,
        instruction=changes.instruction,
        normalization=changes.normalization,
        action_form=changes.action_form,
    )


def _from_preset(path: Path, preset: Preset, config: ModelConfig, changes: Changes) -> FoundContract | None:
    if not preset.robot:
        raise ValueError(
            f"{changes.preset} is a base to fine-tune, trained on many robots: name one of the catalog with "
            f"--robot, or convert the weights alone with --weights-only"
        )
    return build_contract(
        preset,
        config,
        find_statistics(path, preset.asset, changes.statistics),
        tokenizer=changes.tokenizer,
        action_tokenizer=changes.action_tokenizer,
        bytes_prompt=changes.bytes_prompt,
    )
