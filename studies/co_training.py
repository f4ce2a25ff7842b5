"""Does a π0.5 act better for having learnt the tokens of its actions beside the flow? Seeds, intervals.

    python -m studies.co_training RUN OUTPUT [--seeds 0 1 2] [--steps 1200] [--episodes 20] [--quick]

RUN is the folder of a finished `pizero demo`, whose demonstrations are learnt. Three ways train the same π0.5
with the same seeds: `flow` by the flow alone, `insulated` with the tokens in the backbone, to which the flow
sends no gradient (knowledge insulation), and `joint` with both gradients. OUTPUT gets `co_training.json`; a
run that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from pizero.cli.tokenizer import tokenizer
from pizero.data.lerobot import LeRobotDataset
from pizero.envs.evaluate import EvaluateConfig, evaluate
from pizero.envs.simulators import FIVE_TASKS
from pizero.envs.workers import default_workers
from pizero.models.pi05 import CoTraining, Pi05Config
from pizero.recipes import FAST_VOCABULARY, metaworld_co_trained, metaworld_pi05
from pizero.results import summarize, wilson_interval
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import train
from pizero.training.sources import open_sources

WAYS = ("flow", "insulated", "joint")


def config_of(way: str, steps: int, seed: int) -> TrainConfig:
    """Return the config of one way to train."""
    if way == "flow":
        return metaworld_pi05(num_steps=steps, seed=seed)
    config = metaworld_co_trained(num_steps=steps, seed=seed)
    assert isinstance(config.model, Pi05Config)
    training = CoTraining(insulated=way == "insulated")
    return replace(config, model=replace(config.model, co_training=training))


def measure(way: str, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one policy and run it in closed loop."""
    folder = given.output / f"{way}-seed{seed}"
    config = config_of(way, given.steps, seed)
    sources = open_sources(
        config,
        [LeRobotDataset.open(given.run / "dataset")],
        tokenizers=folder / "tokenizers",
        action_tokenizer=None if way == "flow" else given.output / "tokenizer",
    )
    (policy,) = train(config, sources, folder, execution=Execution(save_every=10_000))
    judged = EvaluateConfig(
        tasks=given.tasks, episodes_per_task=given.episodes, num_executed=5, max_steps=125, num_videos=1
    )
    found = summarize(evaluate(judged, policy, folder / "evaluation", num_workers=default_workers()))
    rows = [
        json.loads(line) for line in (folder / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return {
        "way": way,
        "seed": seed,
        "episodes": found["episodes"],
        "successes": round(found["success_rate"] * found["episodes"]),
        "tasks": {task: row["success_rate"] for task, row in found["tasks"].items()},
        "held_out_action_error": rows[-1]["action_error"],
        "held_out_action_error_of_mean": rows[-1]["action_error_of_mean"],
    }


def compare(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each way's success over all seeds, and its difference to the flow alone, seed by seed."""
    found: dict[str, Any] = {}
    alone = {row["seed"]: row["successes"] / row["episodes"] for row in results if row["way"] == "flow"}
    for way in dict.fromkeys(row["way"] for row in results):
        rows = [row for row in results if row["way"] == way]
        successes, episodes = (sum(row[key] for row in rows) for key in ("successes", "episodes"))
        rates = {row["seed"]: row["successes"] / row["episodes"] for row in rows}
        found[way] = {
            "success_rate": successes / episodes,
            "interval": wilson_interval(successes, episodes),
            "of_each_seed": list(rates.values()),
            "held_out_action_error": float(np.mean([row["held_out_action_error"] for row in rows])),
        }
        seeds = [seed for seed in rates if seed in alone]
        if way != "flow" and len(seeds) > 1:
            test = ttest_rel([rates[seed] for seed in seeds], [alone[seed] for seed in seeds])
            interval = test.confidence_interval(0.95)
            found[way]["gain_over_flow"] = float(np.mean([rates[seed] - alone[seed] for seed in seeds]))
            found[way]["interval_of_the_gain"] = [float(interval.low), float(interval.high)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--episodes", type=int, default=20, help="of each task")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["flow", "insulated"])
    parser.add_argument("--quick", action="store_true", help="10 steps, two seeds, one task")
    given = parser.parse_args()
    given.tasks = FIVE_TASKS
    if given.quick:
        given.seeds, given.steps, given.episodes, given.tasks = [0, 1], 10, 2, FIVE_TASKS[:1]
    if not (given.output / "tokenizer").exists():
        tokenizer(
            given.run / "dataset",
            robot="metaworld",
            output=given.output / "tokenizer",
            action_form="displacement",
            horizon=10,
            vocab_size=FAST_VOCABULARY,
            scale=30.0,
        )
    results: list[dict[str, Any]] = []
    for seed in given.seeds:
        for way in given.ways:
            row = measure(way, given, seed)
            results.append(row)
            print(f"{way}, seed {seed}: {row['successes']} of {row['episodes']}", flush=True)
            told = {"steps": given.steps, "runs": results, "compared": compare(results)}
            (given.output / "co_training.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    print(json.dumps(compare(results), indent=2))


if __name__ == "__main__":
    main()
