"""Which noise goes with which data: straightness, few steps, and what ignoring the condition costs.

    python -m studies.toys.couplings OUTPUT [--quick] [--seed N]

Two moons, the moon being the condition. Noise is paired independently, by optimal transport within the batch
(`naive`), by conditional optimal transport, or by a flow that was trained before (`reflow`), which trains as
long again on its teacher's pairs. The error is the distance of each class's samples to that class's data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pizero.diagnose.figures import BLUE, ORANGE, new_figure
from pizero.generative.coupling import ConditionalCoupling, naive_coupling
from pizero.generative.flow import FlowMatching
from pizero.generative.reflow import reflow_pairs, straightness
from pizero.generative.times import UniformTime
from studies.toys.common import Networks, Size, draw_noise, train
from studies.toys.drawing import bars, level, styles
from studies.toys.measures import difference, noise_floor, sliced_wasserstein, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.targets import moons

FULL = Size(num_updates=3000)
COUPLINGS = ("independent", "naive", "conditional", "reflow")
LOOK = styles(COUPLINGS)
CONDITION_WEIGHT = 100.0
NUM_STEPS = (1, 2, 5, 20)
FLOW = FlowMatching(time=UniformTime())
TEACHER = FlowMatching(num_steps=10, solver="heun")
PAIRS_PER_MEMBER = 8192

Batch = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Actions, the noise of each, and the condition, for all members."""


def coupled(coupling: str, size: Size, generator: torch.Generator) -> Batch:
    """Return fresh batches, paired within each member's own rows."""

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        actions, condition = moons(size.batch, generator)
        noise = torch.randn(actions.shape, generator=generator)
        if coupling == "independent":
            return actions, noise, condition
        rows = zip(*(part.split(size.rows) for part in (actions, noise, condition)), strict=True)
        if coupling == "naive":
            return actions, torch.cat([naive_coupling(a, n) for a, n, _ in rows]), condition
        pairs = ConditionalCoupling(condition_weight=CONDITION_WEIGHT)
        return actions, torch.cat([pairs.pair(a, n, c) for a, n, c in rows]), condition

    return batch


def from_teacher(teacher: Networks, size: Size, generator: torch.Generator) -> Batch:
    """Return batches of the pairs that each member made."""
    count = min(PAIRS_PER_MEMBER, 8 * size.num_samples)
    _, condition = moons(count * size.num_members, generator)
    noise = torch.randn(len(condition), 1, 2, generator=generator)
    actions, noise = reflow_pairs(TEACHER, teacher.bound(condition), noise)
    first = count * torch.arange(size.num_members)[:, None]

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        index = (first + torch.randint(count, (size.num_members, size.rows), generator=generator)).flatten()
        return actions[index], noise[index], condition[index]

    return batch


def learn(batch: Batch, networks: Networks, size: Size, generator: torch.Generator) -> Networks:
    """Return the moving average of networks trained on batches of pairs."""

    def loss(student: Networks, _average: Networks) -> Tensor:
        actions, noise, condition = batch()
        times = FLOW.time.sample(size.batch, generator)
        noisy, velocity = FLOW.corrupt(actions, noise=noise, time=times)
        return (student(noisy, times, condition=condition) - velocity).square().flatten(1).mean(dim=1)

    return train(networks, loss, num_updates=size.num_updates)


def learnt(size: Size, seed: int) -> dict[str, Networks]:
    """Return networks for each coupling; reflow starts from its teacher and trains as long again."""
    found: dict[str, Networks] = {}
    for coupling in COUPLINGS:
        generator = torch.Generator().manual_seed(seed)
        networks = Networks(num_members=size.num_members, generator=generator, condition_dim=2)
        if coupling == "reflow":
            networks.load_state_dict(found["independent"].state_dict())
            batch = from_teacher(found["independent"], size, generator)
        else:
            batch = coupled(coupling, size, generator)
        found[coupling] = learn(batch, networks, size, generator)
    return found


def measure(networks: Networks, data: Tensor, classes: Tensor, noise: Tensor, size: Size) -> dict[str, Any]:
    """Return straightness, and by the number of Euler steps the errors of all samples and of each class."""
    denoise = networks.bound(classes.repeat(size.num_members, 1))
    straight = straightness(denoise, noise, num_steps=50).unflatten(0, (size.num_members, -1))
    found: dict[str, Any] = {"bend": spread((1.0 - straight).mean(dim=1).tolist()), "steps": {}}
    for steps in NUM_STEPS:
        made = FlowMatching(num_steps=steps).generate(denoise, noise).unflatten(0, (size.num_members, -1))
        per_class = [
            sliced_wasserstein(made[:, classes[:, place] == 1], data[classes[:, place] == 1])
            for place in range(2)
        ]
        found["steps"][steps] = {
            "all": spread(sliced_wasserstein(made, data).tolist()),
            "per_class": spread(torch.stack(per_class).mean(dim=0).tolist()),
        }
    return found


def draw_figure(record: dict[str, Any], clouds: dict[str, Tensor], classes: Tensor) -> Figure:
    """Draw samples of each coupling above; below, bend and errors."""
    figure, axes = new_figure(2, 4, size=(10.5, 5.6))
    for ax, coupling in zip(axes[0], COUPLINGS, strict=True):
        for place, (color, marker) in enumerate(((BLUE, "."), (ORANGE, "x"))):
            points = clouds[coupling][classes[: len(clouds[coupling]), place] == 1, 0]
            ax.plot(*points.T, marker, color=color, markersize=3, alpha=0.6, rasterized=True)
        ax.set(title=f"{coupling}: samples in 20 steps", xlim=(-2.6, 2.6), ylim=(-2, 2), aspect=1)
        ax.set_xlabel("● upper moon asked for, × lower")
    found = record["couplings"]
    panels: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        ("bend of paths", "1 − straightness", lambda row: row["bend"]),
        ("of each class, 1 step", "distance to the data", lambda row: row["steps"][1]["per_class"]),
        ("of each class, 20 steps", "distance to the data", lambda row: row["steps"][20]["per_class"]),
        ("both classes, 20 steps", "distance to the data", lambda row: row["steps"][20]["all"]),
    )
    for ax, (title, label, pick) in zip(axes[1], panels, strict=True):
        bars(ax, {coupling: pick(found[coupling]) for coupling in COUPLINGS}, LOOK)
        ax.tick_params(axis="x", rotation=30)
        ax.set(title=title, ylabel=label)
        if "step" in title:
            key = "noise_floor_per_class" if "each" in title else "noise_floor"
            level(ax, record[key]["mean"], "two draws of the data")
    axes[1, 1].legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def one_moon(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Draw points of the first moon alone."""
    points, classes = moons(3 * rows + 50, generator)
    return points[classes[:, 0] == 1][:rows], None


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    data, classes = moons(size.num_samples, torch.Generator().manual_seed(given.seed + 1))
    noise = draw_noise(FLOW, size, seed=given.seed + 2)
    networks = learnt(size, given.seed)
    found = {name: measure(network, data, classes, noise, size) for name, network in networks.items()}
    first = noise[: len(classes)]
    clouds = {}
    for name, network in networks.items():
        denoise = network.bound(classes.repeat(size.num_members, 1))
        clouds[name] = FlowMatching(num_steps=20).generate(denoise, noise)[: min(700, len(first))]
    record = {
        "size": vars(size),
        "condition_weight": CONDITION_WEIGHT,
        "couplings": found,
        "noise_floor": noise_floor(moons, size.num_samples, seed=given.seed + 3),
        "noise_floor_per_class": noise_floor(one_moon, size.num_samples // 2, seed=given.seed + 3),
        "minus_independent": {
            name: {
                steps: difference(
                    found[name]["steps"][steps]["per_class"]["values"],
                    found["independent"]["steps"][steps]["per_class"]["values"],
                )
                for steps in NUM_STEPS
            }
            for name in COUPLINGS[1:]
        },
    }
    save(given, record, draw_figure(record, clouds, classes), name="couplings")
    show(
        [
            {
                "coupling": name,
                "bend": around(row["bend"]),
                **{f"per class, {steps}": around(row["steps"][steps]["per_class"]) for steps in NUM_STEPS},
                "all, 20": around(row["steps"][20]["all"]),
            }
            for name, row in found.items()
        ]
    )


if __name__ == "__main__":
    main()
