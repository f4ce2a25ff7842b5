"""From a model's config to the model."""

import torch

from pizero.models.base import ActionModel
from pizero.models.pi0 import Pi0, Pi0Config

ModelConfig = Pi0Config
"""Every kind of model that a policy folder can hold."""


def build(config: ModelConfig, seed: int = 0) -> ActionModel:
    """Return a model with freshly drawn weights; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Pi0(config)
