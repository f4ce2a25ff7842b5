"""Computing layers again changes no gradient, keeps less, and computes nothing more than twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pizero.models.base import ActionModel
from pizero.models.build import build
from pizero.training.recompute import Recompute, apply_recompute, layers_of
from tests.golden_weights import golden_config, golden_inputs

KINDS = ["pi0", "pi05"]


def trained(kind: str, recompute: Recompute) -> tuple[dict[str, torch.Tensor], float, int, int]:
    """Return gradients, loss, the bytes that the forward pass keeps, and the operations of both passes."""
    model = build(golden_config(kind), seed=1)
    apply_recompute(model, recompute)
    loss, kept, forward = loss_of(model, kind)
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return gradients, loss.item(), kept, forward + counter.get_total_flops()


def loss_of(model: ActionModel, kind: str) -> tuple[torch.Tensor, int, int]:
    inputs = golden_inputs(kind)
    draws = model.draw(2, torch.Generator().manual_seed(0))
    actions = torch.zeros(2, model.horizon, model.action_dim)
    valid = torch.ones(2, model.horizon, dtype=torch.bool)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), FlopCounterMode(display=False) as counter:
        loss = model.losses(inputs, actions, valid, draws=draws)["flow"].values.sum()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    return loss, sum(size for place, size in kept.items() if place not in weights), counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_bit_for_bit(kind: str) -> None:
    plain = trained(kind, "nothing")
    assert len(plain[0]) > 90
    for recompute in ("cheap", "layers"):
        gradients, loss, _, _ = trained(kind, recompute)
        assert loss == plain[1]
        assert gradients.keys() == plain[0].keys()
        assert all(gradients[name].equal(plain[0][name]) for name in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cheap_is_computed_again_and_products_are_not(kind: str) -> None:
    plain, cheap, layers = (trained(kind, recompute) for recompute in ("nothing", "cheap", "layers"))
    assert cheap[3] == plain[3], "no product is computed again"
    assert layers[2] < 0.5 * plain[2]
    forward = loss_of(build(golden_config(kind), seed=1), kind)[2]
    assert plain[3] + 0.8 * forward < layers[3] < plain[3] + forward, "layers once more, and never twice"


def test_names_stay_and_every_layer_is_wrapped() -> None:
    model, plain = build(golden_config("pi0")), build(golden_config("pi0"))
    apply_recompute(model, "layers")
    assert list(model.state_dict()) == list(plain.state_dict())
    layers: list[Any] = list(layers_of(model))
    assert len(layers) == 2 + 3 + 3, "of the image encoder, the language model and the expert"
    assert all("forward" in vars(layer) for layer in layers)
    apply_recompute(plain, "nothing")
    assert not any("forward" in vars(layer) for layer in layers_of(plain))
