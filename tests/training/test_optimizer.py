"""Learning rates, clipping, AdamW and the moving average against openpi's (optax)."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pizero.training.optimizer import (
    OptimizerConfig,
    WeightGroup,
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_rate,
    update_average,
)
from tests.golden_weights import GOLDEN, arrays

SCHEDULES = json.loads((GOLDEN / "lr_schedules.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["cosine_default", "cosine_custom"])
def test_learning_rates_are_openpi_s(name: str) -> None:
    golden = SCHEDULES[name]["config"]
    config = OptimizerConfig(
        peak_rate=golden["peak_lr"],
        final_rate=golden["decay_lr"],
        warmup_steps=golden["warmup_steps"],
        decay_steps=golden["decay_steps"],
    )
    for step, rate in SCHEDULES[name]["values"]:
        assert learning_rate(config, step) == pytest.approx(rate, rel=1e-6, abs=1e-7 * config.peak_rate), step


def test_the_defaults_are_openpi_s() -> None:
    config = OptimizerConfig()
    golden = SCHEDULES["cosine_default"]["config"]
    assert (config.peak_rate, config.final_rate) == (golden["peak_lr"], golden["decay_lr"])
    assert (config.warmup_steps, config.decay_steps) == (golden["warmup_steps"], golden["decay_steps"])
    assert (config.beta1, config.beta2, config.epsilon) == (0.9, 0.95, 1e-8)
    assert (config.weight_decay, config.clip_norm) == (1e-10, 1.0)


@given(st.integers(1, 50), st.integers(1, 200), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_then_falls_to_its_end(warmup: int, decay: int, final: float) -> None:
    config = OptimizerConfig(peak_rate=1.0, final_rate=final, warmup_steps=warmup, decay_steps=warmup + decay)
    rates = [learning_rate(config, step) for step in range(warmup + decay + 3)]
    assert 0.0 < rates[0] == pytest.approx(1.0 / (warmup + 1))
    assert all(later > earlier for earlier, later in pairwise(rates[: warmup + 1]))
    assert rates[warmup] == pytest.approx(1.0)
    falling = rates[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(falling))
    assert rates[-3:] == pytest.approx([final] * 3)
    middle = warmup + decay / 2
    if middle == int(middle):
        assert rates[int(middle)] == pytest.approx((1.0 + final) / 2)


def golden_run(weight_decay: str, *, clip_norm: float = 1.0, beta2: float = 0.95) -> dict[str, float]:
    """Repeat openpi's six updates; return the largest difference of weights, and of their average."""
    golden = arrays("optimizer.npz")
    config = OptimizerConfig(
        peak_rate=0.01,
        final_rate=0.001,
        warmup_steps=3,
        decay_steps=10,
        beta2=beta2,
        weight_decay=float(weight_decay),
        clip_norm=clip_norm,
    )
    model = nn.ParameterDict(
        {name: nn.Parameter(torch.from_numpy(golden[f"init/{name}"]).clone()) for name in ("w", "b")}
    )
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(config, model)
    errors = {"weight": 0.0, "average": 0.0}
    for step in range(6):
        set_rate(optimizer, learning_rate(config, step))
        here = f"wd{weight_decay}/step{step}"
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(golden[f"{here}/grad_{name}"]).clone()
        clip_gradients(model.parameters(), config.clip_norm)
        optimizer.step()
        update_average(average, model, 0.99)
        for name, parameter in model.named_parameters():
            weight_error = np.abs(parameter.detach().numpy() - golden[f"{here}/param_{name}"]).max()
            average_error = np.abs(average[name].numpy() - golden[f"{here}/ema_{name}"]).max()
            errors["weight"] = max(errors["weight"], float(weight_error))
            errors["average"] = max(errors["average"], float(average_error))
    return errors


@pytest.mark.parametrize("weight_decay", ["1e-10", "0.01"])
def test_six_updates_are_openpi_s(weight_decay: str) -> None:
    errors = golden_run(weight_decay)
    assert errors["weight"] < 1e-6
    assert errors["average"] < 1e-6


def test_without_clipping_or_with_torch_s_beta_the_updates_would_differ() -> None:
    assert golden_run("0.01", clip_norm=math.inf)["weight"] > 1e-3
    assert golden_run("0.01", beta2=0.999)["weight"] > 1e-4


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0.01, 100), st.integers(0, 99))
def test_clipping_shortens_long_gradients_and_leaves_short_ones(
    sizes: list[int], max_norm: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(size)) for size in [*sizes, 3]]
    gradients = [torch.randn(size, generator=generator) for size in sizes]
    for parameter, gradient in zip(parameters, gradients, strict=False):  # the last has none
        parameter.grad = gradient.clone()
    before = torch.cat(gradients).norm().item()
    assert clip_gradients(parameters, max_norm).item() == pytest.approx(before, rel=1e-5)
    after = torch.cat([parameter.grad for parameter in parameters if parameter.grad is not None])
    assert after.norm().item() == pytest.approx(min(before, max_norm), rel=1e-5)
    torch.testing.assert_close(after * before, torch.cat(gradients) * after.norm(), atol=1e-4, rtol=1e-4)
    if before <= max_norm:
        assert torch.equal(after, torch.cat(gradients))


def test_frozen_weights_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(requires_grad=False)
    before = model[0].weight.clone()
    optimizer = make_optimizer(OptimizerConfig(peak_rate=0.1, weight_decay=0.5), model)
    model(torch.randn(3, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_the_average_of_a_still_model_approaches_it_geometrically() -> None:
    model = nn.ParameterDict({"w": nn.Parameter(torch.ones(3))})
    average = {"w": torch.zeros(3)}
    for _ in range(20):
        update_average(average, model, 0.9)
    torch.testing.assert_close(average["w"], torch.full((3,), 1.0 - 0.9**20))


def test_groups_have_rates_and_decays_of_their_own() -> None:
    """Plain descent in one step of AdamW: the first step moves every weight by its rate, and decays it."""
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("vision", "text", "head")})
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config = OptimizerConfig(
        weight_decay=0.0,
        groups=(
            WeightGroup(rule="vision.*", rate=0.1),
            WeightGroup(rule="*.bias", rate=2.0),
            WeightGroup(rule="text.*", weight_decay=0.5),
        ),
    )
    optimizer = make_optimizer(config, model)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    set_rate(optimizer, 0.01)
    optimizer.step()
    moved = {name: (before[name] - weight.detach()) for name, weight in model.named_parameters()}
    expected = {"vision.weight": 0.001, "vision.bias": 0.001, "text.bias": 0.02, "head.bias": 0.02}
    for name, distance in (expected | {"head.weight": 0.01}).items():
        torch.testing.assert_close(moved[name], torch.full_like(moved[name], distance), atol=1e-6, rtol=0)
    decayed = 0.01 + 0.01 * 0.5 * before["text.weight"]
    torch.testing.assert_close(moved["text.weight"], decayed, atol=1e-6, rtol=0)


def test_a_group_without_weights_is_refused() -> None:
    config = OptimizerConfig(groups=(WeightGroup(rule="visoin.*"),))
    model = nn.ModuleDict({"vision": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"belongs to the group 'visoin\.\*': did you mean 'vision\.\*'"):
        make_optimizer(config, model)
