"""One-step models learn two modes from samples, where one step of the exact flow finds only their mean."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from pizero.generative.consistency import ConsistencyDistillation
from pizero.generative.flow import FlowMatching
from pizero.generative.mean_flow import MeanFlow
from pizero.generative.shortcut import Shortcut
from pizero.generative.times import UniformTime
from tests.generative.closed_forms import TWO_MODES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
]

MEAN_FLOW = MeanFlow(time=UniformTime(), equal=0.5)
SHORTCUT = Shortcut(max_steps=32, consistent=0.5)
CONSISTENCY = ConsistencyDistillation()
FLOW = FlowMatching()


class Network(nn.Module):
    """A smooth function of x `[batch, 1, 1]` and two numbers per row."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return self.layers(torch.stack([x.flatten(), first, second], dim=-1))[:, None]

    def of_one_time(self, x: Tensor, time: Tensor) -> Tensor:
        return self(x, time, time)


def mean_flow_loss(network: Network, actions: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    time, end = MEAN_FLOW.draw_times(len(actions), generator)
    noisy, velocity = FLOW.corrupt(actions, noise=noise, time=time)
    target = MEAN_FLOW.target(network, noisy, velocity, time=time, end=end)
    return MEAN_FLOW.error(network(noisy, time, end), target).mean()


def shortcut_loss(network: Network, actions: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    time, step = SHORTCUT.draw_times(len(actions), generator)
    noisy, velocity = FLOW.corrupt(actions, noise=noise, time=time)
    target = SHORTCUT.target(network, noisy, velocity, time=time, step=step)
    return (network(noisy, time, step) - target).square().mean()


def consistency_loss(network: Network, actions: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    time, end = CONSISTENCY.draw_times(len(actions), generator)
    noisy, _ = FLOW.corrupt(actions, noise=noise, time=time)
    target = CONSISTENCY.target(
        network.of_one_time, lambda x, t: TWO_MODES.velocity(x, t).to(x), noisy, time=time, end=end
    )
    return (CONSISTENCY.jump(network.of_one_time, noisy, time) - target).square().mean()


LEARNED = {
    "mean flow": (mean_flow_loss, MEAN_FLOW.generate, 0.16),
    "shortcut": (shortcut_loss, SHORTCUT.generate, 0.12),
    "consistency": (
        consistency_loss,
        lambda network, noise: CONSISTENCY.generate(network.of_one_time, noise),
        0.08,
    ),
}
"""Measured distances: 0.10, 0.06 and 0.04; ten Euler steps of the exact flow have 0.05."""


def distance(samples: Tensor) -> float:
    """Return the greatest difference of distribution functions, after Kolmogorov and Smirnov."""
    return scipy.stats.kstest(samples.detach().flatten().double().numpy(), TWO_MODES.cdf).statistic


@pytest.mark.parametrize("name", LEARNED)
def test_a_trained_model_finds_both_modes_in_one_step(name: str) -> None:
    loss_of, generate, bound = LEARNED[name]
    network, generator, num_updates = Network(), torch.Generator().manual_seed(0), 1500
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(num_updates):
        loss = loss_of(network, TWO_MODES.draw(512).float(), torch.randn(512, 1, 1), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    noise = torch.randn(4000, 1, 1)
    assert distance(FlowMatching(num_steps=1).generate(TWO_MODES.velocity, noise)) > 0.5
    assert distance(generate(network, noise)) < bound
