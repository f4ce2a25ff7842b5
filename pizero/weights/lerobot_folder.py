"""What LeRobot keeps beside a policy's weights: its config, and the tensors of its normaliser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pizero.contract import Contract, FieldStatistics, Normalization, PromptFormat, Statistics
from pizero.models.build import ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.robots import Camera, Dimension, Embodiment
from pizero.weights.contracts import FoundContract, find_text_tokenizer
from pizero.weights.safetensors_files import SafetensorsFile
from pizero.weights.tensors import TensorSource

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
NORMALIZATIONS: dict[str, Normalization] = {"MEAN_STD": "zscore", "QUANTILES": "quantile"}
PROMPTS: dict[str, PromptFormat] = {"pi0": "pi0", "pi05": "pi05"}
KINDS = (*PROMPTS, "pi0_fast")
FIRST_EPSILON = 1e-8
"""What LeRobot's first port adds to a standard deviation."""


def is_lerobot(folder: Path) -> bool:
    """Return whether a folder holds a config of LeRobot's π0 family."""
    return read_config(folder).get("type") in KINDS


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's `config.json`; empty if there is none, ValueError if it is no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected an object, found {type(config).__name__}")
    return config


def sized(config: ModelConfig, folder: Path) -> ModelConfig:
    """Return a model's config with the sizes that LeRobot's config tells and no weight does."""
    saved = read_config(folder)
    if isinstance(config, Pi0FASTConfig) or "num_inference_steps" not in saved:
        return config
    return replace(config, process=replace(config.process, num_steps=int(saved["num_inference_steps"])))


def lerobot_contract(
    folder: Path,
    config: ModelConfig,
    weights: TensorSource,
    *,
    rate: float | None,
    embodiment: Embodiment | None,
    tokenizer: Path | None,
) -> FoundContract:
    """Return the contract that LeRobot's files describe; ValueError says what they lack.

    LeRobot names neither units nor kinds nor the control rate: without an `embodiment`, one is made with
    limits from the statistics, and the rate has to be given. Pictures go through our own resizing, which
    differs from LeRobot's by a few grey levels.
    """
    saved = read_config(folder)
    kind = saved["type"]
    if kind not in PROMPTS:
        raise ValueError(
            f"{folder}: LeRobot prompts its π0-FAST in another way than openpi, which is not reproduced; "
            f"convert the weights alone with --weights-only, or with the preset of an openpi checkpoint"
        )
    if saved.get("use_relative_actions"):
        raise ValueError(f"{folder}: LeRobot's relative actions are not read; convert the weights alone")
    mapping = saved["normalization_mapping"]
    normalization = NORMALIZATIONS.get(mapping.get("STATE"))
    if normalization is None or mapping.get("ACTION") != mapping.get("STATE"):
        raise ValueError(
            f"{folder}: expected one of {', '.join(NORMALIZATIONS)} for state and actions, "
            f"found {saved['normalization_mapping']}"
        )
    epsilon, statistics = _read_buffers(weights) or _read_normalizer(folder)
    if embodiment is None:
        embodiment = _embodiment(saved, statistics, rate, folder)
    text, files = find_text_tokenizer(config, tokenizer, bytes_prompt=False)
    vision = config.backbone.vision
    assert isinstance(vision, SigLIPConfig)
    contract = Contract(
        embodiment=embodiment,
        slots=(*embodiment.camera_names, *[""] * int(saved.get("empty_cameras", 0))),
        image_size=vision.image_size,
        prompt=PROMPTS[kind],
        padded_prompt_state=kind == "pi05",
        tokenizer=text,
        max_tokens=int(saved["tokenizer_max_length"]),
        horizon=int(saved["chunk_size"]),
        width=config.action_dim,
        normalization=normalization,
        epsilon=epsilon,
        statistics=Statistics(
            state=statistics[STATE], actions=statistics[ACTION], horizon=int(saved["chunk_size"])
        ),
    )
    return FoundContract(contract=contract, files=files)


def _read_buffers(weights: TensorSource) -> tuple[float, dict[str, FieldStatistics]] | None:
    """Return the statistics that the first port stored beside its weights; None if there are none."""
    found = {}
    for key, buffer in (
        (STATE, "normalize_inputs.buffer_observation_state"),
        (ACTION, "unnormalize_outputs.buffer_action"),
    ):
        names = {part: f"{buffer}.{part}" for part in ("mean", "std", "min", "max")}
        there = {
            part: tuple(weights.read(name).double().flatten().tolist())
            for part, name in names.items()
            if name in weights.infos
        }
        if {"mean", "std"} <= set(there):
            found[key] = FieldStatistics(
                mean=there["mean"],
                std=there["std"],
                minimum=there.get("min", ()),
                maximum=there.get("max", ()),
            )
    return (FIRST_EPSILON, found) if len(found) == 2 else None


def _read_normalizer(folder: Path) -> tuple[float, dict[str, FieldStatistics]]:
    """Return epsilon, and the statistics of state and actions."""
    path = folder / "policy_preprocessor.json"
    if not path.is_file():
        raise ValueError(f"expected LeRobot's {path.name} in {folder}, which names the statistics")
    steps = json.loads(path.read_text(encoding="utf-8")).get("steps", [])
    normalizers = [step for step in steps if step.get("registry_name") == "normalizer_processor"]
    if len(normalizers) != 1 or Path(str(normalizers[0].get("state_file"))).name != normalizers[0].get(
        "state_file"
    ):
        raise ValueError(f"{path}: expected one normalizer_processor with a state_file in the same folder")
    file = SafetensorsFile(folder / normalizers[0]["state_file"])

    def numbers(name: str) -> tuple[float, ...]:
        return tuple(file.read(name).double().flatten().tolist()) if name in file.infos else ()

    fields = {}
    for key in (STATE, ACTION):
        if f"{key}.mean" not in file.infos:
            raise ValueError(f"{file.description}: expected {key}.mean, found none")
        count = numbers(f"{key}.count")
        fields[key] = FieldStatistics(
            mean=numbers(f"{key}.mean"),
            std=numbers(f"{key}.std"),
            minimum=numbers(f"{key}.min"),
            maximum=numbers(f"{key}.max"),
            q01=numbers(f"{key}.q01"),
            q99=numbers(f"{key}.q99"),
            count=int(count[0]) if count else 0,
        )
    return float(normalizers[0]["config"].get("eps", 1e-8)), fields


def _embodiment(
    saved: dict[str, Any], statistics: dict[str, FieldStatistics], rate: float | None, folder: Path
) -> Embodiment:
    if rate is None:
        raise ValueError(
            f"{folder}: LeRobot's files do not tell the control rate; give it with --rate, in Hz, or name "
            f"a robot of the catalog with --robot"
        )
    features = saved.get("input_features") or {}
    cameras = tuple(
        Camera(name=name.removeprefix(IMAGES), height=shape[1], width=shape[2])
        for name, shape in ((name, feature["shape"]) for name, feature in features.items())
        if name.startswith(IMAGES) and not name.startswith(f"{IMAGES}empty_camera")
    )
    return Embodiment(
        name="lerobot",
        state=_dimensions("state", statistics[STATE], _width(saved, "input_features", STATE, folder)),
        actions=_dimensions("action", statistics[ACTION], _width(saved, "output_features", ACTION, folder)),
        cameras=cameras,
        rate=rate,
    )


def _dimensions(label: str, field: FieldStatistics, width: int) -> tuple[Dimension, ...]:
    low = field.minimum or tuple(torch.tensor(field.mean).sub(torch.tensor(field.std) * 5).tolist())
    high = field.maximum or tuple(torch.tensor(field.mean).add(torch.tensor(field.std) * 5).tolist())
    if len(low) != width:
        raise ValueError(f"LeRobot's statistics of the {label} have {len(low)} numbers, expected {width}")
    return tuple(
        Dimension(name=f"{label}_{i}", unit="unknown", kind="joint", low=low[i], high=high[i])
        for i in range(width)
    )


def _width(saved: dict[str, Any], group: str, name: str, folder: Path) -> int:
    try:
        return int(saved[group][name]["shape"][0])
    except (KeyError, TypeError, IndexError, ValueError):
        raise ValueError(f"{folder}/config.json: expected the shape of {name} in {group}") from None
