"""Models that go on from planned actions: a time for each action, prefixes that are given and not learnt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from pizero.cli.train import train
from pizero.generative.chunking import Guided, Prefixed, soft_mask
from pizero.generative.flow import FlowMatching
from pizero.models.base import Draws
from pizero.models.build import ModelConfig, build
from pizero.models.pi0 import Pi0
from pizero.models.pi05 import Pi05
from pizero.nn.gemma import Gemma, GemmaConfig
from pizero.nn.layers import AdaptiveRMSNorm
from pizero.records import from_data, to_data
from pizero.training.config import Execution
from pizero.training.ranks import Ranks
from pizero.training.state import make_state
from pizero.training.update import update
from pizero.types import Batch, Inputs
from tests.examples import TINY_PI0, tiny_inputs
from tests.models.test_co_training import PLAIN as TINY_PI05
from tests.small import small_config

HORIZON = 6
CONFIGS: dict[str, ModelConfig] = {
    "pi0": replace(TINY_PI0, horizon=HORIZON, num_draws=2),
    "pi05": replace(TINY_PI05, horizon=HORIZON),
}
KINDS = tuple(CONFIGS)
NUM_UPDATES = 200


def model_of(kind: str, *, max_delay: int = 0, num_draws: int = 2) -> Pi0 | Pi05:
    """Return a model with open gates, always with the same weights."""
    model = build(replace(CONFIGS[kind], max_delay=max_delay, num_draws=num_draws), seed=3)
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, AdaptiveRMSNorm):
            torch.nn.init.normal_(module.modulation.weight, std=0.5, generator=generator)
    assert isinstance(model, Pi0 | Pi05)
    return model


def noisy_chunks(rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, HORIZON, 2, generator=generator), torch.rand(rows, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_times_of_all_actions_are_the_time_of_the_chunk(kind: str) -> None:
    """Bitwise for π0. The conditions of π0.5 are one product of matrices, which of another height may round
    otherwise.
    """
    model, (noisy, time) = model_of(kind), noisy_chunks()
    context = model.observe(tiny_inputs())
    each = model.denoise(context, noisy, time[:, None].expand(-1, HORIZON))
    tolerance = 0.0 if kind == "pi0" else 1e-5
    torch.testing.assert_close(each, model.denoise(context, noisy, time), atol=tolerance / 5, rtol=tolerance)


def test_each_action_is_fused_with_its_own_time() -> None:
    model, (noisy, _) = model_of("pi0"), noisy_chunks()
    assert isinstance(model, Pi0)
    times = torch.rand(2, HORIZON)
    fused = model.embed_actions(noisy, times)
    for place in range(HORIZON):
        alone = model.embed_actions(noisy, times[:, place])[:, place]
        torch.testing.assert_close(fused[:, place], alone, atol=1e-6, rtol=0)


def test_each_token_is_normalised_under_its_own_condition() -> None:
    norm = AdaptiveRMSNorm(8, 5)
    torch.nn.init.normal_(norm.modulation.weight)
    x, condition = torch.randn(2, HORIZON, 8), torch.randn(2, HORIZON, 5)
    normed, gate = norm(x, condition)
    for place in range(HORIZON):
        alone, alone_gate = norm(x, condition[:, place])
        torch.testing.assert_close(normed[:, place], alone[:, place], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gate[:, place], alone_gate[:, 0], atol=1e-5, rtol=1e-5)


def test_a_whole_transformer_under_a_condition_of_each_token() -> None:
    """Where no token sees another one, each is what it is when all have its condition."""
    config = GemmaConfig(
        width=12, depth=3, mlp_dim=20, num_heads=2, num_kv_heads=2, head_dim=8, conditioned=True
    )
    torch.manual_seed(0)
    model = Gemma(config)
    for module in model.modules():
        if isinstance(module, AdaptiveRMSNorm):
            torch.nn.init.normal_(module.modulation.weight, std=0.3)
    x, condition = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    for place in range(4):
        alone = torch.arange(4).expand(2, -1) == place
        seen, _ = model(x, alone, alone, condition=condition, positions=torch.zeros(2, 4, dtype=torch.int64))
        same, _ = model(
            x, alone, alone, condition=condition[:, place], positions=torch.zeros(2, 4, dtype=torch.int64)
        )
        torch.testing.assert_close(seen[:, place], same[:, place], atol=1e-5, rtol=1e-5)
        assert (seen - same).abs().max() > 0.01


def test_every_delay_is_equally_likely_and_changes_no_other_draw() -> None:
    trained, plain = model_of("pi0", max_delay=3), model_of("pi0")
    draws, known = (model.draw(4000, torch.Generator().manual_seed(5)) for model in (trained, plain))
    assert known.delay is None
    assert torch.equal(draws.noise, known.noise)
    assert torch.equal(draws.time, known.time)
    assert draws.delay is not None
    counts = torch.bincount(draws.delay)
    assert len(counts) == 4
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01
    part = draws.rows(slice(7, 9))
    assert part.delay is not None
    assert part.delay.tolist() == draws.delay[7:9].tolist()


def some_draws(model: Pi0 | Pi05, delay: list[int]) -> Draws:
    draws = model.draw(len(delay), torch.Generator().manual_seed(6))
    return replace(draws, delay=torch.tensor(delay))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_actions_after_the_given_ones(kind: str) -> None:
    """Written out for one row and draw after the other, without `with_prefix`."""
    model, inputs = model_of(kind, max_delay=3), tiny_inputs()
    actions, _ = noisy_chunks(seed=1)
    draws, valid = some_draws(model, [2, 0]), torch.ones(2, HORIZON, dtype=torch.bool)
    valid[1, 4:] = False
    found = model.losses(inputs, actions, valid, draws=draws)["flow"]
    context = model.observe(inputs)
    for row, delay in enumerate([2, 0]):
        errors = torch.zeros(HORIZON)
        for draw in range(2):
            noise, time = draws.noise[row, draw], draws.time[row, draw]
            noisy = torch.stack([(1 - time) * actions[row, i] + time * noise[i] for i in range(HORIZON)])
            times = torch.full((HORIZON,), time.item())
            noisy[:delay], times[:delay] = actions[row, :delay], 0.0
            velocity = model.denoise(context, noisy.expand(2, -1, -1), times.expand(2, -1))[row]
            errors += (velocity - (noise - actions[row])).square().mean(dim=-1) / 2
        torch.testing.assert_close(found.values[row, delay:], errors[delay:], atol=1e-5, rtol=1e-5)
    assert found.counted.tolist() == [[False] * 2 + [True] * 4, [True] * 4 + [False] * 2]


@pytest.mark.parametrize("kind", KINDS)
def test_what_would_be_learnt_of_given_actions_is_not(kind: str) -> None:
    """Their noise reaches the loss neither as an input nor as a target; their clean values do, as inputs."""
    model, inputs = model_of(kind, max_delay=3), tiny_inputs()
    actions, _ = noisy_chunks(seed=1)
    actions.requires_grad_()
    draws = some_draws(model, [3, 1])
    noise = draws.noise.clone().requires_grad_()
    valid = torch.ones(2, HORIZON, dtype=torch.bool)
    term = model.losses(inputs, actions, valid, draws=replace(draws, noise=noise))["flow"]
    (term.values * term.counted).sum().backward()
    assert noise.grad is not None
    assert actions.grad is not None
    reached = noise.grad.abs().amax(dim=(1, 3)) > 0
    assert reached.tolist() == [[False] * 3 + [True] * 3, [False] + [True] * 5]
    assert (actions.grad.abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_the_loss_of_an_update_is_a_mean_over_what_counts(micro_batches: int) -> None:
    """By the definition; a mean of the pieces' means would be another number, for delays differ."""
    config = replace(
        small_config(num_steps=2), model=replace(CONFIGS["pi0"], max_delay=3), batch_size=6, seed=2
    )
    inputs = tiny_inputs(batch=6)
    actions = torch.randn(6, HORIZON, 2, generator=torch.Generator().manual_seed(1))
    every = torch.ones(6, HORIZON, dtype=torch.bool)
    every[2, 1:] = False
    real = torch.ones(6, 2, dtype=torch.bool)
    batch = Batch(inputs=inputs, actions=actions, valid=every, real=real)
    state = make_state(config, start=None)
    seed = np.random.SeedSequence((config.seed, 1)).generate_state(1, np.uint64)[0] >> 1
    draws = state.model.draw(6, torch.Generator().manual_seed(int(seed)))
    assert draws.delay is not None
    assert len(set(draws.delay.tolist())) > 1
    counts = every & (torch.arange(HORIZON) >= draws.delay[:, None])
    values = state.model.losses(inputs, actions, every, draws=draws)["flow"].values
    execution = Execution(micro_batches=micro_batches)
    figures = update(state, batch, config, step=1, execution=execution, ranks=Ranks())
    assert figures.loss == pytest.approx(values[counts].mean().item(), rel=1e-5)
    assert figures.loss != pytest.approx(values[every].mean().item(), rel=1e-3)


@pytest.mark.parametrize("max_delay", [-1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_delay_that_no_chunk_bears_is_refused(kind: str, max_delay: int) -> None:
    with pytest.raises(ValueError, match=rf"max_delay of 0 to 3, half the horizon of 6.*found {max_delay}"):
        replace(CONFIGS[kind], max_delay=max_delay)


@pytest.mark.parametrize("kind", KINDS)
def test_configs_of_earlier_policies_have_no_delay(kind: str) -> None:
    data = to_data(CONFIGS[kind])
    del data["max_delay"]
    assert from_data(ModelConfig, data) == CONFIGS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_samples_after_what_it_is_given(kind: str) -> None:
    model, inputs = model_of(kind, max_delay=3), tiny_inputs()
    noise, _ = noisy_chunks(seed=2)
    planned, _ = noisy_chunks(seed=3)
    given = Prefixed(planned=planned, delay=torch.tensor([3, 0]))
    made, free = model.sample(inputs, noise=noise, chunking=given), model.sample(inputs, noise=noise)
    assert torch.equal(made[0, :3], planned[0, :3])
    assert (made[0, 3:] - free[0, 3:]).abs().max() > 1e-3
    torch.testing.assert_close(made[1], free[1], atol=1e-5, rtol=0)  # a delay of nothing gives nothing


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_goes_through_the_expert_alone(kind: str) -> None:
    """The correction is Jᵀ W (planned - actions), by finite differences through the whole `denoise`."""
    model, inputs = model_of(kind), tiny_inputs()
    noisy, planned = (noisy_chunks(seed=seed)[0] for seed in (5, 6))
    time, step = torch.full((2,), 0.6), 1e-2  # differences of fourth order, for the network is float32
    mask = torch.from_numpy(soft_mask(HORIZON, delay=2, execution=2)).float()[:, None].expand(2, HORIZON, 2)
    with torch.no_grad():
        context = model.observe(inputs)

        def actions(x: Tensor) -> Tensor:
            return (x - 0.6 * model.denoise(context, x, time)).double()

        error = mask * (planned - actions(noisy))
        expected = torch.zeros(2, HORIZON, 2, dtype=torch.float64)
        for row in range(2):
            for place in range(HORIZON):
                for number in range(2):
                    aside = torch.zeros_like(noisy)
                    aside[row, place, number] = step
                    near, far = (
                        actions(noisy + factor * aside) - actions(noisy - factor * aside) for factor in (1, 2)
                    )
                    expected[row, place, number] = (error * (8 * near - far)).sum() / (12 * step)
        guided = Guided(planned=planned, weights=mask).guide(lambda x, t: model.denoise(context, x, t))
        weight = (0.6**2 + 0.4**2) / (0.6 * 0.4)
        found = (model.denoise(context, noisy, time) - guided(noisy, time)) / weight
    torch.testing.assert_close(found.double(), expected, atol=5e-4, rtol=0)
    assert (expected - error).abs().max() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_or_more_steps_than_the_policy_s_own(kind: str) -> None:
    model, inputs = model_of(kind), tiny_inputs()
    noise, _ = noisy_chunks(seed=2)
    found = model.sample(inputs, noise=noise, num_steps=3)
    model.process = FlowMatching(num_steps=3)
    assert torch.equal(found, model.sample(inputs, noise=noise))


def one_way_or_the_other(rows: int, generator: torch.Generator) -> Tensor:
    """Return chunks that lead from 0 to 1 or to -1; nothing that a model sees tells which."""
    way = torch.randint(2, (rows, 1, 1), generator=generator) * 2.0 - 1.0
    return way * torch.linspace(1 / HORIZON, 1, HORIZON)[:, None].expand(HORIZON, 2)


def test_a_model_that_learnt_prefixes_goes_on_the_way_that_was_taken() -> None:
    """Both ways are equally likely, and the first action tells which; without it a sample takes either."""
    model = model_of("pi0", max_delay=3, num_draws=16)
    generator = torch.Generator().manual_seed(7)
    inputs, valid = tiny_inputs(batch=8), torch.ones(8, HORIZON, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(NUM_UPDATES):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 + math.cos(math.pi * step / NUM_UPDATES)) / 2
        term = model.losses(
            inputs, one_way_or_the_other(8, generator), valid, draws=model.draw(8, generator)
        )["flow"]
        optimizer.zero_grad()
        ((term.values * term.counted).sum() / term.counted.sum()).backward()
        optimizer.step()
    one = Inputs(
        images=inputs.images[:1].expand(32, -1, -1, -1, -1),
        camera_valid=inputs.camera_valid[:1].expand(32, -1),
        state=inputs.state[:1].expand(32, -1),
        tokens=replace(
            inputs.tokens,
            **{
                name: getattr(inputs.tokens, name)[:1].expand(32, -1)
                for name in ("ids", "valid", "causal", "target")
            },
        ),
    )
    planned = one_way_or_the_other(32, generator)
    noise = torch.randn(32, HORIZON, 2, generator=generator)
    agrees = []
    for delay in (0, 2):
        given = Prefixed(planned=planned, delay=torch.full((32,), delay))
        made = model.sample(one, noise=noise, chunking=given)
        agrees.append((made[:, -1, 0].sign() == planned[:, -1, 0].sign()).float().mean().item())
    assert agrees[0] < 0.8
    assert agrees[1] > 0.9


@pytest.mark.parametrize(
    ("recipe", "max_delay", "message"),
    [
        ("metaworld", 6, "max_delay of 0 to 5, half the horizon of 10.*found 6"),
        ("metaworld_fast", 1, "π0-FAST writes its actions as tokens.*leave out --max-delay"),
    ],
)
def test_a_prefix_that_cannot_be_learnt_is_refused(recipe: str, max_delay: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(dataset=(Path("none"),), output=Path("none"), recipe=recipe, max_delay=max_delay, dry_run=True)
