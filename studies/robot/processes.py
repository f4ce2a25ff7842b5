"""Flow against diffusion on a robot: learning curves, and success by number of evaluations.

    python -m studies.robot.processes RUN OUTPUT [--episodes 10] [--updates 400] [--quick]

The same network, first weights, batches and noise for all, by the run's recipe in fewer updates: the straight
path with π0's times, and the variance-preserving path (cosine schedule, uniform times) whose network predicts
the noise, as in Diffusion Policy, or the velocity. Diffusion samples by DDIM, flow by Euler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE, new_figure
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from studies.robot.asking import AnyProcess, Way
from studies.robot.closed_loop import paired, rate, run, scenes_of
from studies.robot.learning import learn, shortened
from studies.robot.open_loop import ask, held_out
from studies.robot.run_folder import Run, arguments, percent
from studies.toys.output import save, show

COLORS = {"flow": BLUE, "diffusion-velocity": GREEN, "diffusion-noise": ORANGE}
SNAPSHOTS = (1 / 12, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 5 / 6)
"""Shares of the updates after which policies are kept."""

IN_CLOSED_LOOP = (1 / 6, 1 / 3)
EVALUATIONS = (1, 2, 5, 10, 20)
USUAL = 10


def largest_action(of: Run) -> float:
    """Return the largest magnitude of a normalised number in the data's actions."""
    found, epsilon = of.contract.statistics.actions, of.contract.epsilon
    ends = np.abs(np.array([found.minimum, found.maximum]) - found.mean)
    return float((ends / (np.array(found.std) + epsilon)).max())


def processes_of(clip: float) -> dict[str, AnyProcess]:
    """Return the processes; the one that predicts noise believes in no action larger than `clip`.

    At time 1 an action is what is left of the noisy one after the noise is taken away, divided by the root of
    4e-5: without a bound a policy that predicts noise cannot be asked in few steps.
    """
    return {
        "flow": FlowMatching(),
        "diffusion-velocity": Diffusion(prediction="velocity"),
        "diffusion-noise": Diffusion(prediction="noise", clip=clip),
    }


def updates_to(curve: Mapping[int, Any], error: float) -> float | None:
    """Return after how many updates a curve is at an error for good, interpolated; None if it never is."""
    steps = np.array(list(curve), dtype=float)
    errors = np.array([row["expert_error"]["mean"] for row in curve.values()])
    above = np.flatnonzero(errors > error)
    if len(above) == 0:
        return float(steps[0])
    last = int(above[-1])
    if last == len(steps) - 1:
        return None
    share = np.log(errors[last] / error) / np.log(errors[last] / errors[last + 1])
    return float(steps[last] + share * (steps[last + 1] - steps[last]))


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw learning curves open loop, in closed loop, and success and error by evaluations."""
    figure, axes = new_figure(1, 4, size=(12.5, 3.3))
    curve, learning, success, error = axes[0]
    for place, (name, found) in enumerate(record["processes"].items()):
        color, shift = COLORS[name], 1.05 ** (place - 1)
        at = list(found["curve"])
        means = [row["expert_error"]["mean"] for row in found["curve"].values()]
        curve.plot(at, means, "o-", color=color, label=name.replace("-", ", "), markersize=3)
        for ax, rows in ((learning, found["learning"]), (success, found["closed_loop"])):
            places = [count * shift for count in rows]
            ax.plot(places, [row["success"] for row in rows.values()], "o-", color=color, markersize=4)
            for x, row in zip(places, rows.values(), strict=True):
                ax.plot([x, x], row["interval"], color=color, alpha=0.4, linewidth=2.5)
        rows = found["open_loop"]
        error.plot(
            list(rows),
            [row["expert_error"]["mean"] for row in rows.values()],
            "o-",
            color=color,
            markersize=4,
        )
    curve.axhline(
        record["expert_error_of_mean"], color=GRAY, linestyle="--", linewidth=1, label="mean action"
    )
    curve.set(title=f"error to the expert, {USUAL} evaluations", xlabel="updates", yscale="log")
    learning.set(title=f"success, {USUAL} evaluations", xlabel="updates", ylim=(0, 1.02))
    success.set(title="success at the end", xlabel="evaluations", xscale="log", ylim=(0, 1.02))
    error.set(title="error to the expert at the end", xlabel="evaluations", xscale="log", yscale="log")
    curve.legend(frameon=False, fontsize=7)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv, updates=400, episodes=10)
    of = Run(given.run)
    seen, clip = held_out(of, 4 if given.quick else 128), largest_action(of)
    config = shortened(of.config, given.updates, seed=given.seed)
    steps = [round(share * given.updates) for share in SNAPSHOTS][-1 if given.quick else 0 :]
    counts = (USUAL,) if given.quick else EVALUATIONS
    watched = [] if given.quick else [round(share * given.updates) for share in IN_CLOSED_LOOP]
    found: dict[str, Any] = {}
    ways: dict[tuple[str, str, int], Way] = {}
    for name, process in processes_of(clip).items():
        folder = given.run / "studies" / "trained" / f"{name}-{given.updates}-seed{given.seed}"
        made = learn(of, folder, config=config, process=process, snapshots=steps)
        usual = replace(process, num_steps=USUAL)
        found[name] = {
            "curve": {step: ask(seen, Way(policy=path, process=usual)) for step, path in made.items()},
            "open_loop": {},
        }
        for count in counts:
            way = Way(policy=made[given.updates], process=replace(process, num_steps=count))
            found[name]["open_loop"][count] = ask(seen, way)
            ways[name, "closed_loop", count] = way
        for step in watched:
            ways[name, "learning", step] = Way(policy=made[step], process=usual)
    outcomes = run({"/".join(map(str, key)): way for key, way in ways.items()}, scenes_of(given))
    for name, kind, count in ways:
        ours, flows = (outcomes[f"{process}/{kind}/{count}"] for process in (name, "flow"))
        row = {**rate(ours), "against_flow": paired(ours, flows)}
        found[name].setdefault(kind, {})[count] = row
    for row in found.values():
        row.setdefault("learning", {})[given.updates] = row["closed_loop"][USUAL]
        row["updates_to_flows_error"] = {
            step: updates_to(row["curve"], point["expert_error"]["mean"])
            for step, point in found["flow"]["curve"].items()
        }
    record = {
        "updates": given.updates,
        "clip": clip,
        "expert_error_of_mean": seen.mean_action_error,
        "processes": found,
    }
    save(given, record, draw_figure(record), name="processes")
    show(
        [
            {
                "process": name,
                **{f"success at {count}": percent(row["closed_loop"][count]) for count in counts},
                **{f"after {step}": f"{row['learning'][step]['success']:.2f}" for step in watched},
                **{
                    f"error after {step}": f"{row['curve'][step]['expert_error']['mean']:.3f}"
                    for step in steps[::3]
                },
            }
            for name, row in found.items()
        ]
    )


if __name__ == "__main__":
    main()
