"""What latency does to a policy in closed loop, and what ways of going on from a chunk do about it.

    python -m studies.real_time_chunking RUN OUTPUT [--episodes 10] [--latencies 0 2 4 6 8 10] [--quick]

RUN is the folder of a finished `pizero demo`, whose demonstrations are learnt by three policies with chunks
of 20 actions: `plain`, as usual; `prefixed`, the same for a quarter as many updates more, in which it learns
to be given the first actions of a chunk, as its paper does it; and `scratch`, which learns that from the
beginning. Each way of executing chunks is run on the same scenes, which no demonstration shows, with answers
that come 0 to 10 control steps after their observation. OUTPUT gets `real_time_chunking.json`, `.svg`, `.png`
and a table; updates and episodes that are there are not made again.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pizero.data.lerobot import LeRobotDataset
from pizero.diagnose.figures import new_figure, svg_of
from pizero.embodiment import Embodiment
from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.simulators import FIVE_TASKS, SIMULATORS, FilmedEnvironment
from pizero.envs.workers import default_workers, worker_pool
from pizero.policy.controllers.controller import ControllerConfig, Kind, make_player
from pizero.policy.controllers.simulated import SimulatedController
from pizero.policy.policy import Policy
from pizero.policy.smoothness import changes
from pizero.progress import counting
from pizero.recipes import metaworld_real_time
from pizero.records import read_record
from pizero.results import wilson_interval
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import train
from pizero.training.optimizer import OptimizerConfig
from pizero.training.sources import open_sources
from pizero.training.starting import StartingPoint, inherit, read_start
from pizero.types import Continuation
from pizero.weights.folder import MANIFEST
from studies.toys.drawing import picture_of
from studies.toys.output import show

WAYS: dict[str, tuple[Kind, str]] = {
    "synchronous": ("receding", "plain"),
    "ensemble": ("ensemble", "plain"),
    "naive": ("naive", "plain"),
    "guided": ("guided", "plain"),
    "guided identity": ("guided_identity", "plain"),
    "trained": ("trained", "prefixed"),
    "trained from scratch": ("trained", "scratch"),
}
"""Ways of executing chunks: the controller, and which of the policies it asks."""

STYLES = {
    "synchronous": ("#8a8a8a", "s"),
    "ensemble": ("#E69F00", "D"),
    "naive": ("#D55E00", "v"),
    "guided": ("#0072B2", "o"),
    "guided identity": ("#56B4E9", "^"),
    "trained": ("#009E73", "P"),
    "trained from scratch": ("#CC79A7", "X"),
}
"""Colours that the colour-blind tell apart (Okabe and Ito 2008), and markers of other shapes."""

NUM_EXECUTED = 5
"""Actions after which a way asks again, or as many as the latency is long."""

MAX_STEPS = 125
EPISODES_PER_JOB = 5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an episode went: steps until the end, of which the robot waited in `held`, and its motion.

    `seams` are the changes of the velocity where a new chunk takes over, as root mean squares over its
    dimensions and in shares of their range; `inside` are those between actions of one chunk. `jerk` is the
    mean square of second differences of all commands of the episode. Commands are taken as executed, within
    their limits, and without the gripper's.
    """

    task: str
    index: int
    success: bool
    steps: int
    held: int
    seams: tuple[float, ...]
    inside: tuple[float, ...]
    jerk: float


def config_of(name: str, steps: int) -> TrainConfig:
    """Return the config of a policy from scratch; the two differ in `max_delay` alone."""
    config = metaworld_real_time(num_steps=steps, seed=0)
    return replace(config, model=replace(config.model, max_delay=0)) if name == "plain" else config


def going_on_from(start: StartingPoint, steps: int) -> TrainConfig:
    """Return the config that teaches a policy prefixes, at a third of the rate of its first training."""
    config = metaworld_real_time(num_steps=steps, seed=1)
    optimizer = OptimizerConfig(
        peak_rate=3e-4, final_rate=3e-6, warmup_steps=steps // 12, decay_steps=steps, weight_decay=1e-4
    )
    return inherit(replace(config, optimizer=optimizer), start)


def learn(name: str, run: Path, output: Path, steps: int) -> Path:
    """Train one policy, unless it is there, and return its folder."""
    folder, given = output / name, None
    if name == "prefixed":
        given = learn("plain", run, output, steps)
        start = read_start(given)
        config = going_on_from(start, max(1, steps // 4))
    else:
        start, config = None, config_of(name, steps)
    if (folder / "policy" / MANIFEST).is_file() and read_record(
        TrainConfig, folder / "config.json"
    ) == config:
        return folder / "policy"
    sources = open_sources(
        config,
        [LeRobotDataset.open(run / "dataset")],
        tokenizers=folder / "tokenizers",
        start=start,
        keep_statistics=start is not None,
    )
    (policy,) = train(config, sources, folder, execution=Execution(save_every=100), start=given)
    return policy


@functools.cache
def _policy(folder: Path) -> Policy:
    return Policy.load(folder)


@functools.cache
def _environment(robot: str, task: str, max_steps: int) -> FilmedEnvironment:
    return SIMULATORS[robot].make(task, max_steps)


def run_episodes(
    way: str, folder: Path, latency: int, task: str, indices: Sequence[int], max_steps: int
) -> list[Outcome]:
    """Run some episodes of one way in this process."""
    policy, (kind, _) = _policy(folder), WAYS[way]
    embodiment = policy.contract.embodiment
    environment = _environment(embodiment.name, task, max_steps)
    config = ControllerConfig(kind=kind, num_executed=max(NUM_EXECUTED, latency), delay=latency)
    outcomes = []
    for index in indices:
        player = make_player(config, horizon=policy.horizon, embodiment=embodiment)
        controller = SimulatedController(player, policy, embodiment, latency=latency)
        seed = DEMONSTRATION_SEEDS + index
        environment.reset(seed)
        controller.reset(seed=seed)
        commands, chunks, success = [], [], False
        while not success and len(commands) < max_steps:
            commands.append(controller.step(environment.observe))
            chunks.append(player.played)
            success = environment.step(commands[-1], render=False).success
        seams, inside, jerk = motion(np.stack(commands), np.array(chunks), embodiment)
        outcomes.append(
            Outcome(
                task=task,
                index=index,
                success=success,
                steps=len(commands),
                held=controller.num_held,
                seams=tuple(seams.round(6).tolist()),
                inside=tuple(inside.round(6).tolist()),
                jerk=jerk,
            )
        )
    return outcomes


def motion(
    commands: np.ndarray, chunks: np.ndarray, embodiment: Embodiment
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the changes of commands where the chunk changes, those elsewhere, and the mean squared jerk.

    `chunks` says of which chunk each command is, 0 before the first. Of commands that are velocities, second
    differences are the jerk.
    """
    dimensions = embodiment.actions
    low, high = (np.array([getattr(each, end) for each in dimensions]) for end in ("low", "high"))
    executed = np.clip(commands, low, high).astype(np.float32)
    moves = np.array([each.kind != "gripper" for each in dimensions])
    steps = changes(executed, embodiment)[:, moves]
    sizes, second = np.sqrt(np.mean(steps**2, axis=1)), np.diff(steps, axis=0)
    begun = chunks[:-1] > 0
    new = np.diff(chunks) != 0
    jerk = float(np.mean(second**2)) if second.size else 0.0
    return sizes[new & begun], sizes[~new & begun], jerk


def read_outcomes(log: Path) -> list[Outcome]:
    """Return the episodes of a log; a last line that was cut off does not count."""
    if not log.exists():
        return []
    whole = [
        line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")
    ]
    log.write_text("".join(whole), encoding="utf-8")
    rows = [json.loads(line) for line in whole]
    return [Outcome(**row | {name: tuple(row[name]) for name in ("seams", "inside")}) for row in rows]


def run_all(given: argparse.Namespace, policies: dict[str, Path]) -> dict[tuple[str, int], list[Outcome]]:
    """Run every way at every latency, but for the episodes that are there; a few of each, then a few more."""
    logs = given.output / ("quick" if given.quick else "episodes")
    logs.mkdir(parents=True, exist_ok=True)
    conditions = [(way, latency) for latency in given.latencies for way in given.ways]
    files = {(way, latency): logs / f"{way}-{latency}.jsonl".replace(" ", "_") for way, latency in conditions}
    found = {condition: read_outcomes(file) for condition, file in files.items()}
    done = {condition: {(each.task, each.index) for each in rows} for condition, rows in found.items()}
    jobs = []
    for first in range(0, given.episodes, EPISODES_PER_JOB):
        block = range(first, min(first + EPISODES_PER_JOB, given.episodes))
        for condition in conditions:
            for task in given.tasks:
                missing = [index for index in block if (task, index) not in done[condition]]
                if missing:
                    jobs.append((condition, task, missing))
    total = sum(len(missing) for _, _, missing in jobs)
    with counting("running", total, "episodes") as progress, worker_pool(given.workers) as pool:
        futures = {
            pool.submit(run_episodes, way, policies[WAYS[way][1]], latency, task, missing, given.max_steps): (
                way,
                latency,
            )
            for (way, latency), task, missing in jobs
        }
        for future in as_completed(futures):
            condition, rows = futures[future], future.result()
            with files[condition].open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
            found[condition] += rows
            progress.advance(len(rows), note=f"{condition[0]}, {condition[1]} steps")
    wanted = {(task, index) for task in given.tasks for index in range(given.episodes)}
    return {
        condition: [row for row in rows if (row.task, row.index) in wanted]
        for condition, rows in found.items()
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return success with its Wilson interval, time, and smoothness with intervals over episodes."""
    solved = sorted(row.steps for row in outcomes if row.success)
    tasks = dict.fromkeys(row.task for row in outcomes)
    return {
        "success": len(solved) / len(outcomes),
        "interval": list(wilson_interval(len(solved), len(outcomes))),
        "episodes": len(outcomes),
        "median_steps": solved[len(solved) // 2] if solved else None,
        "held_share": sum(row.held for row in outcomes) / sum(row.steps for row in outcomes),
        "seam": mean_and_interval([float(np.mean(row.seams)) for row in outcomes if row.seams]),
        "inside": mean_and_interval([float(np.mean(row.inside)) for row in outcomes if row.inside]),
        "jerk": mean_and_interval([row.jerk for row in outcomes]),
        "tasks": {
            task: sum(row.success for row in outcomes if row.task == task)
            / sum(row.task == task for row in outcomes)
            for task in tasks
        },
    }


def mean_and_interval(values: Sequence[float], num_draws: int = 2_000) -> dict[str, Any] | None:
    """Return a mean over episodes and its 95 % bootstrap interval; None without values."""
    if not values:
        return None
    rng, array = np.random.default_rng(0), np.array(values)
    means = array[rng.integers(len(array), size=(num_draws, len(array)))].mean(axis=1)
    return {"mean": float(array.mean()), "interval": np.quantile(means, [0.025, 0.975]).tolist()}


def seconds_of(policies: dict[str, Path], repeats: int) -> dict[str, float]:
    """Return the median seconds of one answer by each method, measured in turns on one thread."""
    plain, trained = (Policy.load(policies[name]) for name in ("plain", "prefixed"))
    environment = _environment(plain.contract.embodiment.name, FIVE_TASKS[0], MAX_STEPS)
    shown = environment.reset(DEMONSTRATION_SEEDS)
    planned = plain.act(shown)

    def continuation(method: Any) -> Continuation:
        return Continuation(actions=planned, delay=4, execution=5, method=method)

    asked = {
        "none": lambda: plain.act(shown),
        "guided": lambda: plain.act(shown, continuation=continuation("guided")),
        "guided identity": lambda: plain.act(shown, continuation=continuation("guided_identity")),
        "trained": lambda: trained.act(shown, continuation=continuation("trained")),
    }
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(repeats):
        for name, ask in asked.items():
            began = time.perf_counter()
            ask()
            taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in taken.items()}


def draw(found: dict[str, dict[int, dict[str, Any]]], latencies: Sequence[int]) -> Figure:
    """Draw success, time to success and smoothness over latency; bars are 95 % intervals."""
    figure, axes = new_figure(2, 2, size=(10.5, 7.4))
    panels = [
        ("success", "success rate"),
        ("median_steps", "median control steps of solved episodes"),
        ("seam", "change of velocity at seams (share of range)"),
        ("jerk", "mean squared jerk of commands"),
    ]
    for ax, (key, label) in zip(axes.flat, panels, strict=True):
        for place, (way, rows) in enumerate(found.items()):
            color, marker = STYLES[way]
            points = []
            for latency, row in rows.items():
                x = latency + 0.13 * (place - (len(found) - 1) / 2)
                value, interval = row[key], row["interval"] if key == "success" else None
                if isinstance(value, dict):
                    value, interval = value["mean"], value["interval"]
                if value is None:
                    continue
                points.append((x, value))
                if interval is not None:
                    ax.plot([x, x], interval, color=color, alpha=0.45, linewidth=2)
            if points:
                ax.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=5, label=way)
        ax.set(xlabel="latency (control steps of 50 ms)", ylabel=label, xticks=list(latencies))
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[1, 1].set_yscale("log")
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=1_200, help="training updates of each policy")
    parser.add_argument("--episodes", type=int, default=10, help="of each task")
    parser.add_argument("--latencies", type=int, nargs="+", default=[0, 2, 4, 6, 8, 10])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--quick", action="store_true", help="5 updates, one task, one short episode")
    given = parser.parse_args()
    given.tasks, given.max_steps = FIVE_TASKS, MAX_STEPS
    if given.quick:
        given.steps, given.episodes, given.latencies = 5, 1, [0, 4]
        given.tasks, given.max_steps = FIVE_TASKS[:1], 20
    policies = {
        name: learn(name, given.run, given.output, given.steps)
        for name in dict.fromkeys(WAYS[way][1] for way in given.ways)
    }
    outcomes = run_all(given, policies)
    found: dict[str, dict[int, dict[str, Any]]] = {way: {} for way in given.ways}
    for (way, latency), rows in outcomes.items():
        found[way][latency] = summary(rows)
    told: dict[str, Any] = {
        "steps": given.steps,
        "episodes_per_task": given.episodes,
        "num_executed": NUM_EXECUTED,
        "ways": found,
    }
    if {"plain", "prefixed"} <= set(policies):
        told["seconds_of_an_answer"] = seconds_of(policies, repeats=3 if given.quick else 30)
    figure = draw(found, given.latencies)
    stem = given.output / "real_time_chunking"
    stem.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".svg").write_text(svg_of(figure), encoding="utf-8")
    picture_of(figure).save(stem.with_suffix(".png"), optimize=True)
    show(
        [
            {
                "way": way,
                "latency": latency,
                "success": f"{row['success']:.2f} ({row['interval'][0]:.2f}-{row['interval'][1]:.2f})",
                "median steps": row["median_steps"],
                "waiting": f"{row['held_share']:.2f}",
                "seam": "-" if row["seam"] is None else f"{row['seam']['mean']:.3f}",
                "jerk": f"{row['jerk']['mean']:.4f}",
            }
            for way, rows in found.items()
            for latency, row in rows.items()
        ]
    )
    print(f"figure: {stem.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
