"""The names of openpi's PyTorch port and of LeRobot: those of the transformers library, behind prefixes.

Layouts are ours throughout. The token embedding is tied to the language model's output layer, and files hold
one or the other, or both; the expert's output layer is stored, random and never read (openpi,
`gemma_pytorch.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pizero.models.build import ComputeDtype, ModelConfig
from pizero.models.pi0 import Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.weights.jax_names import PI0_PROJECTIONS, PI05_PROJECTIONS
from pizero.weights.keymap import NameScheme, Place, check_sizes_told
from pizero.weights.tensors import TensorInfo

NUM_HEADS, NUM_KV_HEADS = 8, 1
"""Attention heads of every Gemma that openpi knows; no PyTorch name or shape tells them."""

KNOWN_VISION_HEADS = {1152: 16}
"""Attention heads of a SigLIP by its width: So400m has 16."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The prefixes of one PyTorch naming."""

    name: str
    vision: str
    projector: str
    language: str
    output: str
    expert: str
    projections: str
    writes_both_embeddings: bool = False
    expert_embedding: bool = False

    @property
    def embedding(self) -> str:
        """Return the name of the token embedding."""
        return f"{self.language}.embed_tokens.weight"

    @property
    def expert_output(self) -> str:
        """Return the name of the expert's unused output layer."""
        return f"{self.expert.removesuffix('.model')}.lm_head.weight"


_BOTH = "paligemma_with_expert"
OPENPI = Naming(
    name="openpi PyTorch",
    vision=f"{_BOTH}.paligemma.model.vision_tower.vision_model",
    projector=f"{_BOTH}.paligemma.model.multi_modal_projector.linear",
    language=f"{_BOTH}.paligemma.model.language_model",
    output=f"{_BOTH}.paligemma.lm_head.weight",
    expert=f"{_BOTH}.gemma_expert.model",
    projections="",
)
LEROBOT = replace(
    OPENPI,
    name="LeRobot",
    vision=f"model.{OPENPI.vision}",
    projector=f"model.{OPENPI.projector}",
    language=f"model.{OPENPI.language}",
    output=f"model.{OPENPI.output}",
    expert=f"model.{OPENPI.expert}",
    projections="model.",
    writes_both_embeddings=True,
)
FIRST_LEROBOT = Naming(
    name="LeRobot (first π0 port)",
    vision=f"model.{_BOTH}.paligemma.vision_tower.vision_model",
    projector=f"model.{_BOTH}.paligemma.multi_modal_projector.linear",
    language=f"model.{_BOTH}.paligemma.language_model.model",
    output=f"model.{_BOTH}.paligemma.language_model.lm_head.weight",
    expert=f"model.{_BOTH}.gemma_expert.model",
    projections="model.",
    expert_embedding=True,
)
NAMINGS = (OPENPI, LEROBOT, FIRST_LEROBOT)

NORMALIZER_BUFFERS = re.compile(
    r"(normalize_inputs|normalize_targets|unnormalize_outputs)\.buffer_\w+\.(mean|std|min|max)"
)
"""Statistics that LeRobot's first port stored beside the weights; they are read apart from them."""


def find_naming(infos: Mapping[str, TensorInfo]) -> Naming | None:
    """Return the naming whose image encoder and language model the names have; None if there is none."""
    for naming in NAMINGS:
        if any(name.startswith(f"{naming.vision}.") for name in infos) and any(
            name.startswith(f"{naming.language}.layers.") for name in infos
        ):
            return naming
    return None


def infer_config(
    infos: Mapping[str, TensorInfo],
    naming: Naming,
    *,
    horizon: int,
    compute_dtype: ComputeDtype,
    vision_heads: int | None = None,
) -> ModelConfig:
    """Return the config of the model whose tensors these are, from their names and shapes.

    ValueError names the tensors without which nothing can be said, and asks for the number of the image
    encoder's heads where its width is not a published one.
    """

    prefix = naming.projections
    is_fast = not any(name.startswith(f"{prefix}action_") for name in infos)
    conditioned = f"{naming.expert}.norm.dense.weight" in infos
    embedding = naming.embedding if naming.embedding in infos else naming.output
    telling = [
        f"{naming.vision}.embeddings.patch_embedding.weight",
        f"{naming.vision}.embeddings.position_embedding.weight",
        f"{naming.vision}.encoder.layers.0.mlp.fc1.weight",
        embedding,
    ]
    for gemma_prefix in (naming.language,) if is_fast else (naming.language, naming.expert):
        telling += [
            f"{gemma_prefix}.layers.0.{name}.weight" for name in ("mlp.gate_proj", "self_attn.q_proj")
        ]
    telling += [] if is_fast else [f"{prefix}action_in_proj.weight"]
    telling += [] if is_fast or conditioned else [f"{prefix}state_proj.weight"]
    check_sizes_told(telling, infos, naming.name)

    def shape(name: str) -> tuple[int, ...]:
        return infos[name].shape

    def gemma(prefix: str) -> GemmaConfig:
        mlp_dim, width = shape(f"{prefix}.layers.0.mlp.gate_proj.weight")
        heads_width = shape(f"{prefix}.layers.0.self_attn.q_proj.weight")[0]
        return GemmaConfig(
            width=width,
            depth=_num_layers(infos, f"{prefix}.layers."),
            mlp_dim=mlp_dim,
            num_heads=NUM_HEADS,
            num_kv_heads=NUM_KV_HEADS,
            head_dim=heads_width // NUM_HEADS,
            conditioned=f"{prefix}.norm.dense.weight" in infos,
        )

    width, _, patch, _ = shape(f"{naming.vision}.embeddings.patch_embedding.weight")
    num_heads = vision_heads or KNOWN_VISION_HEADS.get(width)
    if num_heads is None:
        raise ValueError(
            f"the image encoder has a width of {width}, and no tensor tells its number of attention heads "
            f"(known: {KNOWN_VISION_HEADS}); give it with --vision-heads"
        )
    num_tokens = shape(f"{naming.vision}.embeddings.position_embedding.weight")[0]
    backbone = PaliGemmaConfig(
        vision=SigLIPConfig(
            width=width,
            depth=_num_layers(infos, f"{naming.vision}.encoder.layers."),
            mlp_dim=shape(f"{naming.vision}.encoder.layers.0.mlp.fc1.weight")[0],
            num_heads=num_heads,
            patch_size=patch,
            image_size=patch * round(num_tokens**0.5),
        ),
        language=gemma(naming.language),
        vocab_size=shape(embedding)[0],
    )
    if is_fast:
        return Pi0FASTConfig(backbone=backbone, horizon=horizon, compute_dtype=compute_dtype)
    expert, action_dim = gemma(naming.expert), shape(f"{prefix}action_in_proj.weight")[1]
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
        state_dim=shape(f"{prefix}state_proj.weight")[1],
        action_dim=action_dim,
        horizon=horizon,
        compute_dtype=compute_dtype,
    )


def torch_scheme(config: ModelConfig, naming: Naming) -> NameScheme:
    """Return the names of a model in one PyTorch naming; ValueError for a model that it does not have."""
    fast = isinstance(config, Pi0FASTConfig)
    if fast and naming is not LEROBOT:
        raise ValueError(f"{naming.name} has no π0-FAST; its weights can be written in LeRobot's names")
    if config.backbone.language.lora or (not isinstance(config, Pi0FASTConfig) and config.expert.lora):
        raise ValueError(f"{naming.name} has no adapters; merge them first (pizero convert --merge-lora)")
    places = [
        *_siglip(config, naming),
        *_gemma("backbone.language", config.backbone.language, naming.language),
    ]
    places.append(Place(ours="backbone.embedding", foreign=naming.output))
    unused: dict[str, tuple[int, ...]] = {}
    if not isinstance(config, Pi0FASTConfig):
        places += _gemma("expert", config.expert, naming.expert)
        for ours, foreign in (PI0_PROJECTIONS if isinstance(config, Pi0Config) else PI05_PROJECTIONS).items():
            places += _linear(ours, f"{naming.projections}{foreign}")
        vocabulary = (config.backbone.vocab_size, config.expert.width)
        unused[naming.expert_output] = vocabulary
        if naming.expert_embedding:
            unused[f"{naming.expert}.embed_tokens.weight"] = vocabulary
    return NameScheme(
        name=naming.name,
        places=tuple(places),
        aliases={naming.embedding: naming.output},
        copies=frozenset({naming.embedding} if naming.writes_both_embeddings else ()),
        unused=unused,
    )


def _num_layers(infos: Mapping[str, TensorInfo], prefix: str) -> int:
    indices = [name.removeprefix(prefix).partition(".")[0] for name in infos if name.startswith(prefix)]
    return max((int(index) for index in indices if index.isdecimal()), default=-1) + 1


def _linear(ours: str, foreign: str) -> Iterator[Place]:
    for part in ("weight", "bias"):
        yield Place(ours=f"{ours}.{part}", foreign=f"{foreign}.{part}")


def _layer_norm(ours: str, foreign: str) -> Iterator[Place]:
    yield Place(ours=f"{ours}.scale", foreign=f"{foreign}.weight")
    yield Place(ours=f"{ours}.bias", foreign=f"{foreign}.bias")


def _siglip(config: ModelConfig, naming: Naming) -> Iterator[Place]:
    vision, ours, theirs = config.backbone.vision, "backbone.vision", naming.vision
    if not isinstance(vision, SigLIPConfig):
        raise ValueError(
            f"{naming.name}'s image encoder is a SigLIP; this model's is {type(vision).__name__}"
        )
    yield from _linear(f"{ours}.patches", f"{theirs}.embeddings.patch_embedding")
    yield Place(ours=f"{ours}.position_embedding", foreign=f"{theirs}.embeddings.position_embedding.weight")
    yield from _layer_norm(f"{ours}.final_norm", f"{theirs}.post_layernorm")
    yield from _linear(f"{ours}.head", naming.projector)
    for index in range(vision.depth):
        layer, foreign = f"{ours}.layers.{index}", f"{theirs}.encoder.layers.{index}"
        yield from _layer_norm(f"{layer}.attention_norm", f"{foreign}.layer_norm1")
        yield from _layer_norm(f"{layer}.feed_forward_norm", f"{foreign}.layer_norm2")
        for name, projection in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
            yield from _linear(f"{layer}.{name}", f"{foreign}.self_attn.{projection}_proj")
        yield from _linear(f"{layer}.up", f"{foreign}.mlp.fc1")
        yield from _linear(f"{layer}.down", f"{foreign}.mlp.fc2")


def _gemma(ours: str, config: GemmaConfig, theirs: str) -> Iterator[Place]:
    def norm(name: str, foreign: str) -> Iterator[Place]:
        if config.conditioned:
            yield from _linear(f"{name}.modulation", f"{foreign}.dense")
        else:
            yield Place(ours=f"{name}.scale", foreign=f"{foreign}.weight")

    yield from norm(f"{ours}.final_norm", f"{theirs}.norm")
    for index in range(config.depth):
        layer, foreign = f"{ours}.layers.{index}", f"{theirs}.layers.{index}"
        yield from norm(f"{layer}.attention_norm", f"{foreign}.input_layernorm")
        yield from norm(f"{layer}.feed_forward_norm", f"{foreign}.post_attention_layernorm")
        for name, projection in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            yield Place(
                ours=f"{layer}.attention.{name}.weight",
                foreign=f"{foreign}.self_attn.{projection}_proj.weight",
            )
        for name in ("gate", "up", "down"):
            yield Place(
                ours=f"{layer}.feed_forward.{name}.weight", foreign=f"{foreign}.mlp.{name}_proj.weight"
            )
