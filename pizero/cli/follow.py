"""`pizero follow`: a policy under a planner."""

from __future__ import annotations

import json
from pathlib import Path

from pizero.cli.options import Json, say
from pizero.envs.following import FollowConfig, FollowedEpisode, Scene
from pizero.envs.following import follow as follow_planner
from pizero.planning.chat import ChatConfig, ChatPlanner
from pizero.planning.following import Event, FollowingConfig
from pizero.planning.planner import Planner
from pizero.planning.scripted import ScriptedPlan, ScriptedPlanner
from pizero.planning.typed import TypedPlanner
from pizero.policy.controllers.controller import ControllerConfig
from pizero.policy.policy import Policy
from pizero.progress import counting
from pizero.records import read_record, to_data

TERMINAL = "terminal"


def follow(
    policy: Path,
    /,
    *,
    planner: str = TERMINAL,
    goal: str = "",
    task: str = "",
    episodes: int = FollowConfig.episodes,
    max_steps: int = FollowConfig.max_steps,
    num_executed: int = ControllerConfig.num_executed,
    period: float | None = None,
    max_silence: float = FollowingConfig.max_silence,
    videos: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    as_json: Json = False,
) -> None:
    """Let a planner direct a policy in the simulator of its robot, and show who said what when.

    A new instruction drops what was planned under the last one. Without an answer for too long the robot
    holds. Type instructions into the terminal, `done` at the end, or name a file with a written plan, or with
    the address of a vision-language model: see docs/planner.md.

    Args:
        policy: Policy folder.
        planner: `terminal`, or a JSON file with a ScriptedPlan or a ChatConfig.
        goal: What the planner is to reach; a written plan and a terminal need none.
        task: Task whose scenes are used; by default the robot's first.
        episodes: Scenes.
        max_steps: Control steps after which an episode ends.
        num_executed: Actions of each chunk that are executed before the policy looks again.
        period: Seconds between two questions to the planner; by default 0.2 for a terminal, else 1.
        max_silence: Seconds without an answer after which the robot holds.
        videos: Folder to film the episodes into.
        seed: Decides the scenes.
        device: Where the policy computes: cpu, cuda, cuda:1.
        as_json: Print episodes and timelines as JSON.
    """
    source = None if planner == TERMINAL else read_record(ScriptedPlan | ChatConfig, Path(planner))
    if isinstance(source, ChatConfig) and not goal:
        raise ValueError("expected a goal for the model: give one with --goal")
    config = FollowConfig(
        goal=goal,
        task=task,
        episodes=episodes,
        max_steps=max_steps,
        seed=seed,
        paced=not isinstance(source, ScriptedPlan),
        following=FollowingConfig(period=period or (0.2 if source is None else 1.0), max_silence=max_silence),
        controller=ControllerConfig(num_executed=num_executed),
    )
    loaded = Policy.load(policy, device=device)
    scene = Scene(loaded.contract, task, max_steps)
    chosen = _planner(source, loaded, scene)
    results = []
    with counting("following", episodes, "episodes") as progress:
        for index in range(episodes):
            film = videos / f"{scene.environment.task}-{index:03d}.mp4" if videos else None
            if not as_json:
                say(f"{scene.environment.task}, scene {index}")
            results.append(
                follow_planner(
                    config, loaded, scene, chosen, index, film=film, tell=None if as_json else _tell
                )
            )
            if not as_json:
                _tell_end(results[-1])
            progress.advance(note=f"{sum(result.success for result in results)} solved")
    if as_json:
        print(json.dumps([to_data(result) for result in results]))
    else:
        reached = sum(result.state == "reached" for result in results)
        solved = sum(result.success for result in results)
        say(f"{len(results)} episodes: {reached} plans came to their end, {solved} tasks solved")
        if videos:
            say(f"videos in {videos}")


def _planner(source: ScriptedPlan | ChatConfig | None, policy: Policy, scene: Scene) -> Planner:
    if source is None:
        return TypedPlanner()
    if isinstance(source, ChatConfig):
        return ChatPlanner(source)
    return ScriptedPlanner(source, policy.contract.embodiment, predicates=scene.predicates)


def _tell(event: Event) -> None:
    print(f"  {event.seconds:6.1f} s  {event.state:<9}  {event.text}", flush=True)


def _tell_end(result: FollowedEpisode) -> None:
    errors = ", ".join(f"{count} {name}" for name, count in result.errors.items())
    say(
        f"  {result.steps} steps, {result.held} of them held, {result.stale} under a stale instruction; "
        f"{result.answers} answers{', errors: ' + errors if errors else ''}; "
        f"task {'solved' if result.success else 'not solved'}"
    )
