"""What the 2-D studies measure by, against closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from pizero.generative.solvers import dormand_prince
from studies.toys import discretised, flow_and_diffusion, guidance, solvers_and_steps, targets
from studies.toys.common import Networks, Size, train
from studies.toys.measures import Recorder, difference, noise_floor, sliced_wasserstein, spread
from studies.toys.output import around, rounded
from studies.toys.scene import (
    BULGE,
    NUM_WAYPOINTS,
    SHARE_LEFT,
    WAYPOINT_STD,
    ahead,
    chunks,
    collides,
    demonstrate,
    mean_path,
    middle_density,
    passes_left,
    sideways,
    standard_deviation,
    to_actions,
    to_paths,
)
from tests.generative.closed_forms import Mixture


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_cloud_that_is_moved_is_as_far_away_as_the_move_seen_from_all_sides() -> None:
    """Every direction u sees the move d as |d · u|, whose mean over the circle is 2 |d| / π."""
    cloud, move = torch.randn(500, 1, 2), torch.tensor([0.3, -0.4])
    found = sliced_wasserstein(torch.stack([cloud + move, cloud]), cloud)
    assert found[0].item() == pytest.approx(0.5 * 2 / math.pi, rel=0.01)
    assert found[1].item() == 0


def test_the_distance_along_one_direction_is_scipy_s() -> None:
    ours, theirs = torch.randn(300, 1, 2), 1.5 * torch.randn(300, 1, 2) + 0.2
    angles = np.arange(32) * math.pi / 32
    expected = np.mean(
        [
            scipy.stats.wasserstein_distance(ours[:, 0].numpy() @ way, theirs[:, 0].numpy() @ way)
            for way in np.stack([np.cos(angles), np.sin(angles)], axis=1)
        ]
    )
    assert sliced_wasserstein(ours[None], theirs).item() == pytest.approx(expected, rel=1e-4)


def test_intervals_are_student_s() -> None:
    values = [0.3, 0.9, 0.4, 1.2]
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert spread(values)["interval"] == pytest.approx([low, high])
    paired = scipy.stats.ttest_rel(values, [0.1, 0.2, 0.3, 0.4]).confidence_interval(0.95)
    assert difference(values, [0.1, 0.2, 0.3, 0.4])["interval"] == pytest.approx(list(paired))


def test_the_noise_floor_falls_with_the_root_of_the_samples() -> None:
    few, many = (noise_floor(targets.ring, count, seed=0)["mean"] for count in (200, 3200))
    assert few / many == pytest.approx(4.0, rel=0.35)


def test_half_a_circle_is_a_detour_of_half_pi() -> None:
    recorder = Recorder(lambda noisy, time: noisy)
    angles = torch.linspace(0, math.pi, 200)
    points = torch.stack([angles.cos(), angles.sin()], dim=-1).view(-1, 1, 1, 2)
    for point in points[:-1]:
        recorder(point.repeat(2, 1, 1), torch.zeros(2))
    assert recorder.detour(points[-1].repeat(2, 1, 1), 2) == pytest.approx([math.pi / 2] * 2, rel=1e-3)


@pytest.mark.parametrize("draw", [targets.moons, targets.checkerboard, targets.ring, chunks])
def test_data_has_about_unit_variance_and_no_mean(draw) -> None:
    actions, _ = draw(40_000, seeded())
    assert actions.mean(dim=0).abs().max() < 0.05
    assert actions.var(dim=0).mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_exact_velocity_is_the_mixture_s_along_an_axis() -> None:
    """With modes on a line of equal height, the height tells nothing of the mode."""
    modes = torch.tensor([[-1.0, 0.4], [0.8, 0.4]])
    noisy, time = torch.randn(50, 1, 2, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    found = targets.mixture_velocity(noisy, time, modes=modes.double(), std=0.3)
    across = Mixture((-1.0, 0.8), (0.3, 0.3), (0.5, 0.5)).velocity(noisy[..., :1], time)
    height = Mixture((0.4,), (0.3,), (1.0,)).velocity(noisy[..., 1:], time)
    torch.testing.assert_close(found, torch.cat([across, height], dim=-1), atol=1e-6, rtol=0)


def test_the_exact_velocity_carries_noise_to_the_ring() -> None:
    noise = torch.randn(2000, 1, 2, generator=seeded(), dtype=torch.float64)

    def velocity(noisy: Tensor, time: Tensor) -> Tensor:
        modes = targets.ring_modes().double()
        return targets.mixture_velocity(noisy, time, modes=modes, std=targets.RING_STD)

    made = dormand_prince(velocity, noise, tolerance=1e-5).float()
    floor = noise_floor(targets.ring, 2000, seed=1)["quantile_95"]
    assert sliced_wasserstein(made[None], targets.ring(2000, seeded(2))[0]).item() < 1.2 * floor
    assert sliced_wasserstein(noise.float()[None], targets.ring(2000, seeded(2))[0]).item() > 1.2 * floor


def test_networks_of_other_members_do_not_meet() -> None:
    networks = Networks(num_members=2, generator=seeded(), condition_dim=1)
    noisy, time, condition = torch.randn(6, 1, 2), torch.rand(6), torch.randn(6, 1)
    before = networks(noisy, time, condition=condition)
    with torch.no_grad():
        networks.weights[0][1] += 1.0
    after = networks(noisy, time, condition=condition)
    assert torch.equal(before[:3], after[:3])
    assert (before[3:] != after[3:]).all()


def test_training_side_by_side_is_training_alone() -> None:
    """A member's gradient is that of its own mean error, whatever the others do."""
    size = Size(num_members=2, rows=16)
    actions, noise = torch.randn(2, size.batch, 1, 2, generator=seeded())

    def loss(networks: Networks, _average: Networks) -> Tensor:
        rows = networks.num_members * size.rows
        return (networks(noise[:rows], torch.ones(rows)) - actions[:rows]).square().flatten(1).mean(dim=1)

    both = Networks(num_members=2, generator=seeded())
    alone = Networks(num_members=1, generator=seeded())
    for ours, theirs in zip(alone.parameters(), both.parameters(), strict=True):
        ours.data.copy_(theirs[:1])
    for ours, theirs in zip(
        train(alone, loss, num_updates=20).parameters(),
        train(both, loss, num_updates=20).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs[:1], atol=1e-5, rtol=1e-4)


def test_demonstrations_pass_and_their_mean_collides() -> None:
    paths, start = demonstrate(4000, seeded())
    assert collides(paths, start).float().mean() < 0.01
    assert collides(mean_path(start), start).all()
    assert passes_left(paths).float().mean().item() == pytest.approx(SHARE_LEFT, abs=0.03)
    torch.testing.assert_close(paths.mean(dim=0), mean_path(torch.zeros(1, 2))[0], atol=0.02, rtol=0)
    torch.testing.assert_close(paths.std(dim=0), standard_deviation(), atol=0.01, rtol=0)
    torch.testing.assert_close(to_paths(to_actions(paths)), paths, atol=1e-5, rtol=0)


def test_collisions_are_found_between_waypoints() -> None:
    """A path whose waypoints are all free, and which crosses the column between two of them."""
    start = torch.zeros(1, 2)
    straight = ahead(start)
    across = straight.clone()
    across[0, :] = torch.tensor([0.0, 0.02])
    across[0, 4:] = torch.tensor([1.0, 1.0])
    left = straight + BULGE * sideways()
    far = ((across[0][:, None] - torch.tensor([[0.5, 0.5]])).norm(dim=-1) > 0.2).all()
    assert far
    assert collides(across, start).item()
    assert not collides(left, start).item()


@pytest.mark.parametrize("time", [0.2, 0.6, 1.0])
def test_the_probability_path_is_that_of_noisy_demonstrations(time: float) -> None:
    """Its integral is 1, and its mean and covariance are those of samples."""
    side = torch.linspace(-1.5, 2.5, 400)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    mass = middle_density(grid, time) * (side[1] - side[0]) ** 2
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-3)
    paths, start = demonstrate(100_000, seeded())
    place = NUM_WAYPOINTS // 2 - 1
    actions = to_actions(paths - start[:, None] * (1 - torch.arange(1, 9)[:, None] / 8))
    noisy = (1 - time) * actions + time * torch.randn(actions.shape, generator=seeded(1))
    points = to_paths(noisy)[:, place]
    mean = (mass[..., None] * grid).sum(dim=(0, 1))
    torch.testing.assert_close(mean, points.mean(dim=0), atol=4e-3, rtol=0)
    away = grid - mean
    covariance = torch.einsum("xy,xyi,xyj->ij", mass, away, away)
    torch.testing.assert_close(covariance, torch.cov(points.T), atol=2e-3, rtol=0)
    assert WAYPOINT_STD > 0


def test_when_a_curve_reaches_a_level() -> None:
    assert flow_and_diffusion.reached([10, 100], [3.0, 1.0], 2.0) == pytest.approx(math.sqrt(1000))
    assert flow_and_diffusion.reached([10, 100], [3.0, 1.0], 3.5) == 10
    assert flow_and_diffusion.reached([10, 100], [3.0, 1.0], 0.5) == math.inf


def test_twice_as_slow_a_method_takes_twice_the_updates() -> None:
    def curve(delay: float) -> dict[int, dict[str, list[float]]]:
        return {
            update: {"values": [(1 + 0.01 * member) * delay / update for member in range(5)]}
            for update in (100, 200, 400, 800, 1600)
        }

    found = {"flow": {"by_updates": curve(1)}, "diffusion of velocity": {"by_updates": curve(1)}}
    found["diffusion of noise"] = {"by_updates": curve(2)}
    result = flow_and_diffusion.equal_quality(found, seed=0)
    assert result["level"] == pytest.approx(2 / 1600 * 1.02)
    assert result["diffusion of noise"]["times_the_flow"]["value"] == pytest.approx(2.0, rel=1e-6)
    assert result["diffusion of velocity"]["times_the_flow"]["interval"] == pytest.approx([1.0, 1.0])


def test_the_order_of_a_solver_is_the_slope_of_its_error() -> None:
    rows = {n: {"error": {"mean": 7.0 * n**-2.0}} for n in (8, 20, 40, 100)} | {1: {"error": {"mean": 1e3}}}
    assert solvers_and_steps.slope(rows, 20) == pytest.approx(2.0)


def test_how_many_evaluations_are_enough() -> None:
    means = {1: 0.9, 2: 0.1, 4: 0.5, 8: 0.2, 16: 0.15}
    rows = {n: {"distance": {"mean": value}} for n, value in means.items()}
    assert solvers_and_steps.enough(rows, {"interval": [0.1, 0.3]}) == 8
    assert solvers_and_steps.enough(rows, {"interval": [0.0, 0.01]}) is None


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_sharpened_density_is_what_it_is_said_to_be(scale: float) -> None:
    """Its mean, by integration over a grid."""
    side = torch.linspace(-3.5, 3.5, 300)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    away = (grid[..., None, :] - guidance.middles()).square().sum(dim=-1)
    weight = torch.exp(-away / (2 * guidance.CLASS_STD**2)).sum(dim=-1)
    weight = weight * guidance.posterior(grid)[..., 0] ** scale
    expected = (weight[..., None] * grid).sum(dim=(0, 1)) / weight.sum()
    found = guidance.sharpened(scale, 20_000, seeded())[:, 0].mean(dim=0)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_bins_err_by_their_width_over_the_root_of_twelve() -> None:
    actions = 2 * torch.rand(20_000, 5, 1, generator=seeded()) - 1
    for bins in (16, 256):
        index = discretised.index_of(actions, bins)
        error = (discretised.middle_of(index, bins) - actions).square().mean().sqrt().item()
        assert error == pytest.approx(2 / bins / math.sqrt(12), rel=0.01)
        assert len(index.unique()) == bins
    outside = discretised.index_of(torch.tensor([-7.0, 1.0, 7.0]), 4)
    assert discretised.middle_of(outside, 4).tolist() == [-0.75, 0.75, 0.75]


@pytest.mark.parametrize("kind", discretised.KINDS.values(), ids=list(discretised.KINDS))
def test_chunks_are_normalised_and_restored(kind: discretised.Kind) -> None:
    chunks, condition = kind.draw(300, seeded())
    normalised = kind.normalise(chunks)
    assert normalised.abs().max() <= 1.0 + 1e-5
    assert normalised.abs().max() > 0.8
    torch.testing.assert_close(kind.restore(normalised, chunks), chunks, atol=1e-6, rtol=0)
    assert condition.shape == (300, 4)


def test_what_is_known_of_every_step_is_in_the_order_of_chunks() -> None:
    chunks, condition = discretised.circle(3, seeded())
    known = discretised.every_step(condition).view(3, discretised.HORIZON, -1)
    centre = known[..., :2]
    assert torch.equal(centre, condition[:, None, :2].expand_as(centre))
    assert len(known[0].unique(dim=0)) == discretised.HORIZON
    assert torch.equal(known[0, :, 4:], known[2, :, 4:])
    assert chunks.shape == (3, discretised.HORIZON, discretised.ACTION_DIM)


def test_roughness_of_what_is_recorded_is_one() -> None:
    size = Size(num_members=2, num_samples=10)
    chunks, _ = discretised.circle(20, seeded())
    same = discretised.judge(chunks, chunks, size)
    assert same["roughness"]["mean"] == pytest.approx(1.0)
    assert same["error"]["mean"] == 0
    jitter = 0.01 * (-1.0) ** torch.arange(discretised.HORIZON)[:, None]
    rough = discretised.judge(torch.zeros_like(chunks) + jitter, chunks, size)
    step = 2 * math.pi * discretised.TURNS / (discretised.HORIZON - 1)
    bend = discretised.RADIUS * (2 * math.sin(step / 2)) ** 2 / math.sqrt(2)
    assert rough["roughness"]["mean"] == pytest.approx(0.04 / bend, rel=0.05)


def test_numbers_are_written_with_five_digits() -> None:
    assert rounded({"a": [1 / 3, {"b": 123456.789}], 2: None}) == {"a": [0.33333, {"b": 123460.0}], "2": None}
    assert around({"mean": 1.0, "interval": [0.5, 1.5]}, 1) == "1.0 ± 0.5"
    assert around(None) == "-"
