"""Guidance at several scales on three overlapping classes: fidelity against diversity.

    python -m studies.toys.guidance OUTPUT [--quick] [--seed N]

Three Gaussians that overlap, the class being the condition; networks forget it in 30 % of the rows of
training. Fidelity is the exact posterior probability of the class asked for, diversity the standard deviation
of a class's samples over that of its data. The same guidance on the exact velocity tells what is due to
guidance and what to learning; `sharpened` is the density that guidance is often said to draw from,
`p(x) · p(class | x)^scale`, sampled exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pizero.diagnose.figures import BLUE, GRAY, new_figure
from pizero.generative.flow import FlowMatching
from pizero.generative.guidance import Guidance, drop_condition
from pizero.generative.process import Denoise
from pizero.generative.times import UniformTime
from studies.toys.common import Networks, Size, draw_noise, train
from studies.toys.drawing import curve, styles
from studies.toys.measures import sliced_wasserstein, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.targets import mixture_velocity

FULL = Size(num_updates=3000)
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SHOWN_SCALES = (0.0, 1.0, 2.0, 5.0)
DROPOUT, CLASS_STD = 0.3, 0.55
NUM_CLASSES = 3
FLOW = FlowMatching(time=UniformTime(), num_steps=50)
FIELDS = ("learnt", "exact", "sharpened")
LOOK = styles(FIELDS)


def middles() -> Tensor:
    """Return the middles of the classes, on the unit circle."""
    angle = torch.arange(NUM_CLASSES) * (2 * math.pi / NUM_CLASSES) + math.pi / 2
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def classes(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw points and the one-hot class of each."""
    index = torch.randint(NUM_CLASSES, (rows,), generator=generator)
    points = middles()[index] + CLASS_STD * torch.randn(rows, 2, generator=generator)
    return points[:, None], torch.eye(NUM_CLASSES)[index]


def posterior(points: Tensor) -> Tensor:
    """Return the probability of each class at points `[..., 2]`, by Bayes' rule."""
    away = (points[..., None, :] - middles()).square().sum(dim=-1)
    return torch.softmax(-away / (2 * CLASS_STD**2), dim=-1)


def sharpened(scale: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw points of `p(x) · p(first class | x)^scale` by rejection from the data's density."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < count:
        points, _ = classes(4 * count, generator)
        accepted = torch.rand(len(points), generator=generator) < posterior(points[:, 0])[:, 0] ** scale
        kept.append(points[accepted])
    return torch.cat(kept)[:count]


def learnt(size: Size, seed: int) -> Networks:
    """Return networks that know the velocity with and without the class."""
    generator = torch.Generator().manual_seed(seed)
    networks = Networks(num_members=size.num_members, generator=generator, condition_dim=NUM_CLASSES)

    def loss(student: Networks, _average: Networks) -> Tensor:
        actions, condition = classes(size.batch, generator)
        keep = Guidance(dropout=DROPOUT).keeps(size.batch, generator)
        given = drop_condition(condition, torch.zeros(NUM_CLASSES), keep)
        noise = torch.randn(actions.shape, generator=generator)
        times = FLOW.time.sample(size.batch, generator)
        noisy, velocity = FLOW.corrupt(actions, noise=noise, time=times)
        return (student(noisy, times, condition=given) - velocity).square().flatten(1).mean(dim=1)

    return train(networks, loss, num_updates=size.num_updates)


def judge(points: Tensor, reference: Tensor) -> dict[str, list[float]]:
    """Return fidelity, diversity and distance to the class's data of samples `[member, sample, 1, 2]`."""
    wide = points.squeeze(2).var(dim=1).mean(dim=-1).sqrt() / CLASS_STD
    return {
        "fidelity": posterior(points[:, :, 0])[..., 0].mean(dim=1).tolist(),
        "diversity": wide.tolist(),
        "distance": sliced_wasserstein(points, reference).tolist(),
    }


def measure(conditional: Denoise, unconditional: Denoise, noise: Tensor, size: Size, seed: int) -> Any:
    """Return at each scale what the samples of the first class are like, and the samples."""
    found, clouds = {}, {}
    generator = torch.Generator().manual_seed(seed)
    reference = middles()[0] + CLASS_STD * torch.randn(size.num_samples, 1, 2, generator=generator)
    for scale in SCALES:
        velocity = Guidance(scale=scale).guide(conditional, unconditional)
        clouds[scale] = FLOW.generate(velocity, noise).unflatten(0, (size.num_members, -1))
        found[scale] = {key: spread(values) for key, values in judge(clouds[scale], reference).items()}
    return found, clouds


def draw_figure(record: dict[str, Any], clouds: dict[float, Tensor]) -> Figure:
    """Draw samples of the first class above, and the measures below."""
    figure, axes = new_figure(2, 4, size=(10.5, 5.6))
    data, condition = classes(900, torch.Generator().manual_seed(record["seed"]))
    for ax, scale in zip(axes[0], SHOWN_SCALES, strict=True):
        for place, marker in enumerate(("o", "x", "+")):
            points = data[condition[:, place] == 1, 0]
            ax.plot(*points.T, marker, color=GRAY, markersize=2.5, alpha=0.35, rasterized=True)
        ax.plot(*clouds[scale][0, :300, 0].T, "o", color=BLUE, markersize=2, alpha=0.8, rasterized=True)
        ax.set(title=f"scale {scale:g}", xlim=(-2.7, 2.7), ylim=(-2.2, 3.2), aspect=1)
    names = {
        "fidelity": "probability of the class",
        "diversity": "deviation / that of the data",
        "distance": "distance to the class's data",
    }
    for ax, (key, label) in zip(axes[1], names.items(), strict=False):
        for name in FIELDS:
            curve(ax, {scale: row[key] for scale, row in record[name].items()}, LOOK[name], name)
        ax.set(title=key, xlabel="scale of guidance", ylabel=label)
    for name in FIELDS:
        look, rows = LOOK[name], record[name].values()
        axes[1, 3].plot(
            [row["fidelity"]["mean"] for row in rows],
            [row["diversity"]["mean"] for row in rows],
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            markersize=4,
        )
    axes[1, 3].set(title="one against the other", xlabel="fidelity", ylabel="diversity")
    axes[1, 0].legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    networks = learnt(size, given.seed)
    noise = draw_noise(FLOW, size, seed=given.seed + 1)
    first = torch.eye(NUM_CLASSES)[0].expand(len(noise), -1)
    by_networks, clouds = measure(networks.bound(first), networks.bound(), noise, size, given.seed + 2)
    exact = partial(mixture_velocity, std=CLASS_STD)
    by_formula, _ = measure(
        partial(exact, modes=middles()[:1]), partial(exact, modes=middles()), noise, size, given.seed + 2
    )
    generator = torch.Generator().manual_seed(given.seed + 3)
    reference = middles()[0] + CLASS_STD * torch.randn(size.num_samples, 1, 2, generator=generator)
    drawn = {}
    for scale in SCALES:
        points = sharpened(scale, size.num_members * size.num_samples, generator)
        found = judge(points.unflatten(0, (size.num_members, -1)), reference)
        drawn[scale] = {key: spread(values) for key, values in found.items()}
    best = min(SCALES, key=lambda scale: by_networks[scale]["distance"]["mean"])
    record = {
        "size": vars(size),
        "dropout": DROPOUT,
        "class_std": CLASS_STD,
        "learnt": by_networks,
        "exact": by_formula,
        "sharpened": drawn,
        "scale_of_the_least_distance": best,
    }
    save(given, record, draw_figure({**record, "seed": given.seed}, clouds), name="guidance")
    show(
        [
            {
                "scale": scale,
                "field": name,
                **{key: around(found) for key, found in record[name][scale].items()},
            }
            for name in FIELDS
            for scale in SCALES
        ]
    )


if __name__ == "__main__":
    main()
