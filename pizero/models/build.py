"""From a model's config to the model."""

from typing import Literal

import torch

from pizero.models.base import ActionModel
from pizero.models.pi0 import Pi0, Pi0Config
from pizero.models.pi0_fast import Pi0FAST, Pi0FASTConfig
from pizero.models.pi05 import Pi05, Pi05Config

ModelConfig = Pi0Config | Pi05Config | Pi0FASTConfig
"""Every kind of model that a policy folder can hold."""

ComputeDtype = Literal["float32", "bfloat16"]
"""What a model computes in; its weights may be stored otherwise."""


def construct(config: ModelConfig) -> ActionModel:
    """Return the model of a config; its weights are drawn from torch's own generator."""
    match config:
        case Pi0Config():
            return Pi0(config)
        case Pi05Config():
            return Pi05(config)
        case Pi0FASTConfig():
            return Pi0FAST(config)


def build(config: ModelConfig, seed: int = 0) -> ActionModel:
    """Return a model with freshly drawn weights; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return construct(config)


def skeleton(config: ModelConfig) -> ActionModel:
    """Return a model whose weights have names and shapes, but take no memory until they are loaded."""
    with torch.device("meta"):
        return construct(config)
