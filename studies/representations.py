"""The demo's demonstrations learnt in other ways: as tokens, as relative positions, beside another robot's.

    python -m studies.representations RUN OUTPUT [--steps 1200] [--episodes 20] [--quick]

RUN is the folder of a finished `pizero demo`. Every part trains by a recipe of `pizero/recipes.py` and is run
in closed loop; OUTPUT gets `representations.json`, and a part that is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pizero.cli.tokenizer import tokenizer
from pizero.cli.train import train
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import ACTION, features_json, robot_layout
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import partial_folder, robot_episode, write_shard
from pizero.envs.evaluate import EvaluateConfig, evaluate
from pizero.envs.navigation2d import COLORS, Navigation2D
from pizero.envs.positions import target_of
from pizero.envs.simulators import SIMULATORS
from pizero.envs.workers import default_workers
from pizero.recipes import FAST_VOCABULARY
from pizero.results import summarize
from pizero.robots import METAWORLD, METAWORLD_POSITIONS, NAVIGATION2D


def with_positions(source: Path, target: Path) -> None:
    """Write a copy of the arm's dataset whose actions are targets of its hand; videos are linked."""
    if target.exists():
        return
    dataset = LeRobotDataset.open(source)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=os.link)
    targets = target_of(dataset.actions, dataset.states[:, :3])
    for path in sorted({episode.data for episode in dataset.episodes}):
        own = [episode for episode in dataset.episodes if episode.data == path]
        table = pq.read_table(path)
        values = targets[own[0].start : own[-1].end]
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        place = table.column_names.index(ACTION)
        copy = partial / path.relative_to(source)
        copy.unlink()
        pq.write_table(table.set_column(place, table.schema.field(ACTION), column), copy)
    info = json.loads((source / "meta" / "info.json").read_text(encoding="utf-8"))
    info |= {
        "features": features_json(robot_layout(METAWORLD_POSITIONS)),
        "robot_type": METAWORLD_POSITIONS.name,
    }
    for name in ("info.json", "stats.json"):  # the statistics of a format are those of the actions that were
        (partial / "meta" / name).unlink()
    (partial / "meta" / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    partial.rename(target)


def walks(target: Path, num_episodes: int) -> None:
    """Write demonstrations of the point on a plane, pushed off its way now and then."""
    if target.exists():
        return
    partial, layout = partial_folder(target), robot_layout(NAVIGATION2D)
    for index in range(num_episodes):
        environment = Navigation2D(list(COLORS)[index % len(COLORS)])
        rng = np.random.default_rng(index)
        observations, actions = [environment.reset(index)], []
        solved = False
        while not solved:
            actions.append(environment.expert_action())
            noise = 0.3 * rng.standard_normal(2).astype(np.float32)
            step = environment.step(actions[-1] + noise)
            solved = step.success or step.done
            observations.append(step.observation or environment.observe())
        shown = observations[: len(actions)]
        episode = robot_episode(
            states=np.stack([seen.state for seen in shown]),
            actions=np.stack(actions),
            images={"top": np.stack([seen.images["top"] for seen in shown])},
            task=environment.instruction,
        )
        write_shard(partial, index, episode, layout)
    merge_shards(partial, target, layout)


def closed_loop(policy: Path, output: Path, robot: str, episodes: int) -> dict[str, Any]:
    """Run a policy on its robot's tasks and return the summary."""
    config = EvaluateConfig(
        tasks=SIMULATORS[robot].default_tasks,
        episodes_per_task=episodes,
        num_executed=5 if robot != NAVIGATION2D.name else 2,
        max_steps=125 if robot != NAVIGATION2D.name else 30,
        num_videos=1,
    )
    return summarize(evaluate(config, policy, output, num_workers=default_workers()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--parts", nargs="*", default=["positions", "mixture", "fast"])
    parser.add_argument("--quick", action="store_true", help="20 steps and one episode of each task")
    given = parser.parse_args()
    steps, episodes = (20, 1) if given.quick else (given.steps, given.episodes)
    dataset, output = given.run / "dataset", given.output
    output.mkdir(parents=True, exist_ok=True)
    arm, point = METAWORLD.name, NAVIGATION2D.name

    def positions() -> dict[str, Any]:
        with_positions(dataset, output / "positions_data")
        run = output / "positions"
        train(dataset=(output / "positions_data",), recipe="metaworld_positions", output=run, steps=steps)
        return closed_loop(run / "policy", run / "evaluation", METAWORLD_POSITIONS.name, episodes)

    def mixture() -> dict[str, Any]:
        walks(output / "walks", 300)
        run = output / "mixture"
        data = (dataset, output / "walks")
        train(dataset=data, recipe="metaworld_and_navigation", output=run, steps=steps, weights=(0.8, 0.2))
        return {
            robot: closed_loop(run / "policies" / robot, run / f"evaluation_{robot}", robot, episodes)
            for robot in (arm, point)
        }

    def fast() -> dict[str, Any]:
        tokens, run = output / "fast_tokens", output / "fast"
        if not tokens.exists():
            tokenizer(
                dataset,
                output=tokens,
                robot=arm,
                action_form="displacement",
                horizon=10,
                vocab_size=FAST_VOCABULARY,
                scale=30.0,
            )
        train(dataset=(dataset,), recipe="metaworld_fast", action_tokenizer=tokens, output=run, steps=steps)
        return closed_loop(run / "policy", run / "evaluation", arm, episodes)

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "positions": positions,
        "mixture": mixture,
        "fast": fast,
    }
    path = output / "representations.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in given.parts:
        if name not in found:
            found[name] = {"steps": steps, "result": parts[name]()}
            path.write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
