"""A policy under a planner in closed loop, in the simulator of the policy's robot."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pizero.contract import Contract
from pizero.data.video import encode_video
from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.navigation2d import AGENT_RADIUS, DISC_RADIUS, Navigation2D
from pizero.envs.simulators import FilmedEnvironment, find_simulator
from pizero.names import nearest
from pizero.planning.asking import AskingInStep
from pizero.planning.following import Event, Following, FollowingConfig, FollowingController, State
from pizero.planning.planner import Planner
from pizero.planning.scripted import Predicate
from pizero.planning.worker import AskingInThread
from pizero.policy.acting import Acting
from pizero.policy.controllers.controller import ControllerConfig, make_player
from pizero.policy.controllers.simulated import SimulatedController
from pizero.types import Observation


@dataclass(frozen=True, kw_only=True)
class FollowConfig:
    """What to run: one task's scenes, for up to `max_steps` control steps each, under a planner with a goal.

    Where `paced`, a control step takes as long as on the robot, and the planner is asked in a thread: for
    planners that live in real time. Else the simulator's time stands still while the planner answers.
    """

    goal: str
    task: str = ""
    episodes: int = 1
    max_steps: int = 250
    seed: int = 0
    paced: bool = False
    following: FollowingConfig = field(default_factory=FollowingConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.max_steps < 1:
            raise ValueError("expected at least one episode and one step an episode")


@dataclass(frozen=True, kw_only=True)
class FollowedEpisode:
    """How one episode went: whether the simulator saw its task solved, and the planner's last state."""

    task: str
    index: int
    seed: int
    success: bool
    state: State
    steps: int
    held: int
    stale: int
    answers: int
    errors: Mapping[str, int]
    timeline: tuple[Event, ...]


class Scene:
    """A simulator that remembers whether its task was solved, and what a written plan can ask of it."""

    def __init__(self, contract: Contract, task: str, max_steps: int) -> None:
        simulator = find_simulator(contract)
        chosen = task or simulator.default_tasks[0]
        if chosen not in simulator.tasks:
            raise ValueError(
                f"the robot {contract.embodiment.name!r} has no task {chosen!r}: "
                f"{nearest(chosen, simulator.tasks)}"
            )
        self.environment: FilmedEnvironment = simulator.make(chosen, max_steps)
        self.solved = False

    @property
    def predicates(self) -> Mapping[str, Predicate]:
        """Return the conditions by their names: `success` everywhere, and what else this simulator knows."""
        found: dict[str, Predicate] = {"success": lambda seen: self.solved}
        if isinstance(self.environment, Navigation2D):
            found |= {
                "at red": lambda seen: self._at("red", seen),
                "at blue": lambda seen: self._at("blue", seen),
            }
        return found

    def _at(self, color: str, seen: Observation) -> bool:
        assert isinstance(self.environment, Navigation2D)
        gap = np.linalg.norm(self.environment.discs[color] - seen.state)
        return bool(gap < DISC_RADIUS + AGENT_RADIUS)


def follow(
    config: FollowConfig,
    policy: Acting,
    scene: Scene,
    planner: Planner,
    index: int,
    *,
    film: Path | None = None,
    tell: Callable[[Event], None] | None = None,
) -> FollowedEpisode:
    """Run one episode until the planner has reached its goal or given up, or the steps are used up.

    `tell` is called with each event of the timeline as it happens; `film` names the video to write.
    """
    environment, embodiment = scene.environment, scene.environment.embodiment
    player = make_player(config.controller, horizon=policy.horizon, embodiment=embodiment)
    controller = SimulatedController(player, policy, embodiment, latency=config.controller.delay)
    asking = AskingInThread(planner) if config.paced else AskingInStep(planner)
    steps = 0
    following = Following(asking, goal=config.goal, config=config.following)
    directed = FollowingController(
        controller,
        following,
        embodiment,
        clock=time.monotonic if config.paced else lambda: steps / embodiment.rate,
    )
    seed = DEMONSTRATION_SEEDS + config.seed * 1_000_000 + index
    environment.reset(seed)
    scene.solved = False
    directed.reset(seed=seed)
    frames, told, began = [], 0, time.monotonic()
    try:
        while steps < config.max_steps and following.state not in ("reached", "failed"):
            if film is not None:
                frames.append(environment.picture())
            action = directed.step(environment.observe)
            scene.solved = environment.step(action, render=False).success or scene.solved
            steps += 1
            if tell is not None:
                for event in following.timeline[told:]:
                    tell(event)
            told = len(following.timeline)
            if config.paced:
                time.sleep(max(0.0, began + steps / embodiment.rate - time.monotonic()))
    finally:
        if isinstance(asking, AskingInThread):
            asking.close()
    if film is not None:
        frames.append(environment.picture())
        film.parent.mkdir(parents=True, exist_ok=True)
        encode_video(film, frames, fps=embodiment.rate)
    return FollowedEpisode(
        task=environment.task,
        index=index,
        seed=seed,
        success=scene.solved,
        state=following.state,
        steps=steps,
        held=following.num_held,
        stale=following.num_stale,
        answers=following.num_answers,
        errors=dict(following.errors),
        timeline=tuple(following.timeline),
    )
