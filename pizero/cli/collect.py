"""`pizero collect`: demonstrations by scripted experts."""

from __future__ import annotations

import json
from pathlib import Path

from pizero.cli.options import Json, say
from pizero.data.lerobot import LeRobotDataset
from pizero.envs.collect import CollectConfig
from pizero.envs.collect import collect as collect_dataset
from pizero.envs.simulators import FIVE_TASKS
from pizero.envs.workers import default_workers


def collect(
    output: Path,
    /,
    *,
    tasks: tuple[str, ...] = FIVE_TASKS,
    episodes_per_task: int = CollectConfig.episodes_per_task,
    seed: int = 0,
    workers: int = default_workers(),
    as_json: Json = False,
) -> None:
    """Record demonstrations of Meta-World tasks by scripted experts, as a LeRobot v3.0 dataset with h264
    video.

    An interrupted collection goes on where it was; the same seed gives the same bytes with any number of
    workers.

    Args:
        output: Folder to write the dataset to.
        tasks: Names of Meta-World tasks.
        episodes_per_task: Successful demonstrations of each task.
        seed: Decides every scene and every push.
        workers: Processes that simulate side by side.
        as_json: Print the summary as JSON.
    """
    config = CollectConfig(tasks=tasks, episodes_per_task=episodes_per_task, seed=seed)
    recorded = collect_dataset(config, output, num_workers=workers)
    dataset = LeRobotDataset.open(output)
    summary = {
        "dataset": str(output),
        "episodes": len(dataset.episodes),
        "recorded_now": recorded,
        "frames": dataset.num_frames,
        "fps": dataset.fps,
        "cameras": list(dataset.camera_names),
    }
    if as_json:
        print(json.dumps(summary))
        return
    say(
        f"{output}: {len(dataset.episodes)} episodes ({recorded} recorded now), {dataset.num_frames} frames "
        f"at {dataset.fps:g} Hz, cameras {', '.join(dataset.camera_names)}",
        next_command=f"pizero stats {output}",
    )
