"""Flow matching and diffusion with the same network, data and updates: quality, evaluations, paths, updates.

    python -m studies.toys.flow_and_diffusion OUTPUT [--quick] [--seed N]

On a checkerboard, and on the chunks of two ways past a column (16 numbers, given the start). The flow is
solved by Euler steps; diffusion, on the cosine schedule, by DDIM, whose predictions are clipped to what the
data span, once with a network that predicts the noise and once with one that predicts the velocity. All train
at uniform times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pizero.diagnose.figures import new_figure
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from pizero.generative.times import UniformTime
from studies.toys.common import Draw, Networks, Size, draw_noise, trained
from studies.toys.drawing import bars, curve, level, logarithmic, styles
from studies.toys.measures import Recorder, difference, noise_floor, quality, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.scene import NUM_WAYPOINTS, chunks
from studies.toys.targets import checkerboard

FULL = Size(num_updates=4000)
TASKS: dict[str, tuple[Draw, int, float]] = {
    "checkerboard": (checkerboard, 1, 1.75),
    "navigation": (chunks, NUM_WAYPOINTS, 3.0),
}
"""What is learnt, the horizon of a chunk, and what a prediction of actions is clipped to."""

METHODS = ("flow", "diffusion of noise", "diffusion of velocity")
LOOK = styles(METHODS)
NUM_EVALUATIONS = (1, 2, 3, 5, 10, 20, 50)
WATCHED_EVALUATIONS, PATH_STEPS = 20, 50
RESAMPLES = 2000


def process_of(method: str, clip: float, steps: int) -> FlowMatching | Diffusion:
    """Return a method that generates in some evaluations."""
    if method == "flow":
        return FlowMatching(time=UniformTime(), num_steps=steps)
    prediction = "noise" if method == "diffusion of noise" else "velocity"
    return Diffusion(prediction=prediction, num_steps=steps, clip=clip)


def watched_updates(size: Size) -> list[int]:
    """Return the updates after which quality is measured: halves of halves of all."""
    return [size.num_updates // 2**power for power in range(5, -1, -1)]


def measure(method: str, task: str, size: Size, seed: int) -> dict[str, Any]:
    """Train one method on one task, and measure it."""
    draw, horizon, clip = TASKS[task]
    noise = draw_noise(process_of(method, clip, 1), size, seed=seed + 1, horizon=horizon)
    _, starts = draw(size.num_samples, torch.Generator().manual_seed(seed + 2))
    condition = None if starts is None else starts.repeat(size.num_members, 1)

    def distances(networks: Networks, steps: int) -> list[float]:
        made = process_of(method, clip, steps).generate(networks.bound(condition), noise)
        return quality(made, draw, size, seed=seed + 3)

    seen: dict[int, list[float]] = {}

    def watch(update: int, average: Networks) -> None:
        if update in watched_updates(size):
            seen[update] = distances(average, WATCHED_EVALUATIONS)

    process = process_of(method, clip, PATH_STEPS)
    networks = trained(process, draw, size, seed=seed, watch=watch)
    recorder = Recorder(networks.bound(condition))
    last: Tensor = process.generate(recorder, noise)
    return {
        "by_evaluations": {steps: spread(distances(networks, steps)) for steps in NUM_EVALUATIONS},
        "by_updates": {update: spread(values) for update, values in seen.items()},
        "length_over_distance": spread(recorder.detour(last, size.num_members)),
    }


def reached(updates: Sequence[int], distances: Sequence[float], goal: float) -> float:
    """Return after how many updates a distance first is at most `goal`, between two looks by the logarithm;
    infinity if it never is.
    """
    for place, (update, distance) in enumerate(zip(updates, distances, strict=True)):
        if distance <= goal:
            if place == 0:
                return float(update)
            before, far = updates[place - 1], distances[place - 1]
            share = (far - goal) / (far - distance)
            return math.exp(math.log(before) + share * (math.log(update) - math.log(before)))
    return math.inf


def equal_quality(found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return after how many updates each method's networks are on average as good as those of the worst
    method are in the end, and how many times the flow's updates that is.

    Intervals are of the bootstrap over networks; null stands for more updates than were made.
    """
    curves = {
        method: np.array([row["values"] for row in found[method]["by_updates"].values()])
        for method in METHODS
    }
    updates = list(found["flow"]["by_updates"])
    goal = max(float(values[-1].mean()) for values in curves.values())
    generator = np.random.default_rng(seed)
    num_members = curves["flow"].shape[1]
    picks = [np.arange(num_members), *generator.integers(num_members, size=(RESAMPLES, num_members))]
    times = {
        method: np.array([reached(updates, values[:, pick].mean(axis=1).tolist(), goal) for pick in picks])
        for method, values in curves.items()
    }
    result: dict[str, Any] = {"level": goal}
    for method in METHODS:
        both = np.isfinite(times["flow"])
        result[method] = {
            "updates": bootstrapped(times[method]),
            "times_the_flow": bootstrapped(times[method][both] / times["flow"][both]),
        }
    return result


def bootstrapped(values: np.ndarray) -> dict[str, Any]:
    """Return the first value, which is of all networks, and what 95 % of the others are between."""
    low, high = np.quantile(values[1:], [0.025, 0.975], method="nearest")
    kept = [float(value) if np.isfinite(value) else None for value in (values[0], low, high)]
    return {"value": kept[0], "interval": kept[1:]}


def minus_flow(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return how much further from the data diffusion is, by evaluations, network by network."""
    return {
        method: {
            steps: difference(
                found[method]["by_evaluations"][steps]["values"],
                found["flow"]["by_evaluations"][steps]["values"],
            )
            for steps in NUM_EVALUATIONS
        }
        for method in METHODS[1:]
    }


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw quality by evaluations and by updates, and the detour of paths."""
    figure, axes = new_figure(2, 3, size=(10.5, 5.8))
    for row, task in zip(axes, TASKS, strict=True):
        found = record["tasks"][task]
        evaluations, updates, paths = row
        for method in METHODS:
            curve(evaluations, found[method]["by_evaluations"], LOOK[method], method, least=0.01)
            curve(updates, found[method]["by_updates"], LOOK[method], least=0.01)
        detours = {}
        for method in METHODS:
            ratio = found[method]["length_over_distance"]
            detours[method] = {
                "mean": ratio["mean"] - 1,
                "interval": [end - 1 for end in ratio["interval"]],
            }
        bars(paths, detours, LOOK, sideways=True)
        logarithmic(evaluations, x=NUM_EVALUATIONS, y=(0.03, 0.1, 0.3, 1.0, 2.0))
        logarithmic(updates, x=list(found["flow"]["by_updates"]), y=(0.03, 0.1, 0.3, 1.0))
        level(evaluations, found["noise_floor"]["mean"], "two draws of the data", line=(0, (1, 1)))
        level(updates, found["noise_floor"]["mean"], line=(0, (1, 1)))
        level(updates, found["equal_quality"]["level"], "the level of equal quality")
        evaluations.set(
            title=f"{task}: quality at the end", xlabel="evaluations", ylabel="distance to the data"
        )
        updates.set(title=f"quality in {WATCHED_EVALUATIONS} evaluations", xlabel="updates")
        paths.set(title="detour of paths", xlabel="length / distance of the ends − 1")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    record: dict[str, Any] = {"size": vars(size), "tasks": {}}
    rows = []
    for task, (draw, _, _) in TASKS.items():
        found: dict[str, Any] = {method: measure(method, task, size, given.seed) for method in METHODS}
        found["noise_floor"] = noise_floor(draw, size.num_samples, seed=given.seed + 4)
        found["equal_quality"] = equal_quality(found, given.seed)
        found["diffusion_minus_flow"] = minus_flow(found)
        record["tasks"][task] = found
        rows += [
            {
                "task": task,
                "method": method,
                **{f"{n} ev.": around(found[method]["by_evaluations"][n]) for n in (1, 5, 10, 50)},
                "length / distance": around(found[method]["length_over_distance"]),
                "updates to equal quality": round(found["equal_quality"][method]["updates"]["value"]),
            }
            for method in METHODS
        ]
        rows.append(
            dict.fromkeys(rows[-1], "")
            | {"task": task, "method": "two draws", "50 ev.": f"{found['noise_floor']['mean']:.3f}"}
        )
    save(given, record, draw_figure(record), name="flow_and_diffusion")
    show(rows)


if __name__ == "__main__":
    main()
