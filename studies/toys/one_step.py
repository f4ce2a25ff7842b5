"""Models that are trained for one step, against flow matching and reflow, with as many updates each.

    python -m studies.toys.one_step OUTPUT [--quick] [--seed N]

MeanFlow, shortcut models and consistency distillation learn a checkerboard, and the chunks of two ways past
a column (16 numbers, given the start). Distillation and reflow need a teacher, the flow, which trains as long
before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pizero.diagnose.figures import new_figure
from pizero.generative.consistency import ConsistencyDistillation
from pizero.generative.flow import FlowMatching
from pizero.generative.mean_flow import MeanFlow
from pizero.generative.reflow import reflow_pairs
from pizero.generative.shortcut import Shortcut
from pizero.generative.times import UniformTime
from studies.toys.common import Draw, Loss, Networks, Size, denoising_loss, draw_noise, train
from studies.toys.drawing import curve, level, logarithmic, styles
from studies.toys.measures import difference, noise_floor, quality, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.scene import NUM_WAYPOINTS, chunks
from studies.toys.targets import checkerboard

FULL = Size(num_updates=4000)
TASKS: dict[str, tuple[Draw, int]] = {
    "checkerboard": (checkerboard, 1),
    "navigation": (chunks, NUM_WAYPOINTS),
}
METHODS = ("flow", "reflow", "MeanFlow", "shortcut", "consistency")
LOOK = styles(METHODS)
CALLS = {"flow": 1, "reflow": 1, "MeanFlow": 2, "shortcut": 3, "consistency": 4}
"""How often one update runs a network forward: that which learns; for its target, itself or its average
(MeanFlow's with a derivative); and two looks at the teacher.
"""

NUM_STEPS = dict.fromkeys(METHODS, (1, 2, 4, 8, 16)) | {"consistency": (1,)}
FLOW = FlowMatching(time=UniformTime())
TEACHER = FlowMatching(num_steps=10, solver="heun")
CONSISTENCY = ConsistencyDistillation()
PAIRS_PER_MEMBER = 8192


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """What a loss is made of: fresh chunks, noise and conditions of all members."""

    draw: Draw
    rows: int
    generator: torch.Generator

    def batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        actions, condition = self.draw(self.rows, self.generator)
        return actions, torch.randn(actions.shape, generator=self.generator), condition


def mean_flow_loss(fresh: Fresh) -> Loss:
    mean_flow = MeanFlow(time=UniformTime())

    def loss(networks: Networks, _average: Networks) -> Tensor:
        actions, noise, condition = fresh.batch()
        time, end = mean_flow.draw_times(len(actions), fresh.generator)
        noisy, velocity = FLOW.corrupt(actions, noise=noise, time=time)
        target = mean_flow.target(networks.bound(condition), noisy, velocity, time=time, end=end)
        return mean_flow.error(networks(noisy, time, end, condition=condition), target)

    return loss


def shortcut_loss(fresh: Fresh) -> Loss:
    shortcut = Shortcut()

    def loss(networks: Networks, average: Networks) -> Tensor:
        actions, noise, condition = fresh.batch()
        time, step = shortcut.draw_times(len(actions), fresh.generator)
        noisy, velocity = FLOW.corrupt(actions, noise=noise, time=time)
        target = shortcut.target(average.bound(condition), noisy, velocity, time=time, step=step)
        return (networks(noisy, time, step, condition=condition) - target).square().flatten(1).mean(dim=1)

    return loss


def consistency_loss(fresh: Fresh, teacher: Networks) -> Loss:
    def loss(networks: Networks, average: Networks) -> Tensor:
        actions, noise, condition = fresh.batch()
        time, end = CONSISTENCY.draw_times(len(actions), fresh.generator)
        noisy, _ = FLOW.corrupt(actions, noise=noise, time=time)
        bound = average.bound(condition)
        target = CONSISTENCY.target(bound, teacher.bound(condition), noisy, time=time, end=end)
        jump = CONSISTENCY.jump(lambda x, t: networks(x, t, condition=condition), noisy, time)
        return (jump - target).square().flatten(1).mean(dim=1)

    return loss


def reflow_loss(fresh: Fresh, teacher: Networks, size: Size) -> Loss:
    count = min(PAIRS_PER_MEMBER, 8 * size.num_samples)
    shape, condition = fresh.draw(count * size.num_members, fresh.generator)
    noise = torch.randn(shape.shape, generator=fresh.generator)
    actions, noise = reflow_pairs(TEACHER, teacher.bound(condition), noise)
    first = count * torch.arange(size.num_members)[:, None]

    def loss(networks: Networks, _average: Networks) -> Tensor:
        index = torch.randint(count, (size.num_members, size.rows), generator=fresh.generator)
        rows = (first + index).flatten()
        time = FLOW.time.sample(len(rows), fresh.generator)
        noisy, velocity = FLOW.corrupt(actions[rows], noise=noise[rows], time=time)
        given = None if condition is None else condition[rows]
        return (networks(noisy, time, condition=given) - velocity).square().flatten(1).mean(dim=1)

    return loss


def loss_of(method: str, fresh: Fresh, teacher: Networks, size: Size) -> Loss:
    if method == "reflow":
        return reflow_loss(fresh, teacher, size)
    if method == "MeanFlow":
        return mean_flow_loss(fresh)
    if method == "shortcut":
        return shortcut_loss(fresh)
    if method == "consistency":
        return consistency_loss(fresh, teacher)
    return denoising_loss(FLOW, fresh.draw, rows=fresh.rows, generator=fresh.generator)


def learnt(task: str, size: Size, seed: int) -> dict[str, Networks]:
    """Return networks of every method; reflow and consistency begin with the flow's weights."""
    draw, horizon = TASKS[task]
    found: dict[str, Networks] = {}
    for method in METHODS:
        generator = torch.Generator().manual_seed(seed)
        networks = Networks(
            num_members=size.num_members,
            generator=generator,
            action_dim=2 * horizon,
            condition_dim=2 if horizon > 1 else 0,
            num_times=2 if method in ("MeanFlow", "shortcut") else 1,
        )
        if method in ("reflow", "consistency"):
            networks.load_state_dict(found["flow"].state_dict())
        fresh = Fresh(draw=draw, rows=size.batch, generator=generator)
        loss = loss_of(method, fresh, found.get("flow", networks), size)
        found[method] = train(networks, loss, num_updates=size.num_updates)
    return found


def generate(method: str, networks: Networks, condition: Tensor | None, noise: Tensor, steps: int) -> Tensor:
    """Return actions made in some steps, each of which calls the network once."""
    bound = networks.bound(condition)
    if method == "MeanFlow":
        return MeanFlow(num_steps=steps).generate(bound, noise)
    if method == "shortcut":
        return Shortcut(num_steps=steps).generate(bound, noise)
    if method == "consistency":
        return CONSISTENCY.generate(bound, noise)
    return FlowMatching(num_steps=steps).generate(bound, noise)


def measure(task: str, size: Size, seed: int) -> dict[str, Any]:
    """Return distances to the data by method and steps, and what one step costs against the flow in 16."""
    draw, horizon = TASKS[task]
    noise = draw_noise(FLOW, size, seed=seed + 1, horizon=horizon)
    _, starts = draw(size.num_samples, torch.Generator().manual_seed(seed + 2))
    condition = None if starts is None else starts.repeat(size.num_members, 1)
    found: dict[str, Any] = {}
    for method, networks in learnt(task, size, seed).items():
        found[method] = {
            steps: spread(
                quality(generate(method, networks, condition, noise, steps), draw, size, seed=seed + 3)
            )
            for steps in NUM_STEPS[method]
        }
    best = found["flow"][16]["values"]
    return {
        "distance": found,
        "one_step_minus_flow_in_16": {
            method: difference(found[method][1]["values"], best) for method in METHODS
        },
        "noise_floor": noise_floor(draw, size.num_samples, seed=seed + 4),
    }


def draw_figure(record: dict[str, Any]) -> Figure:
    """Draw for each task the quality of every method over its steps."""
    figure, axes = new_figure(1, 2, size=(9.5, 3.8))
    for ax, task in zip(axes[0], TASKS, strict=True):
        found = record["tasks"][task]
        for method in METHODS:
            curve(ax, found["distance"][method], LOOK[method], method, least=0.01)
        level(ax, found["noise_floor"]["mean"], "two draws of the data", line=(0, (1, 1)))
        logarithmic(ax, x=(1, 2, 4, 8, 16), y=(0.03, 0.1, 0.3, 1.0))
        ax.set(title=task, xlabel="evaluations of the network", ylabel="distance to the data")
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    tasks = {task: measure(task, size, given.seed) for task in TASKS}
    record = {"size": vars(size), "networks_run_in_an_update": CALLS, "tasks": tasks}
    save(given, record, draw_figure(record), name="one_step")
    show(
        [
            {
                "task": task,
                "method": method,
                "networks an update": CALLS[method],
                **{f"{steps} steps": around(found["distance"][method].get(steps)) for steps in (1, 2, 4, 16)},
                "1 step minus flow in 16": around(found["one_step_minus_flow_in_16"][method]),
            }
            for task, found in tasks.items()
            for method in METHODS
        ]
    )


if __name__ == "__main__":
    main()
