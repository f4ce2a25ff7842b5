"""Diffusion against closed forms: the exact noise of normal mixtures is known, and so is where DDIM leads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from pizero.generative.diffusion import Diffusion, cosine_schedule, linear_schedule
from pizero.generative.process import Process
from tests.generative.closed_forms import MIXTURES, NORMAL, TWO_MODES, Mixture, grid

SCHEDULES = ("cosine", "linear")
PREDICTIONS = ("noise", "sample", "velocity")


def at(time: float, count: int = 1) -> Tensor:
    return torch.full((count,), time, dtype=torch.float64)


def amplitudes(process: Diffusion, time: float) -> tuple[float, float]:
    """Return α and σ from the exact schedule, by other formulas than the code's."""
    if process.schedule == "linear":
        signal = math.exp(-0.1 * time - 9.95 * time**2)
    else:
        signal = (1 + math.cos(math.pi * (time + 0.008) / 1.008)) / (1 + math.cos(math.pi * 0.008 / 1.008))
        signal = max(signal, 4e-5)
    return math.sqrt(signal), math.sqrt(1 - signal)


def exact(process: Diffusion, mixture: Mixture):
    """Return the network that predicts what it should, for actions from a mixture."""

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = (
            torch.tensor([amplitudes(process, t)[which] for t in time.tolist()], dtype=torch.float64)
            for which in (0, 1)
        )
        actions, noise = mixture.expected(noisy, alpha, sigma)
        a, s = alpha[:, None, None], sigma[:, None, None]
        return {"noise": noise, "sample": actions, "velocity": a * noise - s * actions}[process.prediction]

    return denoise


def test_the_cosine_schedule_s_end_points_and_middle() -> None:
    """Values of equation 17 of Nichol and Dhariwal, computed by hand in closed form."""
    time = torch.tensor([0.0, 0.496, 1.0], dtype=torch.float64)
    signal = cosine_schedule(time)
    assert signal[0].item() == pytest.approx(1.0, abs=1e-15)
    assert signal[1].item() == pytest.approx(0.5 / math.cos(math.pi * 0.004 / 1.008) ** 2, rel=1e-12)
    assert signal[2].item() == 4e-5


def test_the_linear_schedule_is_ddpm_s_in_small_steps() -> None:
    """Ho et al. 2020, section 4: ᾱ_k = Π (1 - β_k), with β from 1e-4 to 0.02 over 1000 steps."""
    products = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    time = torch.arange(1, 1001, dtype=torch.float64) / 1000
    np.testing.assert_allclose(linear_schedule(time).numpy(), products, atol=2e-3)
    assert linear_schedule(at(0.0)).item() == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_falls_all_the_way(schedule) -> None:
    signal = Diffusion(schedule=schedule).signal(torch.linspace(0, 1, 200))
    assert (signal.diff() < 0).all()
    assert 3e-5 < signal[-1] < 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("time", [0.0, 0.03, 0.5, 1.0])
def test_the_path_keeps_the_variance_and_its_targets_explain_it(schedule, time: float) -> None:
    actions, noise = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    alpha, sigma = amplitudes(Diffusion(schedule=schedule), time)
    for prediction in PREDICTIONS:
        process = Diffusion(schedule=schedule, prediction=prediction)
        noisy, target = process.corrupt(actions, noise=noise, time=at(time, 5))
        torch.testing.assert_close(noisy, alpha * actions + sigma * noise, atol=1e-7, rtol=0)
        expected = {"noise": noise, "sample": actions, "velocity": alpha * noise - sigma * actions}
        torch.testing.assert_close(target, expected[prediction], atol=1e-7, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_prediction_is_taken_apart_into_actions_and_noise(schedule, prediction) -> None:
    actions, noise = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    time = torch.tensor([0.02, 0.4, 1.0], dtype=torch.float64)
    process = Diffusion(schedule=schedule, prediction=prediction)
    found = process.separate(*process.corrupt(actions, noise=noise, time=time), time)
    torch.testing.assert_close(found, (actions, noise), atol=1e-9, rtol=0)


def test_clipped_actions_keep_explaining_what_is_seen() -> None:
    process = Diffusion(clip=0.5)
    actions, noise = torch.randn(2, 50, 2, 1, dtype=torch.float64)
    noisy, target = process.corrupt(actions, noise=noise, time=at(0.4, 50))
    believed, residual = process.separate(noisy, target, at(0.4, 50))
    assert (
        torch.equal(believed, actions.clamp(-0.5, 0.5))
        or (believed - actions.clamp(-0.5, 0.5)).abs().max() < 1e-12
    )
    alpha, sigma = amplitudes(process, 0.4)
    torch.testing.assert_close(alpha * believed + sigma * residual, noisy, atol=1e-12, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
def test_ddim_with_the_exact_score_follows_the_exact_flow(schedule, prediction, mixture: Mixture) -> None:
    """DDIM solves the probability flow with order one, whatever is predicted."""
    noise = grid(count=9)
    errors = []
    for num_steps in (100, 200):
        process = Diffusion(schedule=schedule, prediction=prediction, num_steps=num_steps)
        x = process.generate(exact(process, mixture), noise)
        errors.append((x - mixture.flow(noise, start=amplitudes(process, 1.0))).square().mean().sqrt().item())
    assert errors[1] < 0.05
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_ddim_finds_a_single_point_in_any_number_of_steps(schedule, num_steps: int) -> None:
    process = Diffusion(schedule=schedule, num_steps=num_steps)
    point = Mixture((0.7,), (0.0,), (1.0,))
    x = process.generate(exact(process, point), grid())
    torch.testing.assert_close(x, torch.full_like(x, 0.7), atol=1e-9, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_walks_the_forward_path_backwards(schedule) -> None:
    """With one possible action m, which is then known, every two points of the walk have the joint normal
    distribution of the forward path: means α m, and Cov(x_s, x_t) = α_t / α_s · σ_s² for s < t.
    """
    count, num_steps, m = 20_000, 5, 0.7
    process = Diffusion(schedule=schedule, sampler="ddpm", prediction="sample", num_steps=num_steps)
    noise = torch.randn(count, *process.noise_shape(1, 1), dtype=torch.float64)
    alpha_1, sigma_1 = amplitudes(process, 1.0)
    noise[:, 0] = alpha_1 * m + sigma_1 * noise[:, 0]
    walk: dict[float, Tensor] = {}

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        walk[time[0].item()] = noisy.flatten()
        return torch.full_like(noisy, m)

    end = process.generate(denoise, noise)
    torch.testing.assert_close(end, torch.full_like(end, m), atol=1e-12, rtol=0)
    np.testing.assert_allclose(list(walk), [1.0, 0.8, 0.6, 0.4, 0.2], atol=1e-12)
    points = torch.stack(list(walk.values()))
    a, s = np.array([amplitudes(process, t) for t in walk]).T
    variances = s**2
    expected = np.array(
        [[a[min(i, j)] / a[max(i, j)] * variances[max(i, j)] for j in range(5)] for i in range(5)]
    )
    np.testing.assert_allclose(points.mean(dim=1).numpy(), a * m, atol=5 / math.sqrt(count))
    np.testing.assert_allclose(points.cov().numpy(), expected, atol=7.5 / math.sqrt(count))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_with_the_exact_score_draws_from_the_distribution(schedule) -> None:
    process = Diffusion(schedule=schedule, sampler="ddpm", num_steps=150)
    noise = torch.randn(2500, *process.noise_shape(1, 1), dtype=torch.float64)

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = (torch.full_like(time, value) for value in amplitudes(process, time[0].item()))
        return TWO_MODES.expected(noisy, alpha, sigma)[1]

    samples = process.generate(denoise, noise).flatten().numpy()
    assert scipy.stats.kstest(samples, TWO_MODES.cdf).pvalue > 0.01
    assert scipy.stats.kstest(samples + 0.08, TWO_MODES.cdf).pvalue < 0.01


DIFFUSERS = {
    ("ddpm", "noise", 1.0): (
        -0.061564402423071346,
        -0.04951242526216231,
        -0.030065515930763804,
        -0.02110697197976818,
        -0.030863364819314593,
    ),
    ("ddpm", "sample", None): (
        0.7370475045828775,
        0.7446197197869369,
        0.7661953759339946,
        0.7749524970370713,
        0.7748906381057217,
    ),
    ("ddpm", "velocity", None): (
        -0.05564705736540078,
        -0.04357262369113532,
        -0.024112679563162154,
        -0.015159400184089136,
        -0.024937854973437843,
    ),
    ("ddim", "noise", None): (
        -459.25031188102577,
        -17.90871546276006,
        -124.03244739738466,
        271.8782394917875,
        213.02814550028907,
    ),
    ("ddim", "noise", 1.0): (-1.0, -1.0, -0.0819278824384406, 1.0, 1.0),
    ("ddim", "sample", None): (
        -0.755440642388695,
        -0.7555020860014513,
        0.758431573572875,
        0.7582427767715837,
        0.7199311686281472,
    ),
    ("ddim", "velocity", 1.0): (-1.0, -0.06911735366070645, -0.0651075295954291, 1.0, 1.0),
}
"""What diffusers 0.42.1 makes of the noise and the network below: DDPMScheduler (fixed_small) in 100 steps
and DDIMScheduler (trailing, use_clipped_model_output) in 10 of 100, in float64, with noise rates
1 - ᾱ_k / ᾱ_{k-1} of the cosine schedule.
"""


@pytest.mark.parametrize("setting", DIFFUSERS, ids=str)
def test_samplers_agree_with_those_of_diffusers(setting) -> None:
    sampler, prediction, clip = setting
    noise = torch.stack([torch.cos(torch.arange(5, dtype=torch.float64) + step) for step in range(100)], 1)
    noise[:, 0] = torch.linspace(-2, 2, 5, dtype=torch.float64)
    noise = noise[..., None, None]
    process = Diffusion(
        sampler=sampler, prediction=prediction, clip=clip, num_steps=100 if sampler == "ddpm" else 10
    )
    actions = process.generate(
        lambda x, t: torch.sin(3 * x + t[:, None, None]), noise if sampler == "ddpm" else noise[:, 0]
    )
    np.testing.assert_allclose(actions.flatten().numpy(), DIFFUSERS[setting], rtol=1e-9)


def test_ddpm_uses_each_noise_once_and_no_other() -> None:
    process = Diffusion(sampler="ddpm", num_steps=4)
    assert process.noise_shape(3, 2) == (4, 3, 2)
    noise = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    denoise = exact(process, NORMAL)
    first = process.generate(denoise, noise)
    assert torch.equal(first, process.generate(denoise, noise))
    for index in range(4):
        other = noise.clone()
        other[0, index] += 0.1
        changed = process.generate(denoise, other) - first
        assert (changed[0] != 0).all()
        assert (changed[1] == 0).all()


def test_ddpm_of_one_step_believes_the_network() -> None:
    process = Diffusion(sampler="ddpm", prediction="sample", num_steps=1)
    noise = torch.randn(2, 1, 3, 2)
    assert torch.equal(process.generate(lambda x, _: 2 * x, noise), 2 * noise[:, 0])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_diffusion_is_a_process_that_keeps_its_precision(sampler) -> None:
    process = Diffusion(sampler=sampler, num_steps=6)
    assert isinstance(process, Process)
    calls: list[Tensor] = []

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        calls.append(time)
        return noisy

    x = process.generate(denoise, torch.randn(2, *process.noise_shape(3, 1)))
    assert x.dtype == torch.float32
    assert len(calls) == process.num_evaluations == 6
    np.testing.assert_allclose([time[0] for time in calls], np.arange(6, 0, -1) / 6, atol=1e-7)


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one step of diffusion, found num_steps=0"):
        Diffusion(num_steps=0)
