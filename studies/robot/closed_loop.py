"""Ways to ask a policy, compared in its simulator: the same scenes and the same noise for all, resumable."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.navigation2d import Navigation2D
from pizero.envs.simulators import SIMULATORS, FilmedEnvironment, find_simulator
from pizero.envs.workers import worker_pool
from pizero.policy.controllers.controller import ControllerConfig, make_player
from pizero.policy.controllers.simulated import SimulatedController
from pizero.policy.policy import Policy
from pizero.progress import counting
from pizero.results import wilson_interval
from pizero.robots import NAVIGATION2D
from studies.robot.asking import Asked, Way, load_exact
from studies.robot.run_folder import Run

EPISODES_PER_JOB = 5

Job = tuple[str, str, list[int]]
"""A way's name, a task, and which of its scenes."""

REACH = 0.08
"""How near the point has to come to a disc, as in its environment."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an episode ended: `done` names the task that was done first, the told one or another, or none."""

    task: str
    index: int
    done: str
    steps: int

    @property
    def success(self) -> bool:
        """Return whether what was done is what the scene's task is."""
        return self.done == self.task


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What ways are compared on: `episodes` scenes of each task, or of the robot's usual ones.

    An episode has failed after `max_steps` control steps. `folder` keeps outcomes; with no workers, all runs
    in this process.
    """

    folder: Path
    episodes: int
    max_steps: int
    num_workers: int
    tasks: tuple[str, ...] = ()


def scenes_of(given: argparse.Namespace) -> Scenes:
    """Return the scenes that a study's command line asks for; those of its small form end early."""
    robot = Run(given.run).contract.embodiment.name
    max_steps = 30 if robot == NAVIGATION2D.name else 125
    return Scenes(
        folder=given.run / "studies" / ("quick" if given.quick else "closed_loop"),
        episodes=given.episodes,
        max_steps=6 if given.quick else max_steps,
        num_workers=given.workers,
    )


def run(ways: Mapping[str, Way], scenes: Scenes) -> dict[str, list[Outcome]]:
    """Run every way on every scene, but for what the scenes' folder holds; return all outcomes."""
    scenes.folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(ways.values()))
    tasks = scenes.tasks or find_simulator(load_exact(first.policy).contract).default_tasks
    logs = {name: scenes.folder / f"{way.identity()[:12]}.jsonl" for name, way in ways.items()}
    found = {name: read_outcomes(log) for name, log in logs.items()}
    jobs: list[Job] = []
    for name in ways:
        done = {(outcome.task, outcome.index) for outcome in found[name]}
        for task in tasks:
            missing = [index for index in range(scenes.episodes) if (task, index) not in done]
            size = EPISODES_PER_JOB
            jobs += [(name, task, missing[i : i + size]) for i in range(0, len(missing), size)]
    with counting("running", sum(len(indices) for _, _, indices in jobs), "episodes") as progress:
        for name, outcomes in _outcomes_of(ways, jobs, scenes):
            with logs[name].open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes)
            found[name] += outcomes
            progress.advance(len(outcomes), note=name)
    wanted = {(task, index) for task in tasks for index in range(scenes.episodes)}
    return {
        name: sorted(
            (outcome for outcome in outcomes if (outcome.task, outcome.index) in wanted),
            key=lambda outcome: (outcome.task, outcome.index),
        )
        for name, outcomes in found.items()
    }


def _outcomes_of(
    ways: Mapping[str, Way], jobs: Sequence[Job], scenes: Scenes
) -> Iterator[tuple[str, list[Outcome]]]:
    """Yield the outcomes of each job as soon as it is done."""
    if scenes.num_workers == 0 or not jobs:
        for name, task, indices in jobs:
            yield name, run_episodes(ways[name], task, indices, scenes.max_steps)
        return
    with worker_pool(min(scenes.num_workers, len(jobs))) as pool:
        futures = {
            pool.submit(run_episodes, ways[name], task, indices, scenes.max_steps): name
            for name, task, indices in jobs
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def read_outcomes(log: Path) -> list[Outcome]:
    """Return the episodes of a log; a last line that was cut off does not count."""
    if not log.exists():
        return []
    whole = [
        line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")
    ]
    log.write_text("".join(whole), encoding="utf-8")
    return [Outcome(**json.loads(line)) for line in whole]


@functools.cache
def _policy(folder: Path) -> Policy:
    return load_exact(folder)


@functools.cache
def _environment(robot: str, task: str, max_steps: int) -> FilmedEnvironment:
    return SIMULATORS[robot].make(task, max_steps)


def run_episodes(way: Way, task: str, indices: Sequence[int], max_steps: int) -> list[Outcome]:
    """Run some episodes of one task in this process."""
    policy = _policy(way.policy)
    environment = _environment(policy.contract.embodiment.name, task, max_steps)
    return [run_episode(way, policy, environment, index, max_steps) for index in indices]


def run_episode(
    way: Way, policy: Policy, environment: FilmedEnvironment, index: int, max_steps: int
) -> Outcome:
    """Let a policy act until a task is done or the steps are used up; half of each chunk is executed."""
    seed, horizon = DEMONSTRATION_SEEDS + index, policy.contract.horizon
    embodiment = policy.contract.embodiment
    config = ControllerConfig(kind=way.kind, num_executed=horizon // 2, delay=way.latency)
    player = make_player(config, horizon=horizon, embodiment=embodiment)
    controller = SimulatedController(player, Asked(policy, way), embodiment, latency=way.latency)
    environment.reset(seed)
    controller.reset(seed=seed)
    steps, done = 0, ""
    while not done and steps < max_steps:
        success = environment.step(controller.step(environment.observe), render=False).success
        done = environment.task if success else other_task(environment)
        steps += 1
    return Outcome(task=environment.task, index=index, done=done, steps=steps)


def other_task(environment: FilmedEnvironment) -> str:
    """Return the task, not the told one, that is done at present; in scenes of one task there is none."""
    if isinstance(environment, Navigation2D):
        for color, center in environment.discs.items():
            if color != environment.color and np.linalg.norm(center - environment.position) < REACH:
                return color
    return ""


def rate(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return how often the task was done, with its Wilson interval, how often another, and of each task."""
    tasks = sorted({outcome.task for outcome in outcomes})
    solved = sum(outcome.success for outcome in outcomes)
    other = sum(bool(outcome.done) and not outcome.success for outcome in outcomes)
    times = sorted(outcome.steps for outcome in outcomes if outcome.success)
    return {
        "success": solved / len(outcomes),
        "interval": list(wilson_interval(solved, len(outcomes))),
        "episodes": len(outcomes),
        "another": other / len(outcomes),
        "another_interval": list(wilson_interval(other, len(outcomes))),
        "median_steps": times[len(times) // 2] if times else None,
        "tasks": {
            task: float(np.mean([outcome.success for outcome in outcomes if outcome.task == task]))
            for task in tasks
        },
    }


def paired(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """Compare two ways scene by scene: how many only one of them solves, and the exact probability of as
    uneven a split by chance (McNemar 1947, with the binomial distribution).
    """
    ours = {(outcome.task, outcome.index): outcome.success for outcome in first}
    theirs = {(outcome.task, outcome.index): outcome.success for outcome in second}
    if ours.keys() != theirs.keys():
        raise ValueError("expected the same scenes for both, to compare them one by one")
    only_first = sum(ours[scene] and not theirs[scene] for scene in ours)
    only_second = sum(theirs[scene] and not ours[scene] for scene in ours)
    split = only_first + only_second
    chance = float(scipy.stats.binomtest(only_first, split).pvalue) if split else 1.0
    return {"only_first": only_first, "only_second": only_second, "chance": chance}
