"""Time densities against SciPy's distributions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from pizero.generative.consistency import ConsistencyDistillation
from pizero.generative.coupling import ConditionalCoupling
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from pizero.generative.guidance import Guidance
from pizero.generative.mean_flow import MeanFlow
from pizero.generative.shortcut import Shortcut
from pizero.generative.times import BetaTime, LogitNormalTime, TimeDensity, UniformTime
from pizero.records import from_data, to_data


def drawn(time: TimeDensity) -> np.ndarray:
    samples = time.sample(20_000, torch.Generator().manual_seed(0))
    assert samples.dtype == torch.float32
    return samples.double().numpy()


@pytest.mark.parametrize("time", [UniformTime(), UniformTime(low=0.2, high=0.7)], ids=str)
def test_uniform_times(time: UniformTime) -> None:
    expected = scipy.stats.uniform(time.low, time.high - time.low)
    assert scipy.stats.kstest(drawn(time), expected.cdf).pvalue > 0.01
    assert scipy.stats.kstest(drawn(time), scipy.stats.uniform(time.low, 1.03 * time.high).cdf).pvalue < 1e-3


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.5), (2.0, 3.0), (0.7, 0.6)])
def test_beta_times(alpha: float, beta: float) -> None:
    unit = drawn(BetaTime(alpha=alpha, beta=beta, low=0.0))
    assert scipy.stats.kstest(unit, scipy.stats.beta(alpha, beta).cdf).pvalue > 0.01
    assert scipy.stats.kstest(unit, scipy.stats.beta(beta, alpha).cdf).pvalue < 1e-3
    raised = drawn(BetaTime(alpha=alpha, beta=beta, low=0.25))
    np.testing.assert_allclose(raised, 0.25 + 0.75 * unit, atol=1e-6)


def test_both_ways_to_draw_a_beta_agree() -> None:
    """At beta = 1 the closed form and SciPy's inverse are two ways to the same numbers."""
    nearly = drawn(BetaTime(alpha=1.5, beta=1.0 + 1e-12))
    np.testing.assert_allclose(drawn(BetaTime()), nearly, atol=1e-6)


@pytest.mark.parametrize("time", [LogitNormalTime(), LogitNormalTime(mean=-0.4, std=1.0)], ids=str)
def test_logit_normal_times(time: LogitNormalTime) -> None:
    logits = scipy.special.logit(drawn(time))
    assert scipy.stats.kstest(logits, scipy.stats.norm(time.mean, time.std).cdf).pvalue > 0.01
    assert scipy.stats.kstest(logits, scipy.stats.norm(time.mean, 1.05 * time.std).cdf).pvalue < 0.01
    assert scipy.stats.kstest(logits, scipy.stats.norm(time.mean + 0.05, time.std).cdf).pvalue < 0.01


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": -1.0}, {"beta": 0.0}], ids=str)
def test_a_beta_density_that_does_not_exist_is_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="alpha and beta above 0"):
        BetaTime(**wrong).sample(2, torch.Generator())


@pytest.mark.parametrize("time", [BetaTime(alpha=2.0), UniformTime(), LogitNormalTime(std=0.5)], ids=str)
@pytest.mark.parametrize("kind", [FlowMatching, Diffusion])
def test_every_density_is_written_and_read(
    kind: type[FlowMatching] | type[Diffusion], time: TimeDensity
) -> None:
    process = kind(time=time)
    assert from_data(kind, to_data(process)) == process
    assert from_data(FlowMatching | Diffusion, to_data(process)) == process


@pytest.mark.parametrize(
    "record",
    [
        FlowMatching(solver="heun"),
        Diffusion(schedule="linear", prediction="velocity", sampler="ddpm", clip=1.0),
        ConditionalCoupling(condition_weight=2.0),
        Guidance(dropout=0.1, scale=1.5),
        MeanFlow(difference=0.01),
        Shortcut(max_steps=16),
        ConsistencyDistillation(num_intervals=4),
    ],
    ids=lambda record: type(record).__name__,
)
def test_every_config_is_written_and_read(record) -> None:
    assert from_data(type(record), json.loads(json.dumps(to_data(record)))) == record


def test_a_config_written_before_there_were_other_densities_is_still_read() -> None:
    old = {
        "type": "FlowMatching",
        "time": {"type": "BetaTime", "alpha": 1.5, "low": 0.001},
        "num_steps": 2,
    }
    assert from_data(FlowMatching, old) == FlowMatching(num_steps=2)
