"""Past a column on either side: what a mean squared error, flow matching and diffusion make of two ways.

    python -m studies.toys.navigation OUTPUT [--quick] [--seed N]

From about (0, 0) to (1, 1), 65 % of the demonstrations pass a column on the left, the others on the right.
The same network learns to predict the eight waypoints from the start by regression, by flow matching and by
diffusion (of the noise, and of the velocity), with the same number of updates. OUTPUT gets `navigation.json`,
`.png` and `.svg`, and `navigation.gif`, in which noise becomes paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from pizero.diagnose.figures import BLUE, GRAY, new_figure
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from studies.toys.common import Networks, Size, draw_noise, train, trained
from studies.toys.drawing import Style, finish, picture_of, styles
from studies.toys.measures import Recorder, noise_floor, sliced_wasserstein, spread
from studies.toys.output import arguments, around, save, show, size_of
from studies.toys.scene import (
    NUM_WAYPOINTS,
    OBSTACLES,
    SHARE_LEFT,
    START_RANGE,
    chunks,
    collides,
    demonstrate,
    fractions,
    mean_path,
    middle_density,
    passes_left,
    to_actions,
    to_paths,
)

FULL = Size(num_updates=3000)
PROCESSES = {
    "flow matching": FlowMatching(num_steps=10),
    "diffusion of noise": Diffusion(num_steps=10, clip=3.0),
    "diffusion of velocity": Diffusion(num_steps=10, clip=3.0, prediction="velocity"),
}
REGRESSION, FLOW = "squared error", "flow matching"
LOOK = styles([FLOW, REGRESSION, *list(PROCESSES)[1:]])
PATH_STEPS = 60
SHOWN = (0, 18, 36, 48, 57)
MIDDLE = NUM_WAYPOINTS // 2 - 1
FRAMES, QUICK_FRAMES = 20, 4


def regression(size: Size, seed: int) -> Networks:
    """Return networks that predict the chunk itself, by its squared error."""
    generator = torch.Generator().manual_seed(seed)
    networks = Networks(
        num_members=size.num_members, generator=generator, action_dim=2 * NUM_WAYPOINTS, condition_dim=2
    )

    def loss(student: Networks, _average: Networks) -> Tensor:
        actions, condition = chunks(size.batch, generator)
        guess = student(torch.zeros_like(actions), torch.zeros(size.batch), condition=condition)
        return (guess - actions).square().flatten(1).mean(dim=1)

    return train(networks, loss, num_updates=size.num_updates)


def act(networks: dict[str, Networks], start: Tensor, size: Size, seed: int) -> dict[str, Tensor]:
    """Return each method's paths from the starts, `[member * sample, waypoint, 2]`."""
    condition = (start / START_RANGE).repeat(size.num_members, 1)
    noise = draw_noise(PROCESSES[FLOW], size, seed=seed, horizon=NUM_WAYPOINTS)
    guess = networks[REGRESSION].bound(condition)
    found = {REGRESSION: to_paths(guess(torch.zeros_like(noise), torch.zeros(len(noise))))}
    for name, process in PROCESSES.items():
        found[name] = to_paths(process.generate(networks[name].bound(condition), noise))
    return found


def judge(paths: Tensor, start: Tensor, data: Tensor, size: Size) -> dict[str, Any]:
    """Return how often each member collides, which way the others go, and how far they are from the data."""
    hits, lefts, distances = [], [], []
    for member in paths.unflatten(0, (size.num_members, -1)):
        hit = collides(member, start)
        free = passes_left(member)[~hit]
        hits.append(hit.float().mean().item())
        lefts.append(free.float().mean().item() if len(free) else None)
        distances.append(sliced_wasserstein(to_actions(member)[None], to_actions(data)).item())
    known = [share for share in lefts if share is not None]
    return {
        "collisions": spread(hits),
        "left_of_those_that_pass": spread(known) if len(known) == len(lefts) else None,
        "distance": spread(distances),
    }


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Noisy chunks of the first member at one flow time, from (0, 0), and their velocities, as waypoints."""

    time: float
    paths: Tensor
    velocity: Tensor


def moments(network: Networks, size: Size, seed: int) -> tuple[list[Moment], dict[float, Any]]:
    """Return what the flow goes through from (0, 0), and how far that is at each time from what it learnt
    from: demonstrations, made noisy.
    """
    condition = torch.zeros(size.num_members * size.num_samples, 2)
    noise = draw_noise(PROCESSES[FLOW], size, seed=seed, horizon=NUM_WAYPOINTS)
    bound = network.bound(condition)
    recorder = Recorder(bound)
    last = FlowMatching(num_steps=PATH_STEPS).generate(recorder, noise)
    generator = torch.Generator().manual_seed(seed + 1)
    paths, start = demonstrate(size.num_samples, generator)
    actions = to_actions(paths - start[:, None] * (1.0 - fractions()[:, None]))
    fresh = torch.randn(actions.shape, generator=generator)
    found, distance = [], {}
    for step, state in enumerate([*recorder.states, last]):
        time = 1.0 - step / PATH_STEPS
        times = torch.full((len(state),), time)
        velocity = to_paths(state + bound(state, times)) - to_paths(state)
        found.append(
            Moment(
                time=time, paths=to_paths(state[: size.num_samples]), velocity=velocity[: size.num_samples]
            )
        )
        if step in (*SHOWN, PATH_STEPS):
            noisy, _ = PROCESSES[FLOW].corrupt(actions, noise=fresh, time=times[: len(actions)])
            distance[round(time, 3)] = spread(
                sliced_wasserstein(state.unflatten(0, (size.num_members, -1)), noisy).tolist()
            )
    return found, distance


def room(ax: Axes, title: str, low: float = -0.2, high: float = 1.2) -> None:
    for x, y, radius in OBSTACLES:
        ax.add_patch(Circle((x, y), radius, facecolor=GRAY, alpha=0.45, edgecolor="black", linewidth=0.6))
    ax.plot(0, 0, "o", color="black", markersize=4)
    ax.plot(1, 1, "*", color="black", markersize=9)
    ax.set(title=title, xlim=(low, high), ylim=(low, high), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect=1)


def draw_paths(ax: Axes, paths: Tensor, start: Tensor, look: Style) -> None:
    for path, begin, hit in zip(paths, start, collides(paths, start), strict=True):
        ax.plot(
            *torch.cat([begin[None], path]).T,
            color=look.color,
            alpha=0.9 if hit else 0.45,
            linewidth=0.8,
            linestyle="--" if hit else "-",
        )


def draw_moment(ax: Axes, moment: Moment, count: int) -> None:
    """Shade the exact density of the middle waypoint, and draw where the learnt flow is and goes."""
    side = torch.linspace(-0.6, 1.6, 90)
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    density = middle_density(points, moment.time)
    room(ax, f"flow time {moment.time:.2f}", -0.6, 1.6)
    ax.contourf(
        side, side, density / density.max(), levels=(0.03, 0.2, 0.5, 1.01), cmap="Oranges", alpha=0.75
    )
    middle, velocity = moment.paths[:count, MIDDLE], moment.velocity[:count, MIDDLE]
    ax.quiver(*middle.T, *-velocity.T, color=BLUE, angles="xy", scale=5.0, width=0.006)


def draw_figure(
    record: dict[str, Any], paths: dict[str, Tensor], start: Tensor, found: list[Moment]
) -> Figure:
    """Draw paths above; below, where the middle waypoint is during generation, and its velocity."""
    figure, axes = new_figure(2, 5, size=(11.5, 5.2))
    black = Style(color="black")
    for ax, name in zip(axes[0], ("demonstrations", REGRESSION, *PROCESSES), strict=True):
        rate = record["data_collisions"] if name == "demonstrations" else record[name]["collisions"]["mean"]
        room(ax, f"{name}\n{100 * rate:.1f} % collide (dashed)")
        draw_paths(ax, paths[name][:50], start[:50], LOOK.get(name, black))
    for ax, step in zip(axes[1], SHOWN, strict=True):
        draw_moment(ax, found[step], 90)
    axes[1, 0].set_ylabel("middle waypoint")
    return figure


def animate(found: list[Moment], num_frames: int) -> list[Any]:
    """Return the pictures in which noise becomes paths, beside the middle waypoint's density and velocity."""
    frames = []
    for place in range(num_frames):
        moment = found[round(place * PATH_STEPS / (num_frames - 1))]
        figure, axes = new_figure(1, 2, size=(6.0, 3.2))
        room(axes[0, 0], "noise becomes paths", -0.6, 1.6)
        for path in moment.paths[:40]:
            axes[0, 0].plot(*torch.cat([torch.zeros(1, 2), path]).T, color=BLUE, alpha=0.6, linewidth=0.9)
        draw_moment(axes[0, 1], moment, 60)
        frames.append(picture_of(finish(figure), dots=80, colors=24))
    return frames


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
    networks = {REGRESSION: regression(size, given.seed)}
    networks |= {name: trained(process, chunks, size, seed=given.seed) for name, process in PROCESSES.items()}
    data, start = demonstrate(size.num_samples, torch.Generator().manual_seed(given.seed + 1))
    held_out, _ = demonstrate(size.num_samples, torch.Generator().manual_seed(given.seed + 2))
    paths = act(networks, start, size, given.seed + 3)
    optimum = mean_path(start)
    found, distance = moments(networks[FLOW], size, given.seed + 5)
    record: dict[str, Any] = {
        "size": vars(size),
        "evaluations": {REGRESSION: 1, **{name: way.num_evaluations for name, way in PROCESSES.items()}},
        "data_collisions": collides(data, start).float().mean().item(),
        "data_left": SHARE_LEFT,
        "noise_floor": noise_floor(chunks, size.num_samples, seed=given.seed + 4),
        "collisions_of_the_mean_path": collides(optimum, start).float().mean().item(),
        "regression_from_the_mean_path": (paths[REGRESSION] - optimum.repeat(size.num_members, 1, 1))
        .abs()
        .mean()
        .item(),
        "distance_to_the_probability_path": distance,
    }
    record |= {name: judge(made, start, held_out, size) for name, made in paths.items()}
    figure = draw_figure(record, {"demonstrations": data, **paths}, start, found)
    save(given, record, figure, name="navigation")
    frames = animate(found, QUICK_FRAMES if given.quick else FRAMES)
    frames[0].save(
        given.output / "navigation.gif",
        save_all=True,
        append_images=frames[1:],
        duration=[90] * (len(frames) - 1) + [2000],
        loop=0,
        optimize=True,
    )
    show(
        [
            {
                "method": name,
                "evaluations": record["evaluations"][name],
                "collisions": around(record[name]["collisions"]),
                "left of those that pass": around(record[name]["left_of_those_that_pass"]),
                "distance": around(record[name]["distance"]),
            }
            for name in paths
        ]
    )


if __name__ == "__main__":
    main()
