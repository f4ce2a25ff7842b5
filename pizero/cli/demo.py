"""`pizero demo`: the public verbs in a row, from nothing to a policy that drives a simulated arm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from pizero.cli.collect import collect
from pizero.cli.evaluate import evaluate
from pizero.cli.report import report
from pizero.cli.stats import stats
from pizero.cli.train import train
from pizero.diagnose.stages import add_stage, read_stages
from pizero.envs.collect import CollectConfig
from pizero.envs.evaluate import EvaluateConfig
from pizero.envs.simulators import FIVE_TASKS
from pizero.envs.workers import default_workers


def demo(
    *,
    output: Path = Path("runs/demo"),
    tasks: tuple[str, ...] = FIVE_TASKS,
    demonstrations_per_task: int = CollectConfig.episodes_per_task,
    steps: int | None = None,
    episodes_per_task: int = EvaluateConfig.episodes_per_task,
    seed: int = 0,
    workers: int = default_workers(),
    dry_run: bool = False,
) -> None:
    """Teach one π0 policy five tasks from pixels and run it in closed loop: collect, stats, train, evaluate,
    report.

    Stages that finished are not done again, and the one that was interrupted goes on: Ctrl-C and the same
    command at any time. Every stage is a public verb; this prints each with its arguments before running it.

    Args:
        output: Folder of the run.
        tasks: Names of Meta-World tasks; the policy is told which one by nothing but the instruction.
        demonstrations_per_task: Demonstrations of each task to learn from.
        steps: Training steps, instead of the recipe's.
        episodes_per_task: Scenes of each task to be judged on; no demonstration shows them.
        seed: Decides the demonstrations, the initial weights, the order of samples and the scenes.
        workers: Processes that simulate side by side.
        dry_run: Print the verbs and run none.
    """
    dataset, statistics, training = output / "dataset", output / "statistics.json", output / "training"
    named = f" --tasks {' '.join(tasks)}"
    stages: list[tuple[str, str, Callable[[], None]]] = [
        (
            "collect",
            f"{dataset}{named} --episodes-per-task {demonstrations_per_task} --seed {seed}",
            lambda: collect(
                dataset, tasks=tasks, episodes_per_task=demonstrations_per_task, seed=seed, workers=workers
            ),
        ),
        ("stats", f"{dataset} --output {statistics}", lambda: stats((dataset,), output=statistics)),
        (
            "train",
            f"--dataset {dataset} --statistics {statistics} --output {training} --seed {seed}"
            + ("" if steps is None else f" --steps {steps}"),
            lambda: train(dataset=(dataset,), statistics=statistics, output=training, steps=steps, seed=seed),
        ),
        (
            "evaluate",
            f"{training / 'policy'} --output {output / 'evaluation'}{named} "
            f"--episodes-per-task {episodes_per_task} --seed {seed}",
            lambda: evaluate(
                training / "policy",
                output=output / "evaluation",
                tasks=tasks,
                episodes_per_task=episodes_per_task,
                seed=seed,
                workers=workers,
            ),
        ),
        ("report", f"{output}", lambda: report(output)),
    ]
    for verb, arguments, run in stages:
        print(f"\n$ pizero {verb} {arguments}", flush=True)
        if dry_run:
            continue
        began = time.monotonic()
        try:
            run()
        finally:
            output.mkdir(parents=True, exist_ok=True)
            add_stage(output / "stages.json", verb, time.monotonic() - began)
    if not dry_run:
        total = sum(read_stages(output / "stages.json").seconds.values())
        result = json.loads((output / "report.json").read_text(encoding="utf-8"))
        rate, episodes = result["success_rate"], result["episodes"]
        print(f"\nsolved {rate:.0%} of {episodes} episodes after {total / 60:.1f} minutes")
        print(f"open {output / 'report.html'} in a browser")
