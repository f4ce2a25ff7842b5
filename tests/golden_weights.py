"""openpi's π0 in our names: the golden weights, inputs and gradients as `Pi0` has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from pizero.models.pi0 import Pi0, Pi0Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.types import Inputs, Tokens

GOLDEN = Path(__file__).parent / "golden"

Golden = dict[str, np.ndarray]
Pairs = Iterator[tuple[str, np.ndarray]]


@cache
def arrays(name: str) -> Golden:
    """Return all arrays of one golden `.npz` or `.safetensors` file."""
    path = GOLDEN / name
    return load_file(path) if path.suffix == ".safetensors" else dict(np.load(path))


def golden_config() -> Pi0Config:
    """Return the tiny π0 of which the golden files hold weights and results."""
    sizes = json.loads((GOLDEN / "pi0" / "config.json").read_text(encoding="utf-8"))
    vision = sizes["siglip"]
    return Pi0Config(
        backbone=PaliGemmaConfig(
            vision=SigLIPConfig(
                **{name: vision[name] for name in ("width", "depth", "mlp_dim", "num_heads")}
            ),
            language=GemmaConfig(**sizes["paligemma"]),
            vocab_size=sizes["vocab_size"],
        ),
        expert=GemmaConfig(**sizes["action_expert"]),
        state_dim=sizes["action_dim"],
        action_dim=sizes["action_dim"],
        horizon=sizes["action_horizon"],
    )


def golden_model() -> Pi0:
    """Return that π0 with the golden weights."""
    model = Pi0(golden_config())
    model.load_state_dict(from_openpi(arrays("pi0/params_jax.safetensors"), model.config))
    return model


def golden_inputs() -> Inputs:
    """Return the two observations that the golden results belong to."""
    raw = arrays("pi0/inputs.npz")
    cameras = json.loads((GOLDEN / "pi0" / "config.json").read_text(encoding="utf-8"))["camera_order"]
    images = np.stack([raw[f"image_{camera}"].transpose(0, 3, 1, 2) for camera in cameras], axis=1)
    valid = torch.from_numpy(raw["tokenized_prompt_mask"])
    return Inputs(
        images=torch.from_numpy(np.ascontiguousarray(images)),
        camera_valid=torch.from_numpy(np.stack([raw[f"image_mask_{camera}"] for camera in cameras], axis=1)),
        state=torch.from_numpy(raw["state"]),
        tokens=Tokens(
            ids=torch.from_numpy(raw["tokenized_prompt"]).long(),
            valid=valid,
            causal=torch.zeros_like(valid),
            target=torch.zeros_like(valid),
        ),
    )


def from_openpi(golden: Golden, config: Pi0Config) -> dict[str, Tensor]:
    """Return openpi's tensors under our names and in our layout.

    Only axes are moved, so that gradients map exactly as weights do. openpi keeps a linear map as `[in, out]`
    (we: `[out, in]`), attention heads on an axis of their own, and all layers stacked on the first axis.
    """
    ours = {
        **{f"backbone.vision.{name}": value for name, value in _siglip(golden, config.backbone.vision.depth)},
        "backbone.embedding": golden["PaliGemma/llm/embedder/input_embedding"],
        **{f"backbone.language.{name}": value for name, value in _gemma(golden, config.expert.depth, "")},
        **{f"expert.{name}": value for name, value in _gemma(golden, config.expert.depth, "_1")},
    }
    projections = {
        "state_in": "state_proj",
        "action_in": "action_in_proj",
        "action_time_in": "action_time_mlp_in",
        "action_time_out": "action_time_mlp_out",
        "action_out": "action_out_proj",
    }
    for name, theirs in projections.items():
        ours[f"{name}.weight"] = golden[f"{theirs}/kernel"].T
        ours[f"{name}.bias"] = golden[f"{theirs}/bias"]
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in ours.items()}


def _siglip(golden: Golden, depth: int) -> Pairs:
    root = "PaliGemma/img"
    yield "patches.weight", golden[f"{root}/embedding/kernel"].transpose(3, 2, 0, 1)
    yield "patches.bias", golden[f"{root}/embedding/bias"]
    yield "position_embedding", golden[f"{root}/pos_embedding"][0]
    yield "final_norm.scale", golden[f"{root}/Transformer/encoder_norm/scale"]
    yield "final_norm.bias", golden[f"{root}/Transformer/encoder_norm/bias"]
    yield "head.weight", golden[f"{root}/head/kernel"].T
    yield "head.bias", golden[f"{root}/head/bias"]
    block = f"{root}/Transformer/encoderblock"
    attention, mlp = f"{block}/MultiHeadDotProductAttention_0", f"{block}/MlpBlock_0"
    for index in range(depth):
        layer = f"layers.{index}"
        for name, theirs in (("attention_norm", "LayerNorm_0"), ("feed_forward_norm", "LayerNorm_1")):
            yield f"{layer}.{name}.scale", golden[f"{block}/{theirs}/scale"][index]
            yield f"{layer}.{name}.bias", golden[f"{block}/{theirs}/bias"][index]
        for name in ("query", "key", "value"):
            kernel = golden[f"{attention}/{name}/kernel"][index]  # [width, head, head_dim]
            yield f"{layer}.{name}.weight", kernel.reshape(len(kernel), -1).T
            yield f"{layer}.{name}.bias", golden[f"{attention}/{name}/bias"][index].reshape(-1)
        kernel = golden[f"{attention}/out/kernel"][index]  # [head, head_dim, width]
        yield f"{layer}.output.weight", kernel.reshape(-1, kernel.shape[-1]).T
        yield f"{layer}.output.bias", golden[f"{attention}/out/bias"][index]
        for name, theirs in (("up", "Dense_0"), ("down", "Dense_1")):
            yield f"{layer}.{name}.weight", golden[f"{mlp}/{theirs}/kernel"][index].T
            yield f"{layer}.{name}.bias", golden[f"{mlp}/{theirs}/bias"][index]


def _gemma(golden: Golden, depth: int, expert: str) -> Pairs:
    root = "PaliGemma/llm"
    yield "final_norm.scale", golden[f"{root}/final_norm{expert}/scale"]
    for index in range(depth):
        layer = f"layers.{index}"
        yield (
            f"{layer}.attention_norm.scale",
            golden[f"{root}/layers/pre_attention_norm{expert}/scale"][index],
        )
        yield f"{layer}.feed_forward_norm.scale", golden[f"{root}/layers/pre_ffw_norm{expert}/scale"][index]
        queries = golden[f"{root}/layers/attn/q_einsum{expert}/w"][index]  # [head, width, head_dim]
        keys, values = golden[f"{root}/layers/attn/kv_einsum{expert}/w"][index]  # [kv_head, width, head_dim]
        for name, heads in (("query", queries), ("key", keys), ("value", values)):
            yield f"{layer}.attention.{name}.weight", heads.transpose(0, 2, 1).reshape(-1, heads.shape[1])
        output = golden[f"{root}/layers/attn/attn_vec_einsum{expert}/w"][index]  # [head, head_dim, width]
        yield f"{layer}.attention.output.weight", output.reshape(-1, output.shape[-1]).T
        gate, up = golden[f"{root}/layers/mlp{expert}/gating_einsum"][index]  # [width, mlp_dim]
        yield f"{layer}.feed_forward.gate.weight", gate.T
        yield f"{layer}.feed_forward.up.weight", up.T
        yield f"{layer}.feed_forward.down.weight", golden[f"{root}/layers/mlp{expert}/linear"][index].T
