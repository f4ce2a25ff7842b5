"""What 1, 5 and 10 steps buy when the time of a chunk is charged to the control loop.

    python -m studies.robot.control_rate RUN OUTPUT [--episodes 20] [--quick]

The demo's network answers within a tick. So it is charged what full-size models take, as published for three
machines (`MACHINES`): milliseconds to look and of each step, rounded up to control ticks. Meanwhile the robot
goes on with its chunk (naive asynchronous execution), or stands still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from pizero.diagnose.figures import BLUE, GREEN, ORANGE, new_figure
from pizero.generative.flow import FlowMatching
from studies.robot.asking import Execution, Way
from studies.robot.closed_loop import paired, rate, run, scenes_of
from studies.robot.run_folder import Run, arguments, percent
from studies.toys.output import save, show


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a full-size model takes on a machine, in milliseconds, and where that was published."""

    look: float
    step: float
    source: str

    def latency(self, num_steps: int, rate: float) -> int:
        """Return the control ticks between an observation and its chunk."""
        return math.ceil((self.look + num_steps * self.step) / 1000 * rate)


MACHINES: Mapping[str, Machine] = {
    "RTX 4090, JAX": Machine(
        look=46.0,
        step=2.7,
        source="π0 with three cameras: 14 + 32 + 27 ms of ten steps; arXiv 2410.24164, appendix",
    ),
    "Jetson Orin, tuned": Machine(
        look=113.9,
        step=5.18,
        source="π0.5: 119.05 ms of one step, 165.67 of ten; release notes of ApxInf 0.1",
    ),
    "PyTorch, eager": Machine(
        look=61.8, step=21.2, source="π0.5: 83 ms of one step, 274 of ten; arXiv 2604.05656"
    ),
}
NUM_STEPS = {1: ORANGE, 5: GREEN, 10: BLUE}
LONGEST = (10, 5)
"""(steps, ticks) that no machine asks for: the longest latency that chunks of ten allow a moving robot."""


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw success and the time of a success over the ticks that a chunk takes."""
    figure, axes = new_figure(2, 2, size=(9, 6))
    for column, kind in enumerate(("naive", "receding")):
        title = "goes on with its chunk" if kind == "naive" else "stands still meanwhile"
        for place, (number, color) in enumerate(NUM_STEPS.items()):
            rows = [
                row
                for row in record["cells"]
                if row["steps"] == number and (row["kind"] == kind or not row["ticks"])
            ]
            rows.sort(key=lambda row: row["ticks"])
            at = [row["ticks"] + 0.08 * (place - 1) for row in rows]
            label = f"{number} step" + "s" * (number > 1)
            for ax, key in zip(axes[:, column], ("success", "median_steps"), strict=True):
                ax.plot(at, [row[key] for row in rows], "o-", color=color, label=label, markersize=4)
            for x, row in zip(at, rows, strict=True):
                axes[0, column].plot([x, x], row["interval"], color=color, alpha=0.4, linewidth=2.5)
        axes[0, column].set(title=f"success: the robot {title}", ylim=(0, 1.02))
        slowest = max(row["median_steps"] or 1 for row in record["cells"])
        axes[1, column].set(
            title="median ticks to success",
            ylim=(0, 1.1 * slowest),
            xlabel="control ticks from look to chunk",
        )
    axes[0, 0].legend(frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    of = Run(given.run)
    robot, horizon = of.contract.embodiment, of.contract.horizon
    longest = horizon - horizon // 2
    cells: set[tuple[int, int, Execution]] = {(number, 0, "receding") for number in NUM_STEPS}
    for machine in list(MACHINES.values())[: 1 if given.quick else None]:
        for number in NUM_STEPS:
            ticks = machine.latency(number, robot.rate)
            if number in (min(NUM_STEPS), max(NUM_STEPS)):
                cells.add((number, ticks, "receding"))
            if ticks <= longest:
                cells.add((number, ticks, "naive"))
    if not given.quick:
        cells.add((*LONGEST, "naive"))
    ways = {
        f"{number}-{ticks}-{kind}": Way(
            policy=of.policy, process=FlowMatching(num_steps=number), latency=ticks, kind=kind
        )
        for number, ticks, kind in sorted(cells)
    }
    outcomes = run(ways, scenes_of(given))
    baseline = outcomes["10-0-receding"]
    found = [
        {
            "steps": way.process.num_steps,
            "ticks": way.latency,
            "kind": way.kind,
            **rate(outcomes[name]),
            "against_no_latency": paired(outcomes[name], baseline),
        }
        for name, way in ways.items()
    ]
    machines = {
        name: {
            **vars(machine),
            "milliseconds": {number: machine.look + number * machine.step for number in NUM_STEPS},
            "ticks": {number: machine.latency(number, robot.rate) for number in NUM_STEPS},
        }
        for name, machine in MACHINES.items()
    }
    record = {"rate": robot.rate, "num_executed": horizon // 2, "machines": machines, "cells": found}
    save(given, record, draw_figure(record), name="control_rate")
    by_cell = {(row["steps"], row["ticks"], row["kind"]): row for row in found}
    rows = []
    for name, machine in machines.items():
        for number in NUM_STEPS:
            ticks = machine["ticks"][number]
            moving, still = (by_cell.get((number, ticks, kind)) for kind in ("naive", "receding"))
            rows.append(
                {
                    "machine": name,
                    "steps": number,
                    "ms": f"{machine['milliseconds'][number]:.0f}",
                    "ticks": ticks,
                    "goes on": percent(moving) if moving else "-",
                    "its ticks": moving["median_steps"] if moving else "-",
                    "stands still": percent(still) if still else "-",
                    "still's ticks": still["median_steps"] if still else "-",
                }
            )
    show(rows)


if __name__ == "__main__":
    main()
