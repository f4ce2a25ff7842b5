"""Guidance on the instruction of a robot task: fidelity to what is told against diversity of what is done.

    python -m studies.robot.guidance RUN OUTPUT [--episodes 20] [--quick]

The policy of RUN learns on with a share of the instructions taken away, and is then asked between the empty
prompt (scale 0) and beyond the instruction (1): told its scene's task, and told another one. Fidelity is how
often what is told is done; diversity is the variance between chunks from different noise on held-out frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE, new_figure
from pizero.generative.flow import FlowMatching
from studies.robot.asking import Way
from studies.robot.closed_loop import paired, rate, run, scenes_of
from studies.robot.learning import learn, shortened
from studies.robot.open_loop import ask, held_out
from studies.robot.run_folder import Run, arguments, percent
from studies.toys.output import save, show

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)
TOLD_ANOTHER = (1.0, 3.0)
DROPOUT = 0.3
"""Of π*0.6 (arXiv 2511.14759)."""

RATE = 0.3
"""Learning on at a third of the recipe's rates."""


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw success, what else was done, and spread over the scale."""
    figure, axes = new_figure(1, 3, size=(10, 3.3))
    own, other, spread = axes[0]
    for ax, key, title in (
        (own, "own", "told the scene's own task"),
        (other, "another", "told another task"),
    ):
        rows = record[key]
        scales = [float(scale) for scale in rows]
        for shift, name, interval, color, label in (
            (-0.03, "success", "interval", BLUE, "scene's task done"),
            (0.03, "another", "another_interval", ORANGE, "another done"),
        ):
            places = [scale + shift for scale in scales]
            ax.plot(
                places, [row[name] for row in rows.values()], "o-", color=color, label=label, markersize=4
            )
            for place, row in zip(places, rows.values(), strict=True):
                ax.plot([place, place], row[interval], color=color, alpha=0.4, linewidth=2.5)
        ax.set(title=title, ylim=(-0.02, 1.02), xlabel="guidance scale")
    own.legend(frameon=False, fontsize=8)
    scales = [float(scale) for scale in record["open_loop"]]
    for key, color, label in (
        ("spread", GREEN, "variance between noises"),
        ("expert_error", GRAY, "error to expert"),
    ):
        means = [row[key]["mean"] for row in record["open_loop"].values()]
        spread.plot(scales, means, "o-", color=color, label=label, markersize=4)
    spread.set(title="held-out frames", xlabel="guidance scale", ylim=(0, None))
    spread.legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv, updates=300)
    of = Run(given.run)
    robot = of.contract.embodiment.name
    updates = given.updates
    config = shortened(of.config, updates, seed=given.seed, rate=RATE)
    folder = given.run / "studies" / "guidance" / f"dropout-{updates}"
    policy = learn(of, folder, config=config, process=FlowMatching(), dropout=DROPOUT, start=of.policy)[
        updates
    ]
    instructions = list(of.source().dataset.tasks)
    another = dict(zip(instructions, [*instructions[1:], instructions[0]], strict=True))
    scales, others = ((0.0, 2.0), (1.0,)) if given.quick else (SCALES, TOLD_ANOTHER)
    ways = {f"own-{scale}": Way(policy=policy, process=FlowMatching(), scale=scale) for scale in scales}
    ways |= {
        f"another-{scale}": Way(policy=policy, process=FlowMatching(), scale=scale, told=another)
        for scale in others
    }
    ways["before-1.0"] = Way(policy=of.policy, process=FlowMatching())
    ways["before-another"] = Way(policy=of.policy, process=FlowMatching(), told=another)
    outcomes = run(ways, scenes_of(given))
    seen = held_out(of, 4 if given.quick else 128)
    reference = outcomes["own-1.0"] if "own-1.0" in outcomes else outcomes["before-1.0"]
    found = {name: {**rate(row), "against_scale_1": paired(row, reference)} for name, row in outcomes.items()}
    record = {
        "robot": robot,
        "dropout": DROPOUT,
        "updates": updates,
        "told_another": another,
        "before": {"own": found["before-1.0"], "another": found["before-another"]},
        "own": {str(scale): found[f"own-{scale}"] for scale in scales},
        "another": {str(scale): found[f"another-{scale}"] for scale in others},
        "open_loop": {str(scale): ask(seen, ways[f"own-{scale}"]) for scale in scales},
    }
    save(given, record, draw_figure(record), name=f"guidance_{robot}")
    show(
        [
            {
                "way": name,
                "scene's task done": percent(row),
                "another done": f"{row['another']:.2f}",
                "ticks": row["median_steps"],
                "spread": f"{record['open_loop'][name[4:]]['spread']['mean']:.4f}"
                if name[:4] == "own-"
                else "-",
            }
            for name, row in found.items()
        ]
    )


if __name__ == "__main__":
    main()
