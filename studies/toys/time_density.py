"""Which flow times to train at: π0's Beta(1.5, 1), uniform, logit-normal, by quality and error over time.

    python -m studies.toys.time_density OUTPUT [--quick] [--seed N]

Eight Gaussians, whose velocity is known exactly, a checkerboard, and the chunks of two ways past a column (16
numbers, given the start), each learnt at the three densities with the same weights to start from and the same
number of updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pizero.diagnose.figures import new_figure
from pizero.generative.flow import FlowMatching
from pizero.generative.times import BetaTime, LogitNormalTime, TimeDensity, UniformTime
from studies.toys.common import Draw, Networks, Size, draw_noise, trained
from studies.toys.drawing import curve, level, styles
from studies.toys.measures import difference, noise_floor, quality, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.scene import NUM_WAYPOINTS, chunks
from studies.toys.targets import RING_STD, checkerboard, mixture_velocity, ring, ring_modes

FULL = Size(num_updates=2000)
DENSITIES: dict[str, TimeDensity] = {
    "Beta(1.5, 1)": BetaTime(),
    "uniform": UniformTime(),
    "logit-normal": LogitNormalTime(),
}
LOOK = styles(DENSITIES)
TARGETS: dict[str, tuple[Draw, int]] = {
    "eight Gaussians": (ring, 1),
    "checkerboard": (checkerboard, 1),
    "navigation": (chunks, NUM_WAYPOINTS),
}
NUM_STEPS = (10, 50)
TIMES = tuple(float(time) for time in np.linspace(0.025, 0.975, 20))


def error_by_time(networks: Networks, size: Size, seed: int) -> dict[float, Any]:
    """Return at each time the mean squared error of a coordinate of the velocity, against the exact one, on
    eight Gaussians.
    """
    generator = torch.Generator().manual_seed(seed)
    actions = ring(size.num_samples, generator)[0]
    noise = torch.randn(actions.shape, generator=generator)
    exact = partial(mixture_velocity, modes=ring_modes(), std=RING_STD)
    found = {}
    for time in TIMES:
        times = torch.full((len(actions),), time)
        noisy, _ = FlowMatching().corrupt(actions, noise=noise, time=times)
        truth = exact(noisy, times).repeat(size.num_members, 1, 1)
        seen = networks.bound()(noisy.repeat(size.num_members, 1, 1), torch.full((len(truth),), time))
        squared = (seen - truth).square().unflatten(0, (size.num_members, -1))
        found[time] = spread(squared.flatten(1).mean(dim=1).tolist())
    return found


def measure(target: str, density: str, size: Size, seed: int) -> tuple[dict[str, Any], Networks]:
    """Train at one density; return distances to the data by Euler steps, and the networks."""
    draw, horizon = TARGETS[target]
    networks = trained(FlowMatching(time=DENSITIES[density]), draw, size, seed=seed)
    noise = draw_noise(FlowMatching(), size, seed=seed + 1, horizon=horizon)
    _, starts = draw(size.num_samples, torch.Generator().manual_seed(seed + 2))
    bound = networks.bound(None if starts is None else starts.repeat(size.num_members, 1))
    steps = {
        num_steps: spread(
            quality(FlowMatching(num_steps=num_steps).generate(bound, noise), draw, size, seed=seed + 3)
        )
        for num_steps in NUM_STEPS
    }
    return {"distance": steps}, networks


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw quality on each target, and the error over flow time."""
    figure, axes = new_figure(1, 4, size=(11, 3.4))
    for ax, target in zip(axes[0], TARGETS, strict=False):
        found = record["targets"][target]
        for place, density in enumerate(DENSITIES):
            for shift, steps, fill in ((-0.15, NUM_STEPS[0], "none"), (0.15, NUM_STEPS[1], "full")):
                row, look = found[density]["distance"][steps], LOOK[density]
                ax.errorbar(
                    place + shift,
                    row["mean"],
                    row["interval"][1] - row["mean"],
                    fmt=look.marker,
                    color=look.color,
                    fillstyle=fill,
                    capsize=3,
                    markersize=6,
                )
        level(ax, found["noise_floor"]["mean"])
        ax.set_xticks(range(len(DENSITIES)), [name.replace("(", "\n(") for name in DENSITIES])
        ax.set(title=target, xlim=(-0.6, 2.6), ylim=(0, None))
    axes[0, 0].set_ylabel(f"distance to the data\n(hollow {NUM_STEPS[0]}, full {NUM_STEPS[1]} Euler steps)")
    ax = axes[0, 3]
    for density, look in LOOK.items():
        rows = record["targets"]["eight Gaussians"][density]["error_by_time"]
        curve(ax, rows, replace(look, marker=""), density, least=1e-4)
    ax.set(
        title="eight Gaussians: error of the velocity", xlabel="flow time (1 = noise)", ylabel="squared error"
    )
    ax.set(xlim=(1, 0), yscale="log")
    ax.legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    record: dict[str, Any] = {"size": vars(size), "targets": {}}
    for target, (draw, _) in TARGETS.items():
        found: dict[str, Any] = {}
        for density in DENSITIES:
            found[density], networks = measure(target, density, size, given.seed)
            if target == "eight Gaussians":
                found[density]["error_by_time"] = error_by_time(networks, size, given.seed + 5)
        ours = found["Beta(1.5, 1)"]["distance"]
        found["minus_beta"] = {
            density: {
                steps: difference(found[density]["distance"][steps]["values"], ours[steps]["values"])
                for steps in NUM_STEPS
            }
            for density in list(DENSITIES)[1:]
        }
        found["noise_floor"] = noise_floor(draw, size.num_samples, seed=given.seed + 4)
        record["targets"][target] = found
    save(given, record, draw_figure(record), name="time_density")
    show(
        [
            {
                "target": target,
                "density": density,
                **{
                    f"{n} steps": around(record["targets"][target][density]["distance"][n]) for n in NUM_STEPS
                },
                **{
                    f"minus Beta, {n}": around(record["targets"][target]["minus_beta"][density][n])
                    if density in record["targets"][target]["minus_beta"]
                    else ""
                    for n in NUM_STEPS
                },
                "floor": f"{record['targets'][target]['noise_floor']['mean']:.3f}",
            }
            for target in TARGETS
            for density in DENSITIES
        ]
    )


if __name__ == "__main__":
    main()
