"""Solvers and step counts on a robot policy: what one evaluation more buys, open loop, closed loop, in time.

    python -m studies.robot.solvers RUN OUTPUT [--episodes 20] [--quick]

Open loop, on frames of episodes that training never saw: how far a solver ends from where an adaptive one of
order 5 ends, how far from the expert, and how much chunks from different noise differ. Closed loop: the same
scenes and the same noise for every solver. Time: of one chunk on one thread, the step counts taken in turn.
All is computed in float32, but for what the policy's own precision adds to the error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pizero.data.collate import rows_of
from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE, new_figure
from pizero.generative.flow import FlowMatching
from pizero.generative.solvers import NUM_STAGES, Solver, dormand_prince
from pizero.policy.policy import Policy
from studies.robot.asking import Way, denoiser, load_exact, model_of
from studies.robot.closed_loop import paired, rate, run, scenes_of
from studies.robot.open_loop import NUM_NOISES, HeldOut, held_out, noise_for
from studies.robot.run_folder import Run, arguments, percent
from studies.toys.output import save, show

COLORS: dict[Solver, str] = {"euler": BLUE, "midpoint": GREEN, "heun": ORANGE, "rk4": "black"}
OPEN_LOOP = (1, 2, 3, 4, 5, 8, 10, 20, 40, 100)
CLOSED_LOOP: dict[Solver, tuple[int, ...]] = {
    "euler": (1, 2, 3, 5, 10, 20),
    "midpoint": (2, 10),
    "heun": (2, 4, 10),
    "rk4": (4,),
}
"""Evaluations of the network, which is what solvers are compared at."""

BASELINE = "euler-10"
TOLERANCE = 1e-5


def process_of(solver: Solver, evaluations: int) -> FlowMatching:
    """Return the process that spends so many evaluations with a solver."""
    return FlowMatching(solver=solver, num_steps=evaluations // NUM_STAGES[solver])


def open_loop(given: Run, seen: HeldOut, counts: Sequence[int], tolerance: float) -> dict[str, Any]:
    """Return errors of every solver on held-out frames, in normalised units."""
    model = model_of(load_exact(given.policy))
    field, noise = denoiser(model, seen.batch.inputs, repeats=NUM_NOISES), noise_for(seen, model.noise_shape)
    exact = dormand_prince(field, noise, tolerance=tolerance)

    def measured(made: Tensor) -> dict[str, Any]:
        difference = (made - exact).square().unflatten(0, (-1, NUM_NOISES))
        return {
            "solver_error": seen.average(difference),
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
    figure, axes = new_figure(1, 4, size=(12.5, 3.3))
    error, expert, success, clock = axes[0]
    opened, closed = record["open_loop"], record["closed_loop"]
    for solver, color in COLORS.items():
        rows = opened["solvers"][solver]
        counts = list(rows)
        for ax, key in ((error, "solver_error"), (expert, "expert_error")):
            ax.plot(
                counts,
                [row[key]["mean"] for row in rows.values()],
                "o-",
                color=color,
                markersize=3,
                label=solver,
            )
        shift = 1.05 ** (list(COLORS).index(solver) - 1.5)
        points = {int(name.split("-")[1]): row for name, row in closed.items() if name.startswith(solver)}
        places = [count * shift for count in points]
        success.plot(places, [row["success"] for row in points.values()], "o-", color=color, markersize=4)
        for place, row in zip(places, points.values(), strict=True):
            success.plot([place, place], row["interval"], color=color, alpha=0.4, linewidth=2.5)
    rounding = opened["own_precision"]["solver_error"]["mean"]
    error.axhline(rounding, color=GRAY, linestyle="--", linewidth=1, label="rounding to bfloat16")
    error.axhline(
        opened["adaptive"]["spread"]["mean"], color=GRAY, linewidth=1, label="between two noises (variance)"
    )
    expert.axhline(
        opened["adaptive"]["expert_error"]["mean"], color=GRAY, linewidth=1, label="adaptive solver"
    )
    error.set(title="squared error of the solver", xscale="log", yscale="log")
    expert.set(title="squared error to the expert", xscale="log", ylim=(0, None))
    success.set(title="success in closed loop", xscale="log", ylim=(0, 1.02))
    ratios = record["time"]["ratio_to_one_step"]
    clock.plot(list(ratios), list(ratios.values()), "o-", color=BLUE, markersize=4)
    clock.set(title="time of a chunk (1 step = 1)", xscale="log", yscale="log")
    for ax in axes[0]:
        ax.set_xlabel("evaluations of the network")
    error.legend(frameon=False, fontsize=7)
    expert.legend(frameon=False, fontsize=7)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    of = Run(given.run)
    solvers: dict[Solver, tuple[int, ...]] = {"euler": (10,), "heun": (2,)} if given.quick else CLOSED_LOOP
    ways = {
        f"{solver}-{count}": Way(policy=of.policy, process=process_of(solver, count))
        for solver, counts in solvers.items()
        for count in counts
    }
    seen = held_out(of, 4 if given.quick else 256)
    counts = (1, 4) if given.quick else OPEN_LOOP
    outcomes = run(ways, scenes_of(given))
    record = {
        "closed_loop": {
            name: {**rate(found), "against_" + BASELINE: paired(found, outcomes[BASELINE])}
            for name, found in outcomes.items()
        },
        "open_loop": open_loop(of, seen, counts, 0.1 if given.quick else TOLERANCE),
        "time": times(
            of, seen, (1, 2) if given.quick else (1, 2, 3, 5, 10, 20, 50, 100), 2 if given.quick else 25
        ),
    }
    save(given, record, draw_figure(record), name="solvers")
    opened = record["open_loop"]["solvers"]
    rows = []
    for name, found in record["closed_loop"].items():
        solver, count = name.split("-")
        point = opened[solver].get(int(count))
        rows.append(
            {
                "solver": solver,
                "evaluations": count,
                "success": percent(found),
                "steps": found["median_steps"],
                "alone / baseline alone": f"{found['against_' + BASELINE]['only_first']} / "
                f"{found['against_' + BASELINE]['only_second']}",
                "solver error": f"{point['solver_error']['mean']:.2g}" if point else "-",
                "expert error": f"{point['expert_error']['mean']:.4f}" if point else "-",
                "spread": f"{point['spread']['mean']:.4f}" if point else "-",
            }
        )
    show(rows)


if __name__ == "__main__":
    main()
