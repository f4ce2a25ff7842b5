"""Demonstrations by scripted experts: several processes, one LeRobot dataset, the same bytes for the same
seed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pizero.data.lerobot_features import robot_layout
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import (
    Episode,
    finished_shards,
    partial_folder,
    robot_episode,
    write_shard,
)
from pizero.envs.metaworld import TASKS, MetaWorld
from pizero.envs.workers import worker_pool
from pizero.names import nearest
from pizero.progress import counting
from pizero.records import differences, read_record, to_data, write_record
from pizero.robots import METAWORLD

ATTEMPTS = 20
"""How many seeds an episode tries until the expert succeeds."""

EPISODES_PER_JOB = 5


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What to demonstrate.

    A share `pushed` of the demonstrations begins where a policy may stray: the expert acts unseen for up to
    `lead_in` steps, then the hand is pushed one way for up to `push` steps. What is recorded from there on is
    executed as recorded: noise added to executed actions would make the rest of a chunk the expert's answer
    to noise that nobody can foresee (docs/log.md has the figures). A recording goes on for
    `steps_after_success` steps once the task is solved; episodes in which the expert fails are not kept.
    """

    tasks: tuple[str, ...]
    episodes_per_task: int = 150
    pushed: float = 0.8
    lead_in: int = 20
    push: int = 6
    steps_after_success: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task {task!r}: {nearest(task, TASKS)}")
        if len(set(self.tasks)) != len(self.tasks) or not self.tasks:
            raise ValueError(
                f"expected at least one task and each once, found {', '.join(self.tasks) or 'none'}"
            )
        if self.episodes_per_task < 1 or not 0 <= self.pushed <= 1:
            raise ValueError(
                f"expected episodes_per_task ≥ 1 and a share `pushed` in [0, 1], found "
                f"{self.episodes_per_task} and {self.pushed}"
            )

    @property
    def num_episodes(self) -> int:
        """Return how many episodes the dataset gets."""
        return len(self.tasks) * self.episodes_per_task


def collect(config: CollectConfig, folder: Path, *, num_workers: int) -> int:
    """Write the dataset `folder`; return how many episodes were recorded now. What exists already is kept.

    An interrupted collection goes on where it was. ValueError if the folder holds a dataset that was
    collected with another config.
    """
    if _is_finished(config, folder):
        return 0
    partial = partial_folder(folder)
    partial.mkdir(parents=True, exist_ok=True)
    done = finished_shards(partial)
    jobs = [
        (task, [index for index in indices if index not in done])
        for position, task in enumerate(config.tasks)
        for indices in _chunks(
            range(position * config.episodes_per_task, (position + 1) * config.episodes_per_task)
        )
    ]
    jobs = [(task, indices) for task, indices in jobs if indices]
    with (
        counting("collecting", config.num_episodes, "episodes", done=len(done)) as progress,
        worker_pool(num_workers) as pool,
    ):
        futures = [pool.submit(record, config, task, indices, partial) for task, indices in jobs]
        for future in as_completed(futures):
            progress.advance(future.result())
    merge_shards(partial, folder, robot_layout(METAWORLD), {"collect.json": to_data(config)})
    (folder / "collect.json").unlink()
    return config.num_episodes - len(done)


def _is_finished(config: CollectConfig, folder: Path) -> bool:
    partial = partial_folder(folder)
    for path in (folder / "meta" / "collect.json", partial / "collect.json"):
        if path.exists():
            found = differences(to_data(config), to_data(read_record(CollectConfig, path)))
            if found:
                raise ValueError(
                    f"{folder} was collected with another config (asked ≠ there): {'; '.join(found)}. "
                    f"Nothing was changed. Name another folder, or remove this one"
                )
    if folder.exists():
        if not (folder / "meta" / "collect.json").exists():
            raise ValueError(f"{folder} exists and was not made by `pizero collect`; nothing was changed")
        return True
    partial.mkdir(parents=True, exist_ok=True)
    write_record(partial / "collect.json", config)
    return False


def _chunks(indices: range) -> list[range]:
    return [indices[start : start + EPISODES_PER_JOB] for start in range(0, len(indices), EPISODES_PER_JOB)]


@functools.cache
def _environment(task: str) -> MetaWorld:
    return MetaWorld(task)


def record(config: CollectConfig, task: str, indices: Sequence[int], folder: Path) -> int:
    """Demonstrate some episodes of one task, each into a shard of its own; return how many."""
    environment = _environment(task)
    layout = robot_layout(environment.embodiment)
    for index in indices:
        write_shard(folder, index, demonstrate(config, environment, index), layout)
    return len(indices)


def demonstrate(config: CollectConfig, environment: MetaWorld, index: int) -> Episode:
    """Return the first of this episode's attempts in which the expert succeeds."""
    for attempt in range(ATTEMPTS):
        seed = int(
            np.random.SeedSequence((config.seed, index, attempt)).generate_state(1)[0] % DEMONSTRATION_SEEDS
        )
        episode = _attempt(config, environment, seed)
        if episode is not None:
            return episode
    raise ValueError(f"the expert of {environment.task} failed {ATTEMPTS} times in a row")


DEMONSTRATION_SEEDS = 2**30
"""Demonstrations use simulator seeds below this number, evaluations from it on: no scene is in both."""


def _attempt(config: CollectConfig, environment: MetaWorld, seed: int) -> Episode | None:
    observation = environment.reset(seed)
    rng = np.random.default_rng(seed)
    if rng.random() < config.pushed:
        if _stray(config, environment, rng):
            return None
        observation = environment.observe()
    observations, actions = [], []
    remaining: int | None = None
    while remaining is None or remaining > 0:
        action = environment.expert_action()
        observations.append(observation)
        actions.append(action)
        step = environment.step(action)
        if remaining is not None:
            remaining -= 1
        elif step.success:
            remaining = config.steps_after_success
        if step.done or step.observation is None:
            break
        observation = step.observation
    if remaining is None:
        return None
    return robot_episode(
        states=np.stack([seen.state for seen in observations]),
        actions=np.stack(actions),
        images={
            name: np.stack([seen.images[name] for seen in observations]) for name in observations[0].images
        },
        task=environment.instruction,
    )


def _stray(config: CollectConfig, environment: MetaWorld, rng: np.random.Generator) -> bool:
    """Let the expert act for a while and push the hand away; return whether that solved the task already."""
    for _ in range(rng.integers(0, config.lead_in)):
        if environment.step(environment.expert_action(), render=False).success:
            return True
    push = rng.uniform(-1.0, 1.0, size=environment.embodiment.action_dim).astype(np.float32)
    push[-1] = environment.expert_action()[-1]  # the gripper stays as the expert has it
    steps = rng.integers(1, config.push + 1)
    return any(environment.step(push, render=False).success for _ in range(steps))
