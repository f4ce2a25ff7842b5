"""The names of openpi's JAX checkpoints, and of PaliGemma's, which are their first part.

All layers of a transformer are stacked on the first axis; a linear map is `[in, out]`, an attention head has
an axis of its own (openpi, `models/gemma.py` and `models/siglip.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from pizero.models.build import ComputeDtype, ModelConfig
from pizero.models.pi0 import Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.lora import LoRAConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.weights.keymap import TRANSPOSED, Layout, NameScheme, Place, check_sizes_told
from pizero.weights.tensors import TensorInfo

IMAGES, LANGUAGE = "PaliGemma/img", "PaliGemma/llm"
BLOCK = f"{IMAGES}/Transformer/encoderblock"
PI0_PROJECTIONS = {
    "state_in": "state_proj",
    "action_in": "action_in_proj",
    "action_time_in": "action_time_mlp_in",
    "action_time_out": "action_time_mlp_out",
    "action_out": "action_out_proj",
}
PI05_PROJECTIONS = {
    "action_in": "action_in_proj",
    "time_in": "time_mlp_in",
    "time_out": "time_mlp_out",
    "action_out": "action_out_proj",
}


def is_jax(infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether these are names of openpi's JAX code, or of a PaliGemma archive."""
    return any(re.match(r"(PaliGemma/)?(img|llm)/", name) for name in infos)


def with_root(infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether the names begin with `PaliGemma/`; those of a PaliGemma archive do not."""
    return any(name.startswith("PaliGemma/") for name in infos)


def infer_config(
    infos: Mapping[str, TensorInfo], *, horizon: int, compute_dtype: ComputeDtype
) -> ModelConfig:
    """Return the config of the model whose tensors these are, from their names and shapes alone.

    The horizon is not written in any tensor. ValueError names the tensors without which nothing can be said.
    """
    root = "" if with_root(infos) else "PaliGemma/"

    telling = [
        f"{IMAGES}/embedding/kernel",
        f"{IMAGES}/pos_embedding",
        f"{BLOCK}/MlpBlock_0/Dense_0/kernel",
        f"{BLOCK}/MultiHeadDotProductAttention_0/query/kernel",
        f"{LANGUAGE}/embedder/input_embedding",
    ]
    is_fast = not any(name.startswith("action_") for name in infos)
    for expert in ("",) if is_fast else ("", "_1"):
        layers = f"{LANGUAGE}/layers"
        telling += [f"{layers}/attn/{einsum}{expert}/w" for einsum in ("q_einsum", "kv_einsum")]
        telling.append(f"{layers}/mlp{expert}/linear")
    conditioned = f"{LANGUAGE}/final_norm_1/Dense_0/kernel" in infos
    telling += [] if is_fast else ["action_in_proj/kernel"]
    telling += [] if is_fast or conditioned else ["state_proj/kernel"]
    check_sizes_told([name.removeprefix(root) for name in telling], infos, "openpi JAX")

    def shape(name: str) -> tuple[int, ...]:
        return infos[name.removeprefix(root)].shape

    patch, _, _, vision_width = shape(f"{IMAGES}/embedding/kernel")
    vision_depth, _, vision_mlp = shape(f"{BLOCK}/MlpBlock_0/Dense_0/kernel")
    num_heads = shape(f"{BLOCK}/MultiHeadDotProductAttention_0/query/kernel")[2]
    num_tokens = shape(f"{IMAGES}/pos_embedding")[1]
    backbone = PaliGemmaConfig(
        vision=SigLIPConfig(
            width=vision_width,
            depth=vision_depth,
            mlp_dim=vision_mlp,
            num_heads=num_heads,
            patch_size=patch,
            image_size=patch * round(num_tokens**0.5),
        ),
        language=_infer_gemma(shape, infos, root, ""),
        vocab_size=shape(f"{LANGUAGE}/embedder/input_embedding")[0],
    )
    if is_fast:
        return Pi0FASTConfig(backbone=backbone, horizon=horizon, compute_dtype=compute_dtype)
    expert = _infer_gemma(shape, infos, root, "_1")
    action_dim = shape("action_in_proj/kernel")[0]
    if expert.conditioned:
        return Pi05Config(
            backbone=backbone,
            expert=expert,
            action_dim=action_dim,
            horizon=horizon,
            compute_dtype=compute_dtype,
        )
    return Pi0Config(
        backbone=backbone,
        expert=expert,
        state_dim=shape("state_proj/kernel")[0],
        action_dim=action_dim,
        horizon=horizon,
        compute_dtype=compute_dtype,
    )


def jax_scheme(config: ModelConfig, *, root: bool = True) -> NameScheme:
    """Return the JAX names of a model; without `root`, those of a PaliGemma archive."""
    places = [*_siglip(config), *_gemma("backbone.language", config.backbone.language, "")]
    places.append(Place(ours="backbone.embedding", foreign=f"{LANGUAGE}/embedder/input_embedding"))
    if not isinstance(config, Pi0FASTConfig):
        places += _gemma("expert", config.expert, "_1")
        projections = PI0_PROJECTIONS if isinstance(config, Pi0Config) else PI05_PROJECTIONS
        for ours, foreign in projections.items():
            places += _dense(ours, foreign)
    if not root:
        places = [
            Place(
                ours=place.ours,
                foreign=place.foreign.removeprefix("PaliGemma/"),
                index=place.index,
                layout=place.layout,
            )
            for place in places
        ]
    return NameScheme(name="openpi JAX" if root else "PaliGemma", places=tuple(places))


def _infer_gemma(
    shape: Callable[[str], tuple[int, ...]], infos: Mapping[str, TensorInfo], root: str, expert: str
) -> GemmaConfig:
    layers = f"{LANGUAGE}/layers"
    depth, num_heads, width, head_dim = shape(f"{layers}/attn/q_einsum{expert}/w")
    adapter = f"{layers}/attn/q_einsum{expert}/lora_a".removeprefix(root)
    lora = None
    if adapter in infos:
        rank = infos[adapter].shape[-1]
        feed_forward_rank = shape(f"{layers}/mlp{expert}/linear_lora_a")[-1]
        lora = LoRAConfig(
            attention_rank=rank, attention_alpha=float(rank), feed_forward_rank=feed_forward_rank
        )
    return GemmaConfig(
        width=width,
        depth=depth,
        mlp_dim=shape(f"{layers}/mlp{expert}/linear")[1],
        num_heads=num_heads,
        num_kv_heads=shape(f"{layers}/attn/kv_einsum{expert}/w")[2],
        head_dim=head_dim,
        conditioned=f"{LANGUAGE}/final_norm{expert}/Dense_0/kernel".removeprefix(root) in infos,
        lora=lora,
    )


def _dense(ours: str, foreign: str, index: tuple[int, ...] = ()) -> Iterator[Place]:
    yield Place(ours=f"{ours}.weight", foreign=f"{foreign}/kernel", index=index, layout=TRANSPOSED)
    yield Place(ours=f"{ours}.bias", foreign=f"{foreign}/bias", index=index)


def _siglip(config: ModelConfig) -> Iterator[Place]:
    vision, ours = config.backbone.vision, "backbone.vision"
    if not isinstance(vision, SigLIPConfig):
        raise ValueError(f"openpi's image encoder is a SigLIP; this model's is a {type(vision).__name__}")
    heads = (vision.num_heads, vision.width // vision.num_heads)
    into = Layout(order=(1, 2, 0), merge=0, heads=heads)  # [width, head, head_dim]
    out = Layout(order=(2, 0, 1), merge=1, heads=heads)  # [head, head_dim, width]
    yield Place(
        ours=f"{ours}.patches.weight",
        foreign=f"{IMAGES}/embedding/kernel",
        layout=Layout(order=(3, 2, 0, 1)),
    )
    yield Place(ours=f"{ours}.patches.bias", foreign=f"{IMAGES}/embedding/bias")
    yield Place(ours=f"{ours}.position_embedding", foreign=f"{IMAGES}/pos_embedding", index=(0,))
    for part in ("scale", "bias"):
        yield Place(ours=f"{ours}.final_norm.{part}", foreign=f"{IMAGES}/Transformer/encoder_norm/{part}")
    yield from _dense(f"{ours}.head", f"{IMAGES}/head")
    attention = f"{BLOCK}/MultiHeadDotProductAttention_0"
    for index in range(vision.depth):
        layer, at = f"{ours}.layers.{index}", (index,)
        for norm, foreign in (("attention_norm", "LayerNorm_0"), ("feed_forward_norm", "LayerNorm_1")):
            for part in ("scale", "bias"):
                yield Place(ours=f"{layer}.{norm}.{part}", foreign=f"{BLOCK}/{foreign}/{part}", index=at)
        for name in ("query", "key", "value"):
            theirs = f"{attention}/{name}"
            yield Place(ours=f"{layer}.{name}.weight", foreign=f"{theirs}/kernel", index=at, layout=into)
            yield Place(
                ours=f"{layer}.{name}.bias",
                foreign=f"{theirs}/bias",
                index=at,
                layout=Layout(merge=0, heads=heads),
            )
        yield Place(ours=f"{layer}.output.weight", foreign=f"{attention}/out/kernel", index=at, layout=out)
        yield Place(ours=f"{layer}.output.bias", foreign=f"{attention}/out/bias", index=at)
        for name, foreign in (("up", "Dense_0"), ("down", "Dense_1")):
            yield from _dense(f"{layer}.{name}", f"{BLOCK}/MlpBlock_0/{foreign}", at)


def _gemma(ours: str, config: GemmaConfig, expert: str) -> Iterator[Place]:
    layers = f"{LANGUAGE}/layers"
    attention, mlp = f"{layers}/attn", f"{layers}/mlp{expert}"
    yield from _norm(f"{ours}.final_norm", f"{LANGUAGE}/final_norm{expert}", config, ())
    for index in range(config.depth):
        layer = f"{ours}.layers.{index}"
        for name, foreign in (
            ("attention_norm", "pre_attention_norm"),
            ("feed_forward_norm", "pre_ffw_norm"),
        ):
            yield from _norm(f"{layer}.{name}", f"{layers}/{foreign}{expert}", config, (index,))
        for name, foreign, at, num_heads in (
            ("query", "q_einsum", (index,), config.num_heads),
            ("key", "kv_einsum", (index, 0), config.num_kv_heads),
            ("value", "kv_einsum", (index, 1), config.num_kv_heads),
        ):
            theirs, linear = f"{attention}/{foreign}{expert}", f"{layer}.attention.{name}"
            into = Layout(order=(0, 2, 1), merge=0, heads=(num_heads, config.head_dim))
            yield Place(ours=f"{linear}.weight", foreign=f"{theirs}/w", index=at, layout=into)
            yield from _adapter(linear, theirs, at, config, Layout(order=(0, 2, 1)))
        theirs, linear = f"{attention}/attn_vec_einsum{expert}", f"{layer}.attention.output"
        out = Layout(order=(2, 0, 1), merge=1, heads=(config.num_heads, config.head_dim))
        yield Place(ours=f"{linear}.weight", foreign=f"{theirs}/w", index=(index,), layout=out)
        yield from _adapter(linear, theirs, (index,), config, Layout(order=(0, 2, 1)))
        for name, foreign, at in (
            ("gate", "gating_einsum", (index, 0)),
            ("up", "gating_einsum", (index, 1)),
            ("down", "linear", (index,)),
        ):
            linear = f"{layer}.feed_forward.{name}"
            yield Place(ours=f"{linear}.weight", foreign=f"{mlp}/{foreign}", index=at, layout=TRANSPOSED)
            if config.lora is not None:
                for part in ("lora_a", "lora_b"):
                    yield Place(
                        ours=f"{linear}.{part}",
                        foreign=f"{mlp}/{foreign}_{part}",
                        index=at,
                        layout=Layout(order=(1, 0), new_axis=True),
                    )


def _norm(ours: str, foreign: str, config: GemmaConfig, index: tuple[int, ...]) -> Iterator[Place]:
    if config.conditioned:
        yield from _dense(f"{ours}.modulation", f"{foreign}/Dense_0", index)
    else:
        yield Place(ours=f"{ours}.scale", foreign=f"{foreign}/scale", index=index)


def _adapter(
    ours: str, foreign: str, index: tuple[int, ...], config: GemmaConfig, layout: Layout
) -> Iterator[Place]:
    if config.lora is not None:
        for part in ("lora_a", "lora_b"):
            yield Place(ours=f"{ours}.{part}", foreign=f"{foreign}/{part}", index=index, layout=layout)
