"""Euler, midpoint, Heun and RK4 at the same number of evaluations: error of the solver, quality of samples.

    python -m studies.toys.solvers_and_steps OUTPUT [--quick] [--seed N]

Two fields: that of eight Gaussians, which is known exactly, and one that networks learnt from a checkerboard.
The error is the root mean square distance to where an adaptive solver of order 5 leads from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pizero.diagnose.figures import new_figure
from pizero.generative.flow import FlowMatching
from pizero.generative.process import Denoise
from pizero.generative.solvers import NUM_STAGES, Solver, dormand_prince
from pizero.generative.times import UniformTime
from studies.toys.common import Draw, Size, draw_noise, trained
from studies.toys.drawing import curve, level, logarithmic, styles
from studies.toys.measures import noise_floor, quality, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.targets import RING_STD, checkerboard, mixture_velocity, ring, ring_modes

FULL = Size(num_updates=4000, num_samples=1024)
EVALUATIONS = (1, 2, 4, 8, 12, 20, 40, 60, 100)
SOLVERS: tuple[Solver, ...] = ("euler", "heun", "midpoint", "rk4")
LOOK = styles(SOLVERS)
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-6}
"""Of the adaptive solver, by the precision in which a field is known."""


def measure(denoise: Denoise, draw: Draw, noise: Tensor, size: Size, seed: int) -> dict[str, Any]:
    """Return errors and distances to the data, by solver and by number of evaluations."""
    exact = dormand_prince(denoise, noise, tolerance=TOLERANCES[noise.dtype])
    found: dict[str, Any] = {
        "reference": spread(quality(exact.float(), draw, size, seed=seed + 2)),
        "noise_floor": noise_floor(draw, size.num_samples, seed=seed + 3),
        "solvers": {},
    }
    for solver in SOLVERS:
        rows = found["solvers"][solver] = {}
        for evaluations in EVALUATIONS:
            if evaluations % NUM_STAGES[solver]:
                continue
            process = FlowMatching(num_steps=evaluations // NUM_STAGES[solver], solver=solver)
            made: Tensor = process.generate(denoise, noise)
            error = (made - exact).flatten(1).square().sum(dim=1)
            rows[process.num_evaluations] = {
                "error": spread(error.unflatten(0, (size.num_members, -1)).mean(dim=1).sqrt().tolist()),
                "distance": spread(quality(made.float(), draw, size, seed=seed + 2)),
            }
    return found


def slope(rows: dict[int, Any], least: int) -> float:
    """Return the order of convergence: minus the slope of the error over evaluations, both as logarithms."""
    kept = [(n, row["error"]["mean"]) for n, row in rows.items() if n >= least]
    return float(-np.polyfit(*np.log(np.array(kept)).T, deg=1)[0])


def enough(rows: dict[int, Any], reference: dict[str, Any]) -> int | None:
    """Return the fewest evaluations from which on samples are within the reference's interval, or better."""
    good = {n: row["distance"]["mean"] <= reference["interval"][1] for n, row in rows.items()}
    return next((n for n in good if all(good[later] for later in good if later >= n)), None)


def draw_figure(fields: dict[str, Any]) -> Figure:
    """Draw for each field the solvers' errors and the quality of samples over evaluations."""
    figure, axes = new_figure(2, 2, size=(9, 6.4))
    for row, (name, found) in zip(axes, fields.items(), strict=True):
        for solver in SOLVERS:
            rows = found["solvers"][solver]
            for ax, key in zip(row, ("error", "distance"), strict=True):
                curve(ax, {n: point[key] for n, point in rows.items()}, LOOK[solver], solver, least=1e-6)
        row[0].set(title=f"{name}: error of the solver", ylabel="distance to the exact end")
        row[1].set(title=f"{name}: quality of samples", ylabel="distance to the data")
        level(row[1], found["reference"]["mean"], "adaptive solver")
        level(row[1], found["noise_floor"]["mean"], "two draws of the data", line=(0, (1, 1)))
        logarithmic(row[0], x=EVALUATIONS, y=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0))
        logarithmic(row[1], x=EVALUATIONS, y=(0.03, 0.1, 0.3, 1.0))
        for ax in row:
            ax.set_xlabel("evaluations of the network")
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    learnt = trained(FlowMatching(time=UniformTime()), checkerboard, size, seed=given.seed)
    exact = partial(mixture_velocity, modes=ring_modes(), std=RING_STD)
    noise = draw_noise(FlowMatching(), size, seed=given.seed + 1)
    fields = {
        "eight Gaussians, exact": measure(exact, ring, noise.double(), size, given.seed),
        "checkerboard, learnt": measure(learnt.bound(), checkerboard, noise, size, given.seed),
    }
    for found in fields.values():
        found["order"] = {solver: slope(rows, 20) for solver, rows in found["solvers"].items()}
        found["enough"] = {
            solver: enough(rows, found["reference"]) for solver, rows in found["solvers"].items()
        }
    record = {"size": vars(size), "fields": fields}
    save(given, record, draw_figure(fields), name="solvers_and_steps")
    show(
        [
            {
                "field": name,
                "solver": solver,
                **{
                    f"error at {n}": f"{rows[n]['error']['mean']:.4f}" if n in rows else "-"
                    for n in (1, 4, 8, 20, 100)
                },
                "distance at 8": around(rows[8]["distance"]),
                "order": f"{found['order'][solver]:.2f}",
                "enough": found["enough"][solver],
            }
            for name, found in fields.items()
            for solver, rows in found["solvers"].items()
        ]
    )


if __name__ == "__main__":
    main()
