"""`pizero import`: recordings of other formats as a LeRobot dataset."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.data.lerobot_features import ACTION, STATE, Codec, DatasetLayout, WrittenVersion, image_key
from pizero.recordings.aloha import Channels, open_aloha
from pizero.recordings.executor import Executor, ProcessExecutor
from pizero.recordings.fields import Wording, Writing, dataset_layout
from pizero.recordings.importing import first_readable
from pizero.recordings.importing import import_recordings as import_dataset
from pizero.recordings.layouts import find_layout
from pizero.recordings.ray_executor import RayExecutor
from pizero.recordings.rlds import open_rlds
from pizero.recordings.source import RecordingSource
from pizero.recordings.zarr_source import open_zarr
from pizero.records import to_data

Format = Literal["aloha", "rlds", "zarr"]


def default_workers() -> int:
    """Return one process for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def import_recordings(
    source: Path,
    dataset: Path,
    /,
    *,
    format: Format,
    layout: str | None = None,
    task: str | None = None,
    skip_unlabelled: bool = False,
    fps: float | None = None,
    robot: str | None = None,
    version: WrittenVersion = "v3.0",
    pictures: Literal["video", "image"] = "video",
    codec: Codec = "h264",
    quality: int = 18,
    split: str = "train",
    channels: Channels = "rgb",
    limit: int | None = None,
    skip_damaged: int = 0,
    refresh: bool = False,
    workers: int = default_workers(),
    executor: Literal["processes", "ray"] = "processes",
    dry_run: bool = False,
    as_json: Json = False,
) -> None:
    """Import recordings of another format as a LeRobot dataset: ALOHA's HDF5 files, RLDS (Open X-Embodiment,
    Bridge, DROID) or replay buffers in Zarr (Diffusion Policy, UMI).

    An interrupted import goes on where it was; a finished one is compared with its source and left alone.
    `--dry-run` shows what would be written.

    Args:
        source: Folder of HDF5 files, folder of a TensorFlow dataset, or Zarr folder or zip archive.
        dataset: Folder to write the dataset to.
        format: What the source is.
        layout: Which fields make state, action, pictures and instruction: droid, droid_joint_position,
            bridge, pusht, or a JSON file; by default found from the recording.
        task: Instruction of episodes that have none.
        skip_unlabelled: Leave out episodes without instruction.
        fps: Rate in Hz, where the layout does not know it or is wrong.
        robot: Name of the robot to write into the dataset.
        version: Version of LeRobot's format.
        pictures: Cameras as video files, or as PNG files inside the columns, which lose nothing.
        codec: Codec of the video files.
        quality: Constant rate factor of the codec: 18 is near to lossless, higher is smaller.
        split: Split of an RLDS dataset.
        channels: Order of the stored colours of ALOHA's pictures; bgr swaps red and blue.
        limit: Import only so many episodes, the first ones.
        skip_damaged: So many damaged episodes may be left out; they are listed.
        refresh: Import changed episodes again, or start anew with other options.
        workers: Processes that import side by side, or tasks at a time with Ray.
        executor: Processes on this machine, or a Ray cluster (RAY_ADDRESS; without it, one of this machine).
        dry_run: Show episodes, fields and what would be made of them, and write nothing.
        as_json: Print the summary as JSON.
    """
    opened = _open(
        source, format, layout, split, channels, Wording(task=task, skip_unlabelled=skip_unlabelled)
    )
    writing = Writing(fps=fps, robot=robot, version=version, pictures=pictures, codec=codec, quality=quality)
    if dry_run:
        _show(opened, writing, limit, as_json=as_json)
        return
    summary = import_dataset(
        opened,
        dataset,
        _executor(executor, workers),
        format_name=format,
        writing=writing,
        options={"task": task, "skip_unlabelled": skip_unlabelled, "split": split, "channels": channels},
        limit=limit,
        allowed_damaged=skip_damaged,
        refresh=refresh,
        say=(lambda _: None) if as_json else print,
    )
    record = summary.record
    if as_json:
        counts = {"episodes": len(record.episodes), "imported_now": summary.imported, "kept": summary.kept}
        not_there = {
            name: [asdict(entry) for entry in entries]
            for name, entries in (("damaged", record.damaged), ("left_out", record.left_out))
        }
        print(json.dumps({"dataset": str(dataset), **counts, **not_there}))
        return
    for entry in record.damaged:
        print(f"left out, damaged: {entry.fault}")
    if record.left_out:
        print(f"left out by rule: {len(record.left_out)} episodes, the first: {record.left_out[0].fault}")
    now = f"{summary.imported} imported now" if summary.written else "nothing to do, the source is unchanged"
    say(f"{dataset}: {len(record.episodes)} episodes ({now})", next_command=f"pizero stats {dataset}")


def _open(
    source: Path, format_name: Format, layout: str | None, split: str, channels: Channels, wording: Wording
) -> RecordingSource:
    if not source.exists():
        raise ValueError(f"expected recordings at {source}, found nothing")
    chosen = find_layout(layout) if layout is not None else None
    if format_name == "aloha":
        return open_aloha(source, layout=chosen, wording=wording, channels=channels)
    if format_name == "rlds":
        return open_rlds(source, split=split, layout=chosen, wording=wording)
    return open_zarr(source, layout=chosen, wording=wording)


def _executor(name: Literal["processes", "ray"], workers: int) -> Executor:
    if name == "ray":
        return RayExecutor(workers, os.environ.get("RAY_ADDRESS"))
    return ProcessExecutor(workers)


def _show(source: RecordingSource, writing: Writing, limit: int | None, *, as_json: bool) -> None:
    keys = source.episode_keys()[:limit]
    sample = first_readable(source, keys)
    made = dataset_layout(source.layout, sample, writing)
    task = sample.tasks if isinstance(sample.tasks, str) else sample.tasks[0]
    if as_json:
        data: dict[str, Any] = {
            "episodes": keys,
            "fields": source.field_names(),
            "layout": to_data(source.layout),
            "dataset": to_data(made),
            "task": task,
        }
        print(json.dumps(data))
        return
    console = Console()
    fields = Table("field", "type and shape", title=f"the recording: {len(keys)} episodes")
    for name, words in source.field_names().items():
        fields.add_row(name, words)
    console.print(fields)
    console.print(_made(source, made))
    print(f"episodes: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}")
    print(f"first instruction: {task!r}")
    say("nothing was written")


def _made(source: RecordingSource, made: DatasetLayout) -> Table:
    layout = source.layout
    origins = {image_key(camera): path for camera, path in layout.cameras.items()} | layout.columns
    origins[STATE] = " + ".join(layout.state)
    origins[ACTION] = " + ".join(layout.action) or "the state one step later"
    table = Table(
        "feature",
        "type and shape",
        "from",
        title=f"the dataset: {made.version}, {made.fps:g} Hz, layout {layout.name}",
    )
    for key, feature in made.features.items():
        names = f" {', '.join(feature.names)}" if feature.names else ""
        table.add_row(key, f"{feature.dtype} {list(feature.shape)}{names}", origins[key])
    return table
