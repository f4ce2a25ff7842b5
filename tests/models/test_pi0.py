"""What holds of every π0: its loss averages draws, its parts see what they must, seeds decide everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pizero.models.build import build
from pizero.models.pi0 import Pi0
from pizero.types import Inputs
from tests.examples import TINY_PI0, flow_loss, tiny_inputs


def repeated_rows(inputs: Inputs, times: int) -> Inputs:
    tokens = inputs.tokens
    return replace(
        inputs,
        images=inputs.images.repeat_interleave(times, dim=0),
        camera_valid=inputs.camera_valid.repeat_interleave(times, dim=0),
        state=inputs.state.repeat_interleave(times, dim=0),
        tokens=replace(
            tokens,
            **{
                name: getattr(tokens, name).repeat_interleave(times, dim=0)
                for name in ("ids", "valid", "causal", "target")
            },
        ),
    )


def test_loss_over_draws_equals_the_loss_of_as_many_observations() -> None:
    """Encoding an observation once for three draws gives the loss and gradient of three whole passes."""
    model, inputs = Pi0(replace(TINY_PI0, num_draws=3)), tiny_inputs()
    actions = torch.randn(2, 3, 2)
    once = flow_loss(model, inputs, actions, seed=5)
    once.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    model.num_draws = 1
    thrice = flow_loss(model, repeated_rows(inputs, 3), actions.repeat_interleave(3, dim=0), seed=5)
    thrice = thrice.view(2, 3, 3).mean(dim=1)
    thrice.sum().backward()
    torch.testing.assert_close(once, thrice, atol=1e-5, rtol=1e-5)
    assert len(gradients) > 50
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_loss_is_the_squared_error_of_the_velocity() -> None:
    """A network that always answers zero has the squared target, 1 + actions², as its expected loss."""
    model = Pi0(replace(TINY_PI0, num_draws=4000))
    for parameter in model.action_out.parameters():
        torch.nn.init.zeros_(parameter)
    actions = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [3.0, -1.0]]])
    with torch.no_grad():
        loss = flow_loss(model, tiny_inputs(batch=1), actions, seed=0)
    torch.testing.assert_close(loss, torch.tensor([[1.0, 2.0, 6.0]]), atol=0.0, rtol=0.08)


def test_seeds_decide_everything() -> None:
    before = torch.get_rng_state()
    one, same, other = build(TINY_PI0, seed=1), build(TINY_PI0, seed=1), build(TINY_PI0, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(one.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    actions = torch.randn(2, 3, 2)

    def loss(model: torch.nn.Module, seed: int) -> torch.Tensor:
        assert isinstance(model, Pi0)
        return flow_loss(model, tiny_inputs(), actions, seed=seed)

    assert torch.equal(loss(one, 3), loss(same, 3))
    assert not torch.equal(loss(one, 3), loss(one, 4))
    assert not torch.equal(loss(one, 3), loss(other, 3))


def test_absent_cameras_and_padding_do_not_reach_the_actions() -> None:
    model, inputs, noise = build(TINY_PI0), tiny_inputs(), torch.randn(2, 3, 2)
    actions = model.sample(inputs, noise=noise)
    images, ids = inputs.images.clone(), inputs.tokens.ids.clone()
    images[1, 1] = 255 - images[1, 1]
    ids[~inputs.tokens.valid] = 77
    garbage = replace(inputs, images=images, tokens=replace(inputs.tokens, ids=ids))
    torch.testing.assert_close(model.sample(garbage, noise=noise), actions, atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["images", "ids", "state"])
def test_everything_real_reaches_every_action_of_its_row_alone(part: str) -> None:
    model, inputs, noise = build(TINY_PI0), tiny_inputs(), torch.randn(2, 3, 2)
    changed = {
        "images": lambda: replace(inputs, images=torch.cat([255 - inputs.images[:1], inputs.images[1:]])),
        "ids": lambda: replace(
            inputs,
            tokens=replace(
                inputs.tokens, ids=torch.cat([inputs.tokens.ids[:1] * 0 + 9, inputs.tokens.ids[1:]])
            ),
        ),
        "state": lambda: replace(inputs, state=torch.cat([inputs.state[:1] + 1, inputs.state[1:]])),
    }[part]()
    moved = (model.sample(changed, noise=noise) - model.sample(inputs, noise=noise)).abs().amax(dim=-1)
    assert (moved[0] > 1e-6).all()
    assert (moved[1] < 1e-6).all()


def test_a_causal_text_token_is_not_seen_by_what_comes_before() -> None:
    model, inputs = build(TINY_PI0), tiny_inputs(batch=1)
    assert isinstance(model, Pi0)
    causal = torch.zeros_like(inputs.tokens.causal)
    causal[:, 2:] = True
    changed_ids = inputs.tokens.ids.clone()
    changed_ids[:, 3] = 200

    def keys(causal_tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        tokens = replace(inputs.tokens, causal=causal_tokens, ids=ids)
        return model.backbone.key_values(replace(inputs, tokens=tokens), torch.float32).keys[-1]

    first_text = 2 * 4  # two cameras of four tokens
    for causal_tokens, leaks in ((causal, False), (torch.zeros_like(causal), True)):
        moved = (
            (keys(causal_tokens, changed_ids) - keys(causal_tokens, inputs.tokens.ids))
            .abs()
            .amax(dim=(0, 2, 3))
        )
        assert bool((moved[: first_text + 3] > 1e-6).any()) == leaks


def test_transformers_that_cannot_share_a_cache_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must agree in depth, num_kv_heads, head_dim.*head_dim=4"):
        replace(TINY_PI0, expert=replace(TINY_PI0.expert, head_dim=4))
