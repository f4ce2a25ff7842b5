"""Which weights a training run leaves as they are: rules over names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from pizero.models.build import ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.names import nearest
from pizero.nn.lora import is_adapter


def freeze(model: nn.Module, rules: Sequence[str]) -> list[str]:
    """Freeze every weight whose name fits a rule (`backbone.*`), and return their names.

    Adapters are never frozen. ValueError for a rule that fits no weight: it was meant for another model.
    """
    names = [name for name, _ in model.named_parameters()]
    for rule in rules:
        if not any(fnmatchcase(name, rule) for name in names):
            parts = {name.partition(".")[0] + ".*" for name in names}
            raise ValueError(f"the rule {rule!r} fits no weight of this model: {nearest(rule, parts)}")
    frozen = []
    for name, parameter in model.named_parameters():
        if not is_adapter(name) and any(fnmatchcase(name, rule) for rule in rules):
            parameter.requires_grad = False
            frozen.append(name)
    return frozen


def around_adapters(config: ModelConfig) -> tuple[str, ...]:
    """Return openpi's rules for a model with adapters: a transformer that has them trains nothing else.

    The image encoder and the projections around the expert stay trainable (openpi, `get_freeze_filter`).
    """
    rules: tuple[str, ...] = ()
    if config.backbone.language.lora is not None:
        rules += ("backbone.embedding", "backbone.language.*")
    if not isinstance(config, Pi0FASTConfig) and config.expert.lora is not None:
        rules += ("expert.*",)
    return rules
