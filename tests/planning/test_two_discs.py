"""Closed loop: a goal of two steps is reached in its order with a planner, and not without one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pizero.cli.follow import follow as follow_verb
from pizero.data.video import decode_video
from pizero.envs.following import FollowConfig, FollowedEpisode, Scene, follow
from pizero.envs.navigation2d import COLORS
from pizero.models.build import build
from pizero.planning.chat import ChatConfig
from pizero.planning.following import FollowingConfig
from pizero.planning.planner import Planner, Situation
from pizero.planning.scripted import ScriptedPlan, ScriptedPlanner, Step
from pizero.policy.acting import Acting
from pizero.policy.controllers.controller import ControllerConfig
from pizero.policy.policy import Policy
from pizero.records import write_record
from pizero.robots import NAVIGATION2D
from pizero.types import ActionChunk, Continuation, Observation
from pizero.weights.folder import write_policy
from tests.examples import TINY_PI0, contract
from tests.small import demonstrate, small_config, small_contract, small_train

NUM_SCENES = 12
GOAL = "red, then blue disc"


class Walker:
    """A policy without learning: walks to the one disc that its instruction names, where the picture shows
    it; implements `Acting`.
    """

    horizon, rate = 4, NAVIGATION2D.rate

    def reset(self, *, seed: int) -> None:
        """Nothing is random."""

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        (color,) = [color for name, color in COLORS.items() if f"{name} disc" in observation.instruction] or [
            None
        ]
        where = np.argwhere((observation.images["top"] == color).all(axis=-1)).mean(axis=0)
        target = np.array([where[1] + 0.5, 32 - where[0] - 0.5]) / 32
        position, chunk = observation.state, np.zeros((self.horizon, 2), dtype=np.float32)
        for action in chunk:
            action[:] = np.clip((target - position) / 0.1, -1.0, 1.0)
            position = position + 0.1 * action
        return chunk


def two_discs(*colors: str) -> ScriptedPlan:
    return ScriptedPlan(
        steps=tuple(
            Step(instruction=f"go to the {color} disc", until=f"at {color}", seconds=10.0) for color in colors
        )
    )


class Repeats:
    """No planner: the goal itself is the instruction."""

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction

    def reset(self) -> None:
        """Nothing is kept."""

    def plan(self, situation: Situation) -> str | None:
        return self.instruction


def visits(policy: Acting, planner: Callable[[Scene], Planner]) -> tuple[list[str], list[FollowedEpisode]]:
    """Return the discs in the order in which each scene's point came to them first, and the episodes."""
    orders, episodes = [], []
    config = FollowConfig(
        goal=GOAL,
        max_steps=80,
        following=FollowingConfig(period=0.2),
        controller=ControllerConfig(num_executed=2),
    )
    scene = Scene(contract(), "blue", config.max_steps)
    for index in range(NUM_SCENES):
        seen: dict[str, None] = {}
        step = scene.environment.step

        def watched(action: np.ndarray, *, render: bool = True, seen=seen, step=step):
            found = step(action, render=render)
            now = scene.environment.observe()
            seen.update({name: None for name in COLORS if scene.predicates[f"at {name}"](now)})
            return found

        scene.environment.step = watched  # type: ignore[method-assign]
        episodes.append(follow(config, policy, scene, planner(scene), index))
        scene.environment.step = step  # type: ignore[method-assign]
        orders.append(" ".join(seen))
    return orders, episodes


def scripted(*colors: str) -> Callable[[Scene], Planner]:
    return lambda scene: ScriptedPlanner(two_discs(*colors), NAVIGATION2D, predicates=scene.predicates)


def in_order(orders: list[str]) -> int:
    return orders.count("red blue")


def test_a_walker_visits_both_discs_in_the_order_of_the_plan() -> None:
    orders, episodes = visits(Walker(), scripted("red", "blue"))
    assert in_order(orders) >= NUM_SCENES - 2, "the other disc may stand in the way"
    assert {episode.state for episode in episodes} == {"reached"}
    assert [event.text for event in episodes[0].timeline][:2] == ["go to the red disc", "go to the blue disc"]
    assert in_order(visits(Walker(), scripted("blue", "red"))[0]) <= 2
    assert in_order(visits(Walker(), lambda scene: Repeats("go to the red disc"))[0]) <= 2


@pytest.mark.slow
def test_a_policy_that_learnt_one_disc_at_a_time_visits_both_with_a_planner(tmp_path: Path) -> None:
    dataset, config = demonstrate(tmp_path / "dataset", num_episodes=300), small_config(num_steps=500)
    policy = Policy.load(small_train(config, dataset, small_contract(config, dataset), tmp_path / "run"))
    with_planner, episodes = visits(policy, scripted("red", "blue"))
    without, _ = visits(policy, lambda scene: Repeats(GOAL))
    assert in_order(with_planner) >= 8, with_planner
    assert in_order(without) <= 3, without
    assert sum(episode.state == "reached" for episode in episodes) >= 8


def test_the_verb_shows_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a policy that never learnt anything the plan fails: its first step takes too long."""
    policy, file = tmp_path / "policy", tmp_path / "plan.json"
    write_policy(policy, config=TINY_PI0, contract=contract(), tensors=build(TINY_PI0, seed=0).state_dict())
    steps = tuple(
        Step(instruction=f"go to the {color} disc", until="success", seconds=0.5) for color in ("red", "blue")
    )
    write_record(file, ScriptedPlan(steps=steps))
    given = {"planner": str(file), "task": "blue", "num_executed": 2, "period": 0.1}
    follow_verb(policy, videos=tmp_path / "films", **given)
    out = capsys.readouterr().out
    assert "0.0 s  following  go to the red disc" in out
    assert "0.5 s  failed     PlanFailedError: step 1, 'go to the red disc', took 0.5 s" in out
    assert "1 episodes: 0 plans came to their end, 0 tasks solved" in out
    follow_verb(policy, as_json=True, **given)
    (episode,) = json.loads(capsys.readouterr().out)
    assert [event["state"] for event in episode["timeline"]] == ["following", "failed"]
    assert (episode["errors"], episode["steps"]) == ({"PlanFailedError": 1}, 6)
    assert len(list(decode_video(tmp_path / "films" / "blue-000.mp4"))) == episode["steps"] + 1


def test_the_verb_takes_instructions_from_a_pipe(tmp_path: Path) -> None:
    """The process is told by its standard input, as a person would, and ends when it is told `done`."""
    policy = tmp_path / "policy"
    write_policy(policy, config=TINY_PI0, contract=contract(), tensors=build(TINY_PI0, seed=0).state_dict())
    command = [
        sys.executable,
        "-m",
        "pizero",
        "follow",
        str(policy),
        "--max-steps",
        "100000",
        "--num-executed",
        "2",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = ""
        for instruction in ("go to the red disc", "go to the blue disc", "done"):
            process.stdin.write(f"{instruction}\n")
            process.stdin.flush()
            expected = "reached" if instruction == "done" else f"following  {instruction}"
            for line in process.stdout:
                said += line
                if expected in line:
                    break
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "following  go to the blue disc" in said
    assert "1 plans came to their end" in out


def test_the_verb_refuses_what_cannot_work(tmp_path: Path) -> None:
    policy, file = tmp_path / "policy", tmp_path / "plan.json"
    write_policy(policy, config=TINY_PI0, contract=contract(), tensors=build(TINY_PI0, seed=0).state_dict())
    write_record(file, ScriptedPlan(steps=(Step(instruction="go", until="at green"),)))
    with pytest.raises(ValueError, match="unknown condition 'at green': did you mean 'at red'"):
        follow_verb(policy, planner=str(file))
    with pytest.raises(ValueError, match="has no task 'bleu': did you mean 'blue'"):
        follow_verb(policy, planner=str(file), task="bleu")
    write_record(file, ChatConfig(url="http://127.0.0.1:1/v1", model="m"))
    with pytest.raises(ValueError, match="give one with --goal"):
        follow_verb(policy, planner=str(file))
