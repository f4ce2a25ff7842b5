"""Which flow times to train at, on a robot: π0's Beta(1.5, 1), uniform, logit-normal.

    python -m studies.robot.time_density RUN OUTPUT [--episodes 10] [--updates 400] [--seeds 0 1] [--quick]

By the run's recipe in fewer updates, with the same first weights, batches, noise and uniform numbers behind
the times for all densities; each seed has its own. Judged by the error to the expert on held-out frames, by
the velocity's error at each time, and in closed loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pizero.diagnose.figures import BLUE, GREEN, ORANGE, new_figure
from pizero.generative.flow import FlowMatching
from pizero.generative.times import BetaTime, LogitNormalTime, TimeDensity, UniformTime
from pizero.results import wilson_interval
from studies.robot.asking import Way, denoiser, load_exact, model_of
from studies.robot.closed_loop import paired, rate, run, scenes_of
from studies.robot.learning import learn, shortened
from studies.robot.open_loop import NUM_NOISES, HeldOut, ask, held_out, noise_for
from studies.robot.run_folder import Run, arguments, percent
from studies.toys.output import save, show

DENSITIES: dict[str, TimeDensity] = {
    "flow": BetaTime(),
    "flow-uniform": UniformTime(),
    "flow-logit-normal": LogitNormalTime(),
}
LABELS = {"flow": "Beta(1.5, 1)", "flow-uniform": "uniform", "flow-logit-normal": "logit-normal"}
COLORS = {"flow": BLUE, "flow-uniform": ORANGE, "flow-logit-normal": GREEN}
TIMES = tuple(float(time) for time in np.linspace(0.05, 0.95, 10))
NUM_STEPS = (1, 10)


def error_by_time(seen: HeldOut, policy: Path) -> dict[float, Any]:
    """Return the squared error of the velocity at each time, on held-out frames."""
    model = model_of(load_exact(policy))
    field, noise = denoiser(model, seen.batch.inputs, repeats=NUM_NOISES), noise_for(seen, model.noise_shape)
    actions = seen.batch.actions.repeat_interleave(NUM_NOISES, dim=0)
    found = {}
    for time in TIMES:
        at = torch.full((len(actions),), time)
        noisy, velocity = FlowMatching().corrupt(actions, noise=noise, time=at)
        found[time] = seen.average((field(noisy, at) - velocity).square().unflatten(0, (-1, NUM_NOISES)))
    return found


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw success and errors, a point for each seed, and the velocity's error over flow time."""
    figure, axes = new_figure(1, 3, size=(10, 3.3))
    success, error, velocity = axes[0]
    for place, (name, color) in enumerate(COLORS.items()):
        found = record["densities"][name]
        for shift, steps, marker in ((-0.12, NUM_STEPS[0], "o"), (0.12, NUM_STEPS[1], "s")):
            row = found["closed_loop"][steps]
            success.plot([place + shift] * 2, row["interval"], color=color, alpha=0.4, linewidth=2.5)
            success.plot(place + shift, row["success"], marker, color=color, markersize=5)
            for seed in found["seeds"].values():
                mean = seed["open_loop"][steps]["expert_error"]["mean"]
                error.plot(place + shift, mean, marker, color=color, markersize=5)
        for number, seed in enumerate(found["seeds"].values()):
            means = [row["mean"] for row in seed["error_by_time"].values()]
            velocity.plot(TIMES, means, color=color, linewidth=1.2, label=None if number else LABELS[name])
    for ax in (success, error):
        ax.set_xticks(range(len(LABELS)), list(LABELS.values()), fontsize=8)
    success.set(title=f"success (● {NUM_STEPS[0]}, ■ {NUM_STEPS[1]} steps)", ylim=(0, 1.02))
    error.set(title="error to the expert, each seed", ylim=(0, None))
    velocity.set(title="error of the velocity", xlabel="flow time (1 = noise)", xlim=(1, 0), yscale="log")
    velocity.legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv, updates=400, seeds=(0, 1), episodes=10)
    of = Run(given.run)
    seen = held_out(of, 4 if given.quick else 128)
    found: dict[str, Any] = {name: {"seeds": {}, "closed_loop": {}} for name in DENSITIES}
    ways: dict[str, Way] = {}
    for seed in given.seeds:
        config = shortened(of.config, given.updates, seed=seed)
        for name, density in DENSITIES.items():
            folder = given.run / "studies" / "trained" / f"{name}-{given.updates}-seed{seed}"
            policy = learn(of, folder, config=config, process=FlowMatching(time=density))[given.updates]
            asked = {steps: Way(policy=policy, process=FlowMatching(num_steps=steps)) for steps in NUM_STEPS}
            ways |= {f"{name}/{seed}/{steps}": way for steps, way in asked.items()}
            found[name]["seeds"][seed] = {
                "open_loop": {steps: ask(seen, way) for steps, way in asked.items()},
                "error_by_time": error_by_time(seen, policy),
            }
    outcomes = run(ways, scenes_of(given))
    for name in DENSITIES:
        for steps in NUM_STEPS:
            each = {seed: outcomes[f"{name}/{seed}/{steps}"] for seed in given.seeds}
            solved = sum(outcome.success for row in each.values() for outcome in row)
            number = sum(len(row) for row in each.values())
            found[name]["closed_loop"][steps] = {
                "success": solved / number,
                "interval": wilson_interval(solved, number),
                "episodes": number,
                "of_each_seed": {
                    seed: {**rate(row), "against_beta": paired(row, outcomes[f"flow/{seed}/{steps}"])}
                    for seed, row in each.items()
                },
            }
    record = {"updates": given.updates, "seeds": given.seeds, "densities": found}
    save(given, record, draw_figure(record), name="time_density")
    show(
        [
            {
                "density": LABELS[name],
                **{f"success, {steps} steps": percent(row["closed_loop"][steps]) for steps in NUM_STEPS},
                **{
                    f"error, {steps} steps": " ".join(
                        f"{seed['open_loop'][steps]['expert_error']['mean']:.4f}"
                        for seed in row["seeds"].values()
                    )
                    for steps in NUM_STEPS
                },
            }
            for name, row in found.items()
        ]
    )


if __name__ == "__main__":
    main()
