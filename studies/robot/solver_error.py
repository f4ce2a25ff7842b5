"""Error and time of solvers on a robot policy, from 1 to 100 evaluations, on frames that training never saw.

    python -m studies.robot.solver_error RUN OUTPUT [--quick]

How far a solver ends from where an adaptive one of order 5 ends, how far from the expert, and how much chunks
from different noise differ; the time of one chunk on one thread, the step counts taken in turn. All is
computed in float32, but for what the policy's own precision adds to the error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pizero.data.collate import rows_of
from pizero.diagnose.figures import BLUE, GRAY, new_figure
from pizero.generative.solvers import NUM_STAGES, dormand_prince
from pizero.policy.policy import Policy
from studies.robot.asking import denoiser, load_exact, model_of
from studies.robot.open_loop import NUM_NOISES, HeldOut, held_out, noise_for
from studies.robot.run_folder import Run, arguments
from studies.robot.solvers import COLORS, process_of
from studies.toys.output import save, show

EVALUATIONS = (1, 2, 3, 4, 5, 8, 10, 20, 40, 100)
TIMED = (1, 2, 3, 5, 10, 20, 50, 100)
TOLERANCE = 1e-5


def open_loop(given: Run, seen: HeldOut, counts: Sequence[int], tolerance: float) -> dict[str, Any]:
    """Return errors of every solver on held-out frames, in normalised units; `noise_left` is the share of the
    noise that is still in a chunk, by least squares.
    """
    model = model_of(load_exact(given.policy))
    field, noise = denoiser(model, seen.batch.inputs, repeats=NUM_NOISES), noise_for(seen, model.noise_shape)
    exact = dormand_prince(field, noise, tolerance=tolerance)

    def measured(made: Tensor) -> dict[str, Any]:
        return {
            "solver_error": seen.average((made - exact).square().unflatten(0, (-1, NUM_NOISES))),
            "noise_left": float(((made - exact) * noise).sum() / noise.square().sum()),
            **seen.measure(made.unflatten(0, (-1, NUM_NOISES))),
        }

    solvers = {
        solver: {
            count: measured(process_of(solver, count).generate(field, noise))
            for count in counts
            if count % NUM_STAGES[solver] == 0
        }
        for solver in COLORS
    }
    own = denoiser(model_of(Policy.load(given.policy)), seen.batch.inputs, repeats=NUM_NOISES)
    rounded = measured(process_of("rk4", counts[-1] // 4 * 4).generate(own, noise))
    return {
        "frames": len(seen.episodes),
        "noises": NUM_NOISES,
        "adaptive": measured(exact),
        "solvers": solvers,
        "own_precision": {"compute_dtype": given.config.model.compute_dtype, **rounded},
        "expert_error_of_mean": seen.mean_action_error,
    }


def times(given: Run, seen: HeldOut, counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return the processor time of one chunk at each number of Euler steps, taken in turn, on one thread."""
    policy = load_exact(given.policy)
    inputs = rows_of(seen.batch, slice(0, 1)).inputs
    noise = noise_for(seen, policy.model.noise_shape)[:1]
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for turn in range(rounds + 1):
        for count in counts:
            began = time.process_time()
            process_of("euler", count).generate(denoiser(model_of(policy), inputs), noise)
            if turn:  # the first round warms caches
                seconds[count].append(time.process_time() - began)
    medians = {count: float(np.median(row)) for count, row in seconds.items()}
    step, look = np.polyfit(list(medians), list(medians.values()), deg=1)
    return {
        "rounds": rounds,
        "milliseconds": {count: 1e3 * median for count, median in medians.items()},
        "ratio_to_one_step": {count: median / medians[counts[0]] for count, median in medians.items()},
        "look_in_steps": float(look / step),
    }


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw the errors of solvers, the variance between chunks, and the time of a chunk, over evaluations."""
    figure, axes = new_figure(1, 4, size=(12.5, 3.3))
    error, expert, spread, clock = axes[0]
    opened = record["open_loop"]
    for solver, color in COLORS.items():
        rows = opened["solvers"][solver]
        for ax, key in ((error, "solver_error"), (expert, "expert_error"), (spread, "spread")):
            means = [row[key]["mean"] for row in rows.values()]
            ax.plot(list(rows), means, "o-", color=color, markersize=3, label=solver)
    rounding = opened["own_precision"]
    label = f"rounding to {rounding['compute_dtype']}"
    error.axhline(rounding["solver_error"]["mean"], color=GRAY, linestyle="--", linewidth=1, label=label)
    for ax, key in ((expert, "expert_error"), (spread, "spread")):
        ax.axhline(opened["adaptive"][key]["mean"], color=GRAY, linewidth=1, label="adaptive solver")
    error.set(title="squared error of the solver", yscale="log")
    expert.set(title="squared error to the expert", ylim=(0, None))
    spread.set(title="variance between noises", ylim=(0, None))
    ratios = record["time"]["ratio_to_one_step"]
    clock.plot(list(ratios), list(ratios.values()), "o-", color=BLUE, markersize=4)
    clock.set(title="time of a chunk (1 step = 1)", yscale="log")
    for ax in axes[0]:
        ax.set(xlabel="evaluations of the network", xscale="log")
    error.legend(frameon=False, fontsize=7)
    expert.legend(frameon=False, fontsize=7)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    of, quick = Run(given.run), given.quick
    seen = held_out(of, 4 if quick else 128)
    counts, timed, rounds = ((1, 4), (1, 2), 2) if quick else (EVALUATIONS, TIMED, 25)
    record = {
        "open_loop": open_loop(of, seen, counts, 0.1 if quick else TOLERANCE),
        "time": times(of, seen, timed, rounds),
    }
    save(given, record, draw_figure(record), name="solver_error")
    show(
        [
            {
                "solver": solver,
                "evaluations": count,
                "solver error": f"{row['solver_error']['mean']:.2g}",
                "expert error": f"{row['expert_error']['mean']:.4f}",
                "spread": f"{row['spread']['mean']:.4f}",
                "noise left": f"{row['noise_left']:.3f}",
            }
            for solver, rows in record["open_loop"]["solvers"].items()
            for count, row in rows.items()
        ]
    )


if __name__ == "__main__":
    main()
