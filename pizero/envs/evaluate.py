"""Closed-loop evaluation: parallel, seeded, resumable, with intervals."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pizero.contract import Contract
from pizero.data.video import encode_video
from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.simulators import SIMULATORS, FilmedEnvironment, find_simulator
from pizero.envs.workers import worker_pool
from pizero.names import nearest
from pizero.policy.controllers.controller import ControllerConfig, Kind, make_player
from pizero.policy.controllers.player import Player
from pizero.policy.controllers.simulated import SimulatedController
from pizero.policy.policy import Policy
from pizero.policy.smoothness import roughness
from pizero.progress import counting
from pizero.records import differences, read_record, to_data, write_record
from pizero.results import EpisodeResult, read_results
from pizero.weights.folder import MANIFEST, sha256_of

EPISODES_PER_JOB = 5


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to run: each task, or the robot's usual ones, on scenes that no demonstration shows.

    Of each chunk `num_executed` actions are executed before the policy looks again, in the way that
    `controller` names; an answer is there `latency` control steps after its observation. An episode ends when
    the task is solved, or after `max_steps` control steps. `num_videos` episodes of each task are filmed.
    """

    tasks: tuple[str, ...] = ()
    episodes_per_task: int = 20
    num_executed: int = 5
    controller: Kind = "receding"
    latency: int = 0
    max_steps: int = 125
    num_videos: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        known = {task for simulator in SIMULATORS.values() for task in simulator.tasks}
        for task in self.tasks:
            if task not in known:
                raise ValueError(f"unknown task {task!r}: {nearest(task, known)}")
        if self.episodes_per_task < 1 or self.max_steps < 1:
            raise ValueError("expected at least one episode a task and one step an episode")


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What an evaluation folder belongs to: its config, and the policy by the hash of its manifest."""

    config: EvaluateConfig
    policy_sha256: str


def evaluate(
    config: EvaluateConfig, policy_folder: Path, folder: Path, *, num_workers: int
) -> list[EpisodeResult]:
    """Run all episodes that `folder/episodes.jsonl` does not hold yet, and return all of them in order.

    Filmed episodes are written to `folder/videos`. The result does not depend on the number of workers.
    ValueError if the folder belongs to another policy or config.
    """
    contract = Policy.load(policy_folder).contract
    config = replace(config, tasks=config.tasks or find_simulator(contract).default_tasks)
    check_policy(contract, config)
    _claim(folder, EvaluationRun(config=config, policy_sha256=sha256_of(policy_folder / MANIFEST)))
    log = folder / "episodes.jsonl"
    results = read_results(log)
    log.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results), encoding="utf-8")
    done = {(result.task, result.index) for result in results}
    jobs = []
    for task in config.tasks:
        missing = [index for index in range(config.episodes_per_task) if (task, index) not in done]
        jobs += [(task, missing[i : i + EPISODES_PER_JOB]) for i in range(0, len(missing), EPISODES_PER_JOB)]
    total = len(config.tasks) * config.episodes_per_task
    with (
        counting("evaluating", total, "episodes", done=len(results)) as progress,
        worker_pool(num_workers) as pool,
        log.open("a", encoding="utf-8") as file,
    ):
        futures = [
            pool.submit(run_episodes, config, policy_folder, task, indices, folder / "videos")
            for task, indices in jobs
        ]
        for future in as_completed(futures):
            for result in future.result():
                file.write(json.dumps(asdict(result)) + "\n")
                results.append(result)
            file.flush()
            solved = sum(result.success for result in results)
            progress.advance(len(future.result()), note=f"{solved}/{len(results)} solved")
    order = {task: position for position, task in enumerate(config.tasks)}
    return sorted(results, key=lambda result: (order[result.task], result.index))


def check_policy(contract: Contract, config: EvaluateConfig) -> None:
    """Raise ValueError if a policy's robot has no simulator or no such task, or its chunks are shorter."""
    simulator = find_simulator(contract)
    for task in config.tasks:
        if task not in simulator.tasks:
            raise ValueError(
                f"the robot {contract.embodiment.name!r} has no task {task!r}: "
                f"{nearest(task, simulator.tasks)}"
            )
    _player(contract, config)


def _player(contract: Contract, config: EvaluateConfig) -> Player:
    controller = ControllerConfig(
        kind=config.controller, num_executed=config.num_executed, delay=config.latency
    )
    return make_player(controller, horizon=contract.horizon, embodiment=contract.embodiment)


def _claim(folder: Path, run: EvaluationRun) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    if path.exists():
        found = differences(to_data(run), to_data(read_record(EvaluationRun, path)))
        if found:
            raise ValueError(
                f"{folder} holds the evaluation of another policy or config (asked ≠ there): "
                f"{'; '.join(found[:5])}. Nothing was changed. Name another folder, or remove this one"
            )
    write_record(path, run)


@functools.cache
def _environment(robot: str, task: str, max_steps: int) -> FilmedEnvironment:
    return SIMULATORS[robot].make(task, max_steps)


@functools.cache
def _policy(folder: Path) -> Policy:
    return Policy.load(folder)


def run_episodes(
    config: EvaluateConfig, policy_folder: Path, task: str, indices: Sequence[int], videos: Path
) -> list[EpisodeResult]:
    """Run some episodes of one task in this process."""
    policy = _policy(policy_folder)
    environment = _environment(policy.contract.embodiment.name, task, config.max_steps)
    controller = SimulatedController(
        _player(policy.contract, config), policy, policy.contract.embodiment, latency=config.latency
    )
    results = []
    for index in indices:
        film = videos / f"{task}-{index:03d}.mp4" if index < config.num_videos else None
        results.append(run_episode(config, environment, controller, index, film))
    return results


def run_episode(
    config: EvaluateConfig,
    environment: FilmedEnvironment,
    controller: SimulatedController,
    index: int,
    film: Path | None,
) -> EpisodeResult:
    """Let a policy act until the task is solved or the steps are used up; `film` names the video to write."""
    seed = DEMONSTRATION_SEEDS + config.seed * 1_000_000 + index
    began = time.perf_counter()
    environment.reset(seed)
    controller.reset(seed=seed)
    frames, actions = [], []
    solved, steps = False, 0
    while not solved and steps < config.max_steps:
        if film is not None:
            frames.append(environment.picture())
        actions.append(controller.step(environment.observe))
        solved = environment.step(actions[-1], render=False).success
        steps += 1
    if film is not None:
        frames.append(environment.picture())
        film.parent.mkdir(parents=True, exist_ok=True)
        encode_video(film, frames, fps=environment.embodiment.rate)
    return EpisodeResult(
        task=environment.task,
        index=index,
        seed=seed,
        success=solved,
        steps=steps,
        seconds=round(time.perf_counter() - began, 3),
        held=controller.num_held,
        roughness=round(roughness(np.stack(actions), environment.embodiment), 6),
    )
