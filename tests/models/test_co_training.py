"""A co-trained π0.5: two losses of one pass, and what each of them may teach, see and count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pizero.models.base import Draws, Loss
from pizero.models.pi0_fast import Pi0FAST, Pi0FASTConfig
from pizero.models.pi05 import CoTraining, Pi05, Pi05Config
from pizero.nn.layers import AdaptiveRMSNorm
from pizero.nn.siglip import SigLIPConfig
from pizero.records import from_data, to_data
from pizero.training.validation import prompts_of
from pizero.types import Inputs, Tokens
from tests.examples import TINY_PI0

PLAIN = Pi05Config(
    backbone=replace(
        TINY_PI0.backbone,
        vision=SigLIPConfig(image_size=16, patch_size=8, width=16, depth=1, mlp_dim=24, num_heads=2),
    ),
    expert=replace(TINY_PI0.expert, conditioned=True),
    action_dim=TINY_PI0.action_dim,
    horizon=TINY_PI0.horizon,
    num_draws=2,
)
NUM_TOKENS = 12
PROMPTS, TARGETS = (4, 7, 6), (5, 0, 3)
"""Tokens of each row's prompt, and of its targets; row 0 has both losses, row 1 the flow, row 2 the text."""


def model_of(training: CoTraining | None) -> Pi05:
    """Return a π0.5 in float64, always with the same weights, whose expert's gates are open."""
    torch.manual_seed(0)
    model = Pi05(replace(PLAIN, co_training=training))
    for module in model.modules():
        if isinstance(module, AdaptiveRMSNorm):
            torch.nn.init.normal_(module.modulation.weight, std=0.5)
    return model.double()


def inputs_of(prompts: tuple[int, ...] = PROMPTS, targets: tuple[int, ...] = TARGETS) -> Inputs:
    """Return random inputs; the second camera is missing in the last row."""
    generator, batch = torch.Generator().manual_seed(1), len(prompts)
    place, length = torch.arange(NUM_TOKENS), torch.tensor(prompts)[:, None]
    valid = place < length + torch.tensor(targets)[:, None]
    follows = valid & (place >= length)
    ids = torch.randint(3, 259, (batch, NUM_TOKENS), generator=generator)
    camera_valid = torch.ones(batch, 2, dtype=torch.bool)
    camera_valid[-1, 1] = False
    return Inputs(
        images=torch.randint(0, 256, (batch, 2, 3, 16, 16), generator=generator, dtype=torch.uint8),
        camera_valid=camera_valid,
        state=torch.zeros(batch, 2),
        tokens=Tokens(ids=torch.where(valid, ids, 0), valid=valid, causal=follows, target=follows),
    )


def steps_of(inputs: Inputs) -> Tensor:
    """Return which steps of each row's chunk are real: some of the first two rows', none of the others'."""
    rows = torch.tensor([[True, True, False], [True, True, True]])
    return F.pad(rows, (0, 0, 0, len(inputs.state) - 2))


def with_ids(inputs: Inputs, chosen: Tensor) -> Inputs:
    """Return inputs whose chosen tokens are others."""
    ids = torch.where(chosen, 3 + (inputs.tokens.ids + 100) % 256, inputs.tokens.ids)
    return replace(inputs, tokens=replace(inputs.tokens, ids=ids))


def rows_of(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    tokens = inputs.tokens
    return Inputs(
        images=inputs.images[rows],
        camera_valid=inputs.camera_valid[rows],
        state=inputs.state[rows],
        tokens=Tokens(
            ids=tokens.ids[rows],
            valid=tokens.valid[rows],
            causal=tokens.causal[rows],
            target=tokens.target[rows],
        ),
    )


def chunks_of(inputs: Inputs) -> tuple[Tensor, Draws]:
    """Return random actions, and noise and times, in float64."""
    generator, batch = torch.Generator().manual_seed(2), len(inputs.state)
    actions = torch.randn(batch, 3, 2, generator=generator).double()
    noise = torch.randn(batch, 2, 3, 2, generator=generator).double()
    return actions, Draws(noise=noise, time=torch.rand(batch, 2, generator=generator).double())


def losses_of(model: Pi05, inputs: Inputs) -> dict[str, Loss]:
    (actions, draws), steps = chunks_of(inputs), steps_of(inputs)
    terms, counted = model.losses(inputs, actions, steps, draws=draws), model.counted(inputs, steps, draws)
    assert list(terms) == list(counted)
    for name, mask in counted.items():
        assert torch.equal(terms[name].counted, mask)
    return terms


def mean(loss: Loss) -> Tensor:
    return (loss.values * loss.counted).sum() / loss.counted.sum()


def gradients(model: Pi05, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of every weight that gets one other than zero."""
    names, weights = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None and g.any()}


def token_by_token(model: Pi05, inputs: Inputs, row: int) -> Tensor:
    """Return the mean negative log-probability of a row's targets, each read off a sequence that ends before
    it.
    """
    one = rows_of(inputs, slice(row, row + 1))
    losses = []
    for place in one.tokens.target[0].nonzero().flatten().tolist():
        tokens = one.tokens
        cut = Tokens(
            ids=tokens.ids[:, :place],
            valid=tokens.valid[:, :place],
            causal=tokens.causal[:, :place],
            target=tokens.target[:, :place],
        )
        hidden, _ = model.backbone.language(*model.backbone.embed(replace(one, tokens=cut), torch.float64))
        logits = hidden[0, -1] @ model.backbone.embedding.T
        losses.append(-logits.log_softmax(dim=-1)[tokens.ids[0, place]])
    return torch.stack(losses).mean()


@pytest.fixture(autouse=True)
def float64(double_precision: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both models compute in float64 throughout."""
    for model in (Pi05, Pi0FAST):
        monkeypatch.setattr(model, "compute_dtype", torch.float64)


IN_BACKBONE = {name for name, _ in Pi05(PLAIN).named_parameters() if name.startswith("backbone.")}
IN_EXPERT = {name for name, _ in Pi05(PLAIN).named_parameters()} - IN_BACKBONE
UNREAD_BY_THE_EXPERT = {
    name
    for name in IN_BACKBONE
    if name.startswith("backbone.language.layers.1.")
    and not any(part in name for part in ("attention_norm", "attention.key", "attention.value"))
} | {"backbone.language.final_norm.scale"}


def test_the_flow_teaches_an_insulated_backbone_nothing_and_another_one_all_that_the_expert_reads() -> None:
    flow = {
        insulated: gradients(model, mean(losses_of(model, inputs_of())["flow"]))
        for insulated in (True, False)
        for model in [model_of(CoTraining(insulated=insulated))]
    }
    assert set(flow[True]) == IN_EXPERT
    assert set(flow[False]) == IN_EXPERT | (IN_BACKBONE - UNREAD_BY_THE_EXPERT)
    for name in IN_EXPERT:
        torch.testing.assert_close(flow[True][name], flow[False][name], atol=1e-12, rtol=1e-9, msg=name)


def test_the_text_teaches_the_whole_backbone_and_the_expert_nothing() -> None:
    model = model_of(CoTraining())
    assert set(gradients(model, mean(losses_of(model, inputs_of())["text"]))) == IN_BACKBONE


@pytest.mark.parametrize("insulated", [True, False])
def test_gradients_are_the_slopes_of_what_each_weight_is_taught(insulated: bool) -> None:
    """By central differences: an insulated backbone follows the text alone, another one both losses."""
    training = CoTraining(action_weight=10.0, text_weight=0.5, insulated=insulated)
    model, inputs = model_of(training), inputs_of()

    def total(parts: tuple[str, ...]) -> Tensor:
        terms = losses_of(model, inputs)
        assert {name: term.weight for name, term in terms.items()} == {"flow": 10.0, "text": 0.5}
        return torch.stack([terms[name].weight * mean(terms[name]) for name in parts]).sum()

    found = gradients(model, total(("flow", "text")))
    weights = dict(model.named_parameters())
    for names, parts in (
        (IN_BACKBONE, ("text",) if insulated else ("flow", "text")),
        (IN_EXPERT, ("flow",)),
    ):
        directions = {name: torch.randn_like(weights[name]) for name in sorted(names)}
        slope = sum((found[name] * directions[name]).sum().item() for name in names)
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                for name in names:
                    weights[name].add_(step * directions[name])
                ends.append(total(parts).item())
                for name in names:
                    weights[name].sub_(step * directions[name])
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("insulated", [True, False])
def test_the_expert_learns_what_it_learns_without_tokens_to_write(insulated: bool) -> None:
    """Values and gradients of the flow against a π0.5 that is shown the prompts alone."""
    model, plain, inputs = model_of(CoTraining(insulated=insulated)), model_of(None), inputs_of()
    terms, (expected,) = losses_of(model, inputs), losses_of(plain, prompts_of(inputs)).values()
    torch.testing.assert_close(terms["flow"].values, expected.values, atol=1e-12, rtol=0)
    assert torch.equal(terms["flow"].counted, expected.counted)
    theirs = gradients(plain, mean(expected))
    for name, gradient in gradients(model, mean(terms["flow"])).items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-12, rtol=1e-9, msg=name)


def test_other_tokens_to_write_change_the_text_loss_alone() -> None:
    model, inputs = model_of(CoTraining(insulated=False)), inputs_of()
    other = with_ids(inputs, inputs.tokens.target)
    before, after = losses_of(model, inputs), losses_of(model, other)
    assert torch.equal(before["flow"].values, after["flow"].values)
    changed = (before["text"].values - after["text"].values).abs() > 1e-3
    assert changed.tolist() == [True, False, True]


def test_padding_changes_nothing() -> None:
    model, inputs = model_of(CoTraining()), inputs_of()
    before, after = losses_of(model, inputs), losses_of(model, with_ids(inputs, ~inputs.tokens.valid))
    for name in ("flow", "text"):
        assert torch.equal(before[name].values, after[name].values)
    wider = {
        name: F.pad(getattr(inputs.tokens, name), (0, 5)) for name in ("ids", "valid", "causal", "target")
    }
    longer = losses_of(model, replace(inputs, tokens=Tokens(**wider)))
    for name in ("flow", "text"):
        torch.testing.assert_close(longer[name].values, before[name].values, atol=1e-12, rtol=0)


def test_the_context_is_what_the_policy_acts_on() -> None:
    """Keys, values and who is real are those of the prompt alone; so is every velocity."""
    model, inputs = model_of(CoTraining()), inputs_of()
    found, _ = model.observe_and_write(inputs)
    other, _ = model.observe_and_write(with_ids(inputs, inputs.tokens.target))
    expected = model.observe(prompts_of(inputs))
    assert torch.equal(found.valid, expected.valid)
    for layer in range(2):
        for name in ("keys", "values"):
            ours, same, theirs = (
                getattr(cache, name)[layer][found.valid] for cache in (found, other, expected)
            )
            assert torch.equal(ours, same)
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    actions, draws = chunks_of(inputs)
    time = draws.time[:, 0]
    velocity = model.denoise(expected, actions, time)
    for context in (found, model.observe(inputs)):
        torch.testing.assert_close(model.denoise(context, actions, time), velocity, atol=1e-12, rtol=0)


def test_the_text_loss_is_the_log_probability_of_each_target_after_all_before_it() -> None:
    model, inputs = model_of(CoTraining()), inputs_of()
    text = losses_of(model, inputs)["text"]
    assert text.counted.tolist() == [True, False, True]
    assert text.values[1] == 0.0
    for row in (0, 2):
        torch.testing.assert_close(text.values[row], token_by_token(model, inputs, row), atol=1e-12, rtol=0)


def test_samples_of_three_kinds_give_what_each_gives_alone() -> None:
    model, plain, inputs = model_of(CoTraining()), model_of(None), inputs_of()
    actions, draws = chunks_of(inputs)
    terms, steps = losses_of(model, inputs), steps_of(inputs)
    flows = []
    for row, valid in enumerate(steps):
        part = slice(row, row + 1)
        (alone,) = plain.losses(
            rows_of(prompts_of(inputs), part), actions[part], steps[part], draws=draws.rows(part)
        ).values()
        flows.append(alone.values[0][valid])
    torch.testing.assert_close(mean(terms["flow"]), torch.cat(flows).mean(), atol=1e-12, rtol=0)
    texts = torch.stack([token_by_token(model, inputs, row) for row in (0, 2)])
    torch.testing.assert_close(mean(terms["text"]), texts.mean(), atol=1e-12, rtol=0)


def test_the_text_loss_is_pi0_fast_s_where_positions_agree() -> None:
    """π0-FAST counts absent cameras too, and padding, which matters to none where it is at the end."""
    model, inputs = model_of(CoTraining()), inputs_of(targets=(8, 5, 6))
    fast = Pi0FAST(Pi0FASTConfig(backbone=PLAIN.backbone, action_dim=2, horizon=3)).double()
    fast.backbone.load_state_dict(model.backbone.state_dict())
    ours, theirs = losses_of(model, inputs)["text"].values, fast.token_loss(inputs)
    torch.testing.assert_close(ours[:2], theirs[:2], atol=1e-12, rtol=0)
    assert (ours[2] - theirs[2]).abs() > 1e-6
    seen = replace(inputs, camera_valid=torch.ones_like(inputs.camera_valid))
    torch.testing.assert_close(
        losses_of(model, seen)["text"].values, fast.token_loss(seen), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("training", [CoTraining(), CoTraining(insulated=False, action_weight=10.0)])
def test_co_training_changes_nothing_in_how_a_policy_acts(training: CoTraining) -> None:
    inputs, noise = prompts_of(inputs_of()), torch.randn(3, 3, 2).double()
    expected = model_of(None).sample(inputs, noise=noise)
    assert torch.equal(model_of(training).sample(inputs, noise=noise), expected)


def test_configs_of_before_are_read_and_new_ones_survive() -> None:
    data = to_data(PLAIN)
    assert data.pop("co_training") is None
    assert from_data(Pi05Config, data) == PLAIN
    trained = replace(PLAIN, co_training=CoTraining(action_weight=10.0, insulated=False))
    assert from_data(Pi05Config, to_data(trained)) == trained


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0), (0.0, 0.0)])
def test_weights_that_train_nothing_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=f"one above 0, found {weights[0]} and {weights[1]}"):
        CoTraining(action_weight=weights[0], text_weight=weights[1])


@pytest.mark.slow
@pytest.mark.parametrize("insulated", [True, False])
def test_eight_samples_are_learnt_by_heart(insulated: bool) -> None:
    """Text from ln 259 to nearly nothing, the flow by its context: another row's observation misleads it.

    An insulated backbone has learnt what tells the rows apart from the text alone.
    """
    model = Pi05(replace(PLAIN, num_draws=4, co_training=CoTraining(insulated=insulated))).double()
    inputs = inputs_of((4, 5, 6, 7) * 2, (5, 4, 3, 2) * 2)
    generator, steps = torch.Generator().manual_seed(3), torch.ones(8, 3, dtype=torch.bool)
    actions = torch.randn(8, 3, 2, generator=generator).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(300):
        terms = model.losses(inputs, actions, steps, draws=model.draw(8, generator))
        history.append([mean(terms["flow"]).item(), mean(terms["text"]).item()])
        optimizer.zero_grad()
        torch.stack([term.weight * mean(term) for term in terms.values()]).sum().backward()
        optimizer.step()
    flow, text = torch.tensor(history).unbind(dim=1)
    assert text[0].item() == pytest.approx(math.log(259), rel=0.1)
    assert text[-20:].mean() < text[0] / 50
    assert flow[-20:].mean() < flow[:5].mean() / 5
    draws = model.draw(8, generator)
    with torch.no_grad():
        right, wrong = (
            mean(model.losses(shown, actions, steps, draws=draws)["flow"])
            for shown in (inputs, rows_of(inputs, torch.arange(8).roll(1)))
        )
    assert wrong > 5 * right
