"""Small valid things to test with, and hypothesis strategies that draw many of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import numpy as np
import torch
from hypothesis import strategies as st

from pizero.contract import Contract, FieldStatistics, Statistics
from pizero.generative.flow import BetaTime, FlowMatching
from pizero.models.pi0 import Pi0, Pi0Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.nn.vision import ResNetConfig
from pizero.robots import CATALOG, NAVIGATION2D, Camera, Dimension, Embodiment
from pizero.training.config import TrainConfig
from pizero.training.optimizer import OptimizerConfig
from pizero.types import Inputs, Observation, Tokens

TINY_GEMMA = GemmaConfig(width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=2, head_dim=8)

TINY_PI0 = Pi0Config(
    backbone=PaliGemmaConfig(
        vision=ResNetConfig(
            image_size=16,
            stem_stride=4,
            widths=(8, 16),
            blocks=(1, 1),
            strides=(1, 2),
            num_groups=4,
            num_tokens=4,
        ),
        language=TINY_GEMMA,
        vocab_size=259,
    ),
    expert=GemmaConfig(width=12, depth=2, mlp_dim=20, num_heads=2, num_kv_heads=2, head_dim=8),
    state_dim=2,
    action_dim=2,
    horizon=3,
)
"""A π0 of a few thousand weights, whose two transformers differ in width and in query heads."""


def field_statistics(num_dimensions: int, seed: int = 0) -> FieldStatistics:
    """Return plausible statistics: minimum ≤ q01 ≤ mean ≤ q99 ≤ maximum."""
    rng = np.random.default_rng(seed)
    values = rng.normal(
        rng.normal(size=num_dimensions), rng.uniform(0.1, 2.0, num_dimensions), (500, num_dimensions)
    )
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return FieldStatistics(
        mean=tuple(values.mean(axis=0).tolist()),
        std=tuple(values.std(axis=0).tolist()),
        minimum=tuple(values.min(axis=0).tolist()),
        maximum=tuple(values.max(axis=0).tolist()),
        q01=tuple(low.tolist()),
        q99=tuple(high.tolist()),
        count=len(values),
    )


def contract(embodiment: Embodiment = NAVIGATION2D) -> Contract:
    """Return a contract for a robot of the catalog that fits `TINY_PI0`."""
    return Contract(
        embodiment=embodiment,
        image_size=16,
        max_tokens=24,
        horizon=3,
        normalization="zscore",
        statistics=Statistics(
            state=field_statistics(embodiment.state_dim, seed=1),
            actions=field_statistics(embodiment.action_dim, seed=2),
        ),
    )


def observation(embodiment: Embodiment = NAVIGATION2D, seed: int = 0) -> Observation:
    """Return random pictures and a random state of a robot."""
    rng = np.random.default_rng(seed)
    return Observation(
        images={
            camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
            for camera in embodiment.cameras
        },
        state=rng.normal(size=embodiment.state_dim).astype(np.float32),
        instruction="go to the red disc",
    )


def tiny_inputs(batch: int = 2, seed: int = 0) -> Inputs:
    """Return random model inputs for `TINY_PI0`: two cameras, the second missing in the last row, and padded
    text.
    """
    generator = torch.Generator().manual_seed(seed)
    camera_valid = torch.ones(batch, 2, dtype=torch.bool)
    camera_valid[-1, 1] = False
    ids = torch.randint(3, 259, (batch, 7), generator=generator)
    valid = torch.arange(7) < torch.arange(4, 4 + batch)[:, None]
    nothing = torch.zeros_like(valid)
    return Inputs(
        images=torch.randint(0, 256, (batch, 2, 3, 16, 16), generator=generator, dtype=torch.uint8),
        camera_valid=camera_valid,
        state=torch.randn(batch, 2, generator=generator),
        tokens=Tokens(ids=torch.where(valid, ids, 0), valid=valid, causal=nothing, target=nothing),
    )


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch type checks off while drawing: beartype picks what it checks by `random`, which hypothesis
    forbids.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8"), max_size=12)
sizes = st.integers(1, 4096)


@st.composite
def statistics_of(draw: st.DrawFn, num_dimensions: int) -> FieldStatistics:
    """Draw statistics whose numbers are in order, degenerate dimensions included."""
    with unchecked():
        number = st.floats(-1e3, 1e3)
        rows = [sorted(draw(st.tuples(*[number] * 5))) for _ in range(num_dimensions)]
        minimum, q01, mean, q99, maximum = zip(*rows, strict=True)
        std = draw(st.tuples(*[st.one_of(st.just(0.0), st.floats(1e-3, 1e3))] * num_dimensions))
        return FieldStatistics(
            mean=mean,
            std=std,
            minimum=minimum,
            maximum=maximum,
            q01=q01,
            q99=q99,
            count=draw(st.integers(1, 10**9)),
        )


def tuples(items: st.SearchStrategy, *, least: int) -> st.SearchStrategy[tuple]:
    """Return a strategy of tuples of `least` to three items."""
    return st.lists(items, min_size=least, max_size=3).map(tuple)


@st.composite
def embodiments(draw: st.DrawFn) -> Embodiment:
    """Draw a robot of the catalog, or one of no sense that could be."""
    if draw(st.booleans()):
        return draw(st.sampled_from(list(CATALOG.values())))
    kinds = st.sampled_from(["position", "angle", "joint", "velocity", "gripper"])

    def dimensions() -> tuple[Dimension, ...]:
        found = []
        for name in draw(unique_names(least=1)):
            low, span = draw(st.floats(-1e6, 1e6)), draw(st.floats(1.0, 1e3))
            kind = draw(kinds)
            found.append(Dimension(name=name, unit="", kind=kind, low=low, high=low + span))
        return tuple(found)

    sides = st.integers(1, 100).map(lambda half: 2 * half)
    cameras = [
        Camera(name=name, height=draw(sides), width=draw(sides)) for name in draw(unique_names(least=0))
    ]
    return Embodiment(
        name=draw(names.filter(bool)),
        state=dimensions(),
        actions=dimensions(),
        cameras=tuple(cameras),
        rate=draw(st.floats(1e-3, 1e3)),
    )


def unique_names(*, least: int) -> st.SearchStrategy[list[str]]:
    """Return a strategy of `least` to three different names."""
    return st.lists(names.filter(bool), min_size=least, max_size=3, unique=True)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """Draw a contract, with statistics of its embodiment's size."""
    with unchecked():
        embodiment, horizon = draw(embodiments()), draw(sizes)
        action_form = draw(st.sampled_from(["recorded", "displacement"]))
        return Contract(
            embodiment=embodiment,
            image_size=draw(sizes),
            max_tokens=draw(sizes),
            horizon=horizon,
            normalization=draw(st.sampled_from(["zscore", "quantile"])),
            statistics=Statistics(
                state=draw(statistics_of(embodiment.state_dim)),
                actions=draw(statistics_of(embodiment.action_dim)),
                action_form=action_form,
                horizon=horizon if action_form == "displacement" else draw(sizes),
            ),
        )


@st.composite
def train_configs(draw: st.DrawFn) -> TrainConfig:
    """Draw a training config with either image encoder."""
    with unchecked():
        shared = {"depth": draw(sizes), "num_kv_heads": draw(sizes), "head_dim": draw(sizes)}
        gemmas = st.builds(
            GemmaConfig,
            width=sizes,
            mlp_dim=sizes,
            num_heads=sizes,
            **{k: st.just(v) for k, v in shared.items()},
        )
        vision = st.builds(SigLIPConfig, width=sizes, depth=sizes) | st.builds(
            ResNetConfig, widths=st.just((8, 16)), blocks=st.just((1, 2)), strides=st.just((1, 1))
        )
        model = Pi0Config(
            backbone=PaliGemmaConfig(vision=draw(vision), language=draw(gemmas), vocab_size=draw(sizes)),
            expert=draw(gemmas),
            state_dim=draw(sizes),
            process=FlowMatching(time=BetaTime(alpha=draw(finite), low=draw(finite)), num_steps=draw(sizes)),
            compute_dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        )
        optimizer = draw(
            st.builds(OptimizerConfig, peak_rate=finite, warmup_steps=sizes, weight_decay=finite)
        )
        return TrainConfig(
            model=model,
            embodiments=draw(tuples(names, least=1)),
            image_size=draw(sizes),
            max_tokens=draw(sizes),
            normalization=draw(st.sampled_from(["zscore", "quantile"])),
            optimizer=optimizer,
            num_steps=draw(sizes),
            seed=draw(st.integers(0, 2**63)),
        )


def flow_loss(model: Pi0, inputs: Inputs, actions: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Return the loss of each action step under noise and times of a seed."""
    draws = model.draw(len(actions), torch.Generator().manual_seed(seed))
    every = torch.ones(actions.shape[:2], dtype=torch.bool)
    return model.losses(inputs, actions, every, draws=draws)["flow"].values
