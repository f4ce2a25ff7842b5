"""A sixth task from few demonstrations: fine-tuning a policy that knows five, against training from scratch.

    python -m studies.fine_tuning RUN OUTPUT [--task window-close] [--demonstrations 3 10 30] [--quick]

RUN is the folder of a finished `pizero demo`; none of its demonstrations shows the task. Every run sees the
same demonstrations in as many updates of the same size, and is judged in closed loop on the same scenes,
which no demonstration shows. OUTPUT gets `fine_tuning.json` and `fine_tuning.svg` of all runs that it holds;
a run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pizero.cli.collect import collect
from pizero.data.lerobot import LeRobotDataset
from pizero.diagnose.figures import BLUE, GRAY, GREEN, ORANGE, new_figure, svg_of
from pizero.envs.evaluate import EvaluateConfig, evaluate
from pizero.envs.workers import default_workers
from pizero.recipes import find_recipe, metaworld
from pizero.results import summarize, wilson_interval
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import train
from pizero.training.optimizer import OptimizerConfig
from pizero.training.sources import open_sources
from pizero.training.starting import StartingPoint, inherit, read_start

WAYS = {"scratch": 1e-3, "fine_tune": 3e-4, "fine_tune_lora": 1e-3, "fine_tune_expert": 3e-4}
"""Peak rates: the demo's own from scratch and for adapters, a third of it for weights that are trained."""

COLORS = {"scratch": GRAY, "fine_tune": BLUE, "fine_tune_lora": ORANGE, "fine_tune_expert": GREEN}


def config_of(way: str, start: StartingPoint, steps: int, seed: int) -> TrainConfig:
    """Return the config of one way to learn; they differ in where weights come from and which move."""
    optimizer = OptimizerConfig(
        peak_rate=WAYS[way],
        final_rate=WAYS[way] / 100,
        warmup_steps=steps // 12,
        decay_steps=steps,
        weight_decay=1e-4,
    )
    base = replace(metaworld(num_steps=steps, seed=seed), optimizer=optimizer, held_out=0.0)
    if way == "scratch":
        return base
    tuned = find_recipe(way, start.model)(num_steps=steps, seed=seed)
    model = replace(tuned.model, compute_dtype=base.model.compute_dtype)
    return inherit(
        replace(
            base,
            model=model,
            frozen=tuned.frozen,
            frozen_dtype=tuned.frozen_dtype,
            ema_decay=tuned.ema_decay,
        ),
        start,
    )


def learn(way: str, dataset: Path, start: StartingPoint, folder: Path, steps: int, seed: int) -> Path:
    """Train one policy and return its folder."""
    config = config_of(way, start, steps, seed)
    sources = open_sources(
        config,
        [LeRobotDataset.open(dataset)],
        tokenizers=folder / "tokenizers",
        start=None if way == "scratch" else start,
        keep_statistics=way != "scratch",
    )
    given = None if way == "scratch" else start.folder
    (policy,) = train(config, sources, folder, execution=Execution(save_every=10_000), start=given)
    return policy


def closed_loop(policy: Path, folder: Path, task: str, episodes: int) -> dict[str, Any]:
    """Run a policy on its task and return how often it succeeds."""
    config = EvaluateConfig(
        tasks=(task,), episodes_per_task=episodes, num_executed=5, max_steps=125, num_videos=1
    )
    found = summarize(evaluate(config, policy, folder, num_workers=default_workers()))
    return {"episodes": found["episodes"], "successes": round(found["success_rate"] * found["episodes"])}


def table(results: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return, for each way and number of demonstrations, the success rate over all seeds and its interval."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for way in WAYS:
        for number in sorted({row["demonstrations"] for row in results}):
            rows = [row for row in results if (row["way"], row["demonstrations"]) == (way, number)]
            if rows:
                successes, episodes = (sum(row[key] for row in rows) for key in ("successes", "episodes"))
                found.setdefault(way, {})[number] = {
                    "success_rate": successes / episodes,
                    "interval": wilson_interval(successes, episodes),
                    "of_each_seed": [row["successes"] / row["episodes"] for row in rows],
                }
    return found


def draw(found: dict[str, dict[int, dict[str, Any]]], task: str) -> str:
    """Draw success over the number of demonstrations, with Wilson intervals over all episodes."""
    figure, axes = new_figure(size=(6.5, 3.6))
    ax = axes[0, 0]
    for place, (way, rows) in enumerate(found.items()):
        numbers = [number * 1.04 ** (place - 1.5) for number in rows]
        rates = [row["success_rate"] for row in rows.values()]
        ax.plot(numbers, rates, "o-", color=COLORS[way], label=way.replace("_", " "))
        for number, row in zip(numbers, rows.values(), strict=True):
            ax.plot([number, number], row["interval"], color=COLORS[way], alpha=0.4, linewidth=2.5)
    ax.set(xscale="log", xlabel="demonstrations", ylabel="success rate", ylim=(-0.02, 1.02), title=task)
    numbers = sorted({number for rows in found.values() for number in rows})
    ax.set_xticks(numbers, [str(number) for number in numbers], minor=False)
    ax.minorticks_off()
    ax.legend(frameon=False)
    return svg_of(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", default="window-close")
    parser.add_argument("--demonstrations", type=int, nargs="+", default=[3, 10, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="10 steps, one seed, two scenes")
    given = parser.parse_args()
    if given.quick:
        given.demonstrations, given.seeds, given.steps, given.episodes = [2], [0], 10, 2
    start = read_start(given.run / "training" / "policy")
    for seed in given.seeds:
        for number in given.demonstrations:
            dataset = given.output / f"{given.task}-{number}-seed{seed}"
            if not dataset.exists():
                collect(
                    dataset,
                    tasks=(given.task,),
                    episodes_per_task=number,
                    seed=1_000 + seed,
                    workers=default_workers(),
                )
            for way in given.ways:
                folder = given.output / f"{way}-{number}-seed{seed}"
                policy = learn(way, dataset, start, folder, given.steps, seed)
                row = closed_loop(policy, folder / "evaluation", given.task, given.episodes)
                row = {"way": way, "demonstrations": number, "seed": seed, **row}
                (folder / "result.json").write_text(json.dumps(row), encoding="utf-8")
                print(f"{way}, {number} demonstrations, seed {seed}: {row['successes']} of {row['episodes']}")
    kept = sorted(given.output.glob("*/result.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
    found = table(results)
    told = {"task": given.task, "steps": given.steps, "runs": results, "table": found}
    (given.output / "fine_tuning.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    (given.output / "fine_tuning.svg").write_text(draw(found, given.task), encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
