"""`pizero evaluate`: a policy in closed loop."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.envs.evaluate import EvaluateConfig
from pizero.envs.evaluate import evaluate as evaluate_policy
from pizero.envs.workers import default_workers
from pizero.policy.controllers.controller import Kind
from pizero.results import summarize


def evaluate(
    policy: Path,
    /,
    *,
    output: Path | None = None,
    tasks: tuple[str, ...] = (),
    episodes_per_task: int = EvaluateConfig.episodes_per_task,
    num_executed: int = EvaluateConfig.num_executed,
    controller: Kind = EvaluateConfig.controller,
    latency: int = EvaluateConfig.latency,
    max_steps: int = EvaluateConfig.max_steps,
    videos: int = EvaluateConfig.num_videos,
    seed: int = 0,
    workers: int = default_workers(),
    as_json: Json = False,
) -> None:
    """Run a policy in closed loop on scenes that no demonstration shows, and count successes.

    Finished episodes are kept, so an interrupted evaluation goes on where it was; the result does not depend
    on the number of workers.

    Args:
        policy: Policy folder.
        output: Folder for results and videos; by default `evaluation` beside the training folder, or
            `evaluation-ROBOT` in the folder of a run that made policies for several robots.
        tasks: Names of tasks of the policy's robot; by default the five of the demo, or all that it has.
        episodes_per_task: Scenes of each task.
        num_executed: Actions of each chunk that are executed before the policy looks again.
        controller: How chunks become actions: one after another (`receding`, `synchronous`), as means over
            chunks (`ensemble`), or spliced while the robot moves (`naive`, `guided`, `guided_identity`,
            `trained`).
        latency: Control steps from an observation to the chunk that was made from it.
        max_steps: Control steps after which an episode counts as failed.
        videos: Episodes of each task that are filmed.
        seed: Decides the scenes.
        workers: Processes that simulate side by side.
        as_json: Print the summary as JSON.
    """
    config = EvaluateConfig(
        tasks=tasks,
        episodes_per_task=episodes_per_task,
        num_executed=num_executed,
        controller=controller,
        latency=latency,
        max_steps=max_steps,
        num_videos=videos,
        seed=seed,
    )
    several = policy.parent.name == "policies"
    folder = output or policy.parent.parent / (f"evaluation-{policy.name}" if several else "evaluation")
    results = evaluate_policy(config, policy, folder, num_workers=workers)
    summary = summarize(results)
    if as_json:
        print(json.dumps(summary))
        return
    table = Table(title=f"success of {policy}")
    for column in ("task", "solved", "rate", "95 % interval", "median steps"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, row in [*summary["tasks"].items(), ("all", summary)]:
        low, high = row["interval"]
        counts = f"{row['successes']}/{row['episodes']}"
        table.add_row(
            task, counts, f"{row['success_rate']:.2f}", f"{low:.2f}–{high:.2f}", str(row["median_steps"])
        )
    Console().print(table)
    say(f"{folder}: {summary['episodes']} episodes", next_command=f"pizero report {folder.parent}")
