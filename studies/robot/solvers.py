"""Solvers and step counts on a robot policy in closed loop: what one evaluation of the network more buys.

    python -m studies.robot.solvers RUN OUTPUT [--episodes 20] [--quick]

The same scenes and the same noise for every solver; all is computed in float32. What a solver's error is, and
its time, is another study's (`solver_error`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pizero.diagnose.figures import BLUE, GREEN, ORANGE, new_figure
from pizero.generative.flow import FlowMatching
from pizero.generative.solvers import NUM_STAGES, Solver
from studies.robot.asking import Way
from studies.robot.closed_loop import paired, rate, run, scenes_of
from studies.robot.run_folder import Run, arguments, percent
from studies.toys.output import save, show

COLORS: dict[Solver, str] = {"euler": BLUE, "midpoint": GREEN, "heun": ORANGE, "rk4": "black"}
EVALUATIONS: dict[Solver, tuple[int, ...]] = {
    "euler": (1, 2, 3, 5, 10, 20),
    "midpoint": (2, 10),
    "heun": (2, 4, 10),
    "rk4": (4,),
}
"""Evaluations of the network, which is what solvers are compared at."""

BASELINE = "euler-10"


def process_of(solver: Solver, evaluations: int) -> FlowMatching:
    """Return the process that spends so many evaluations with a solver."""
    return FlowMatching(solver=solver, num_steps=evaluations // NUM_STAGES[solver])


def draw_figure(closed: dict[str, Any]) -> Figure:
    """Draw success, and the time that a success takes, over evaluations."""
    figure, axes = new_figure(1, 2, size=(8, 3.4))
    success, ticks = axes[0]
    for place, (solver, color) in enumerate(COLORS.items()):
        points = {int(name.split("-")[1]): row for name, row in closed.items() if name.startswith(solver)}
        at = [count * 1.05 ** (place - 1.5) for count in points]
        success.plot(at, [row["success"] for row in points.values()], "o-", color=color, label=solver)
        ticks.plot(at, [row["median_steps"] for row in points.values()], "o-", color=color)
        for x, row in zip(at, points.values(), strict=True):
            success.plot([x, x], row["interval"], color=color, alpha=0.4, linewidth=2.5)
    success.set(title="success, Wilson 95 % interval", ylim=(0, 1.02))
    ticks.set(title="median control ticks of a success", ylim=(0, None))
    for ax in axes[0]:
        ax.set(xlabel="evaluations of the network", xscale="log")
        ax.set_xticks([1, 2, 3, 5, 10, 20], ["1", "2", "3", "5", "10", "20"])
        ax.minorticks_off()
    success.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    of = Run(given.run)
    solvers: dict[Solver, tuple[int, ...]] = {"euler": (10,), "heun": (2,)} if given.quick else EVALUATIONS
    ways = {
        f"{solver}-{count}": Way(policy=of.policy, process=process_of(solver, count))
        for solver, counts in solvers.items()
        for count in counts
    }
    outcomes = run(ways, scenes_of(given))
    closed = {
        name: {**rate(found), f"against_{BASELINE}": paired(found, outcomes[BASELINE])}
        for name, found in outcomes.items()
    }
    save(given, {"closed_loop": closed}, draw_figure(closed), name="solvers")
    show(
        [
            {
                "solver": name,
                "success": percent(row),
                "ticks": row["median_steps"],
                "alone": row[f"against_{BASELINE}"]["only_first"],
                f"{BASELINE} alone": row[f"against_{BASELINE}"]["only_second"],
                "chance": f"{row[f'against_{BASELINE}']['chance']:.2g}",
            }
            for name, row in closed.items()
        ]
    )


if __name__ == "__main__":
    main()
