"""openpi's models in our names: the golden weights, inputs and gradients of each member of the family."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from pizero.models.build import ModelConfig, construct
from pizero.models.pi0 import Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.lora import LoRAConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.types import Inputs, Tokens
from pizero.weights.jax_names import jax_scheme

GOLDEN = Path(__file__).parent / "golden"
GRADIENT_STRIDE = 7
"""Every seventh number of a gradient is kept, and its norm."""

Golden = dict[str, np.ndarray]


@cache
def arrays(name: str) -> Golden:
    """Return all arrays of one golden `.npz` or `.safetensors` file."""
    path = GOLDEN / name
    return load_file(path) if path.suffix == ".safetensors" else dict(np.load(path))


def sizes_of(kind: str) -> dict[str, Any]:
    """Return the sizes that a golden folder's `config.json` tells."""
    return json.loads((GOLDEN / kind / "config.json").read_text(encoding="utf-8"))


def golden_config(kind: str = "pi0") -> Any:
    """Return the tiny model of which a golden folder holds weights and results."""
    sizes = sizes_of(kind)
    vision = sizes["siglip"]
    backbone = PaliGemmaConfig(
        vision=SigLIPConfig(**{name: vision[name] for name in ("width", "depth", "mlp_dim", "num_heads")}),
        language=GemmaConfig(**sizes["paligemma"]),
        vocab_size=sizes["vocab_size"],
    )
    shared = {"action_dim": sizes["action_dim"], "horizon": sizes["action_horizon"]}
    if "action_expert" not in sizes:
        return Pi0FASTConfig(backbone=backbone, max_new_tokens=sizes["max_decoding_steps"], **shared)
    expert = GemmaConfig(**sizes["action_expert"])
    if sizes["pi05"]:
        return Pi05Config(backbone=backbone, expert=replace(expert, conditioned=True), **shared)
    return Pi0Config(backbone=backbone, expert=expert, state_dim=sizes["action_dim"], **shared)


def with_lora(config: Any, lora: LoRAConfig) -> Any:
    """Return the config with adapters on both of its transformers."""
    backbone = replace(config.backbone, language=replace(config.backbone.language, lora=lora))
    return replace(config, backbone=backbone, expert=replace(config.expert, lora=lora))


def golden_model(kind: str = "pi0") -> Any:
    """Return that model with the golden weights."""
    model = construct(golden_config(kind))
    model.load_state_dict(from_openpi(arrays(f"{kind}/params_jax.safetensors"), golden_config(kind)))
    return model


def golden_inputs(kind: str = "pi0") -> Inputs:
    """Return the two observations that the golden results of π0 or π0.5 belong to."""
    raw = arrays(f"{kind}/inputs.npz")
    cameras = sizes_of(kind)["camera_order"]
    valid = torch.from_numpy(raw["tokenized_prompt_mask"])
    return Inputs(
        images=golden_images(kind),
        camera_valid=torch.from_numpy(np.stack([raw[f"image_mask_{camera}"] for camera in cameras], axis=1)),
        state=torch.from_numpy(raw["state"]),
        tokens=Tokens(
            ids=torch.from_numpy(raw["tokenized_prompt"]).long(),
            valid=valid,
            causal=torch.zeros_like(valid),
            target=torch.zeros_like(valid),
        ),
    )


def golden_fast_inputs(part: str, *, masked_camera: bool = False) -> Inputs:
    """Return π0-FAST's inputs of `part` "train" (with action tokens) or "infer" (the prompt alone)."""
    raw = arrays("pi0_fast/inputs.npz")
    cameras = sizes_of("pi0_fast")["camera_order"]
    masks = np.stack([raw[f"image_mask_variant_{camera}"] for camera in cameras], axis=1)
    valid = torch.from_numpy(raw[f"{part}_tokenized_prompt_mask"])
    nothing = torch.zeros_like(valid)
    train = part == "train"
    return Inputs(
        images=golden_images("pi0_fast"),
        camera_valid=torch.from_numpy(masks if masked_camera else np.ones_like(masks)),
        state=torch.from_numpy(raw["state"]),
        tokens=Tokens(
            ids=torch.from_numpy(raw[f"{part}_tokenized_prompt"]).long(),
            valid=valid,
            causal=torch.from_numpy(raw["train_token_ar_mask"]).bool() if train else nothing,
            target=torch.from_numpy(raw["train_token_loss_mask"]) if train else nothing,
        ),
    )


def golden_images(kind: str) -> Tensor:
    """Return the pictures of both observations, `uint8 [batch, camera, 3, h, w]`."""
    raw = arrays(f"{kind}/inputs.npz")
    pictures = [raw[f"image_{camera}"].transpose(0, 3, 1, 2) for camera in sizes_of(kind)["camera_order"]]
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures, axis=1)))


def from_openpi(golden: Golden, config: ModelConfig) -> dict[str, Tensor]:
    """Return openpi's tensors under our names and in our layout."""
    return {
        place.ours: place.layout.read(torch.from_numpy(golden[place.foreign])[place.index]).contiguous()
        for place in jax_scheme(config).places
    }


def gradient_mismatches(model: Any, kind: str, tolerance: float = 1e-4) -> list[str]:
    """Return the weights whose gradients are not openpi's, by sampled numbers and by norm.

    The tolerance is relative to the largest number of openpi's tensor, in which layers are stacked.
    """
    golden, wrong = arrays(f"{kind}/grads_jax.npz"), []
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    parts: dict[str, dict[tuple[int, ...], Tensor]] = {}
    for place in jax_scheme(model.config).places:
        parts.setdefault(place.foreign, {})[place.index] = place.layout.write(gradients[place.ours])
    for name, by_index in parts.items():
        shape = tuple(max(column) + 1 for column in zip(*by_index, strict=True))
        stacked = torch.stack([by_index[index] for index in sorted(by_index)])
        flat = stacked.unflatten(0, shape).flatten() if shape else stacked.flatten()
        largest = float(golden[f"{name}:largest"])
        sample = torch.from_numpy(golden[f"{name}:sample"])
        # A key's bias shifts all logits of a row alike: its gradient is 0 but for rounding, hence 1e-7.
        distance = (flat[::GRADIENT_STRIDE] - sample).abs().max().item()
        norm = float(golden[f"{name}:norm"])
        norm_distance = abs(flat.double().norm().item() - norm)
        rounding = 1e-7 * flat.numel() ** 0.5
        if distance > tolerance * largest + 1e-7 or norm_distance > tolerance * norm + rounding:
            wrong.append(f"{name}: {distance:.1e} of {largest:.1e}, norm off by {norm_distance:.1e}")
    return wrong
