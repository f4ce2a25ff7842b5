"""A LeRobot dataset without faults, written with pyarrow and PyAV alone: a small arm moves things about.

Nothing of pizero's own writer is used, so that its mistakes could not hide. Poses, objects, light, delays and
noise of sensors and cameras are drawn anew for each seed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

FPS = 20
HEIGHT, WIDTH = 72, 96
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
NAMES = (*JOINTS, "gripper")
CAMERAS = ("base_rgb", "wrist_rgb")
TASKS = ("put the cup on the plate", "open the drawer", "wipe the table with the cloth")
HOME = np.array([0.0, -1.6, 1.5, -1.5, -1.57, 0.0])
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One episode as a recorder holds it; pictures are RGB."""

    states: np.ndarray
    actions: np.ndarray
    pictures: dict[str, list[np.ndarray]]
    task: int


def record(seed: int, num_episodes: int = 12, length: int = 60) -> list[Recorded]:
    """Simulate the episodes of a seed."""
    rng = np.random.default_rng(seed)
    wall = _texture(rng, 9, 12, HEIGHT, WIDTH, low=60, high=200)
    table = _texture(rng, 40, 40, 4 * HEIGHT, 4 * WIDTH, low=10, high=240)
    return [
        _episode(rng, index, length + int(rng.integers(-8, 9)), wall, table) for index in range(num_episodes)
    ]


def _texture(
    rng: np.random.Generator, rows: int, columns: int, height: int, width: int, *, low: int, high: int
) -> np.ndarray:
    small = rng.integers(low, high, (rows, columns, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _episode(
    rng: np.random.Generator, index: int, length: int, wall: np.ndarray, table: np.ndarray
) -> Recorded:
    poses = HOME + np.concatenate(
        [rng.normal(0, 0.05, (1, 6)), rng.normal(0, 0.5, (2, 6)), rng.normal(0, 0.2, (1, 6))]
    )
    knots = np.array([0, 0.4, 0.8, 1.0]) * (length - 1)
    leader = np.empty((length, 6))
    for frame in range(length):
        part = min(int(np.searchsorted(knots, frame, side="right")) - 1, 2)
        s = np.clip((frame - knots[part]) / (knots[part + 1] - knots[part]) * 1.15, 0, 1)
        leader[frame] = poses[part] + (poses[part + 1] - poses[part]) * (10 * s**3 - 15 * s**4 + 6 * s**5)
    closed = ((np.arange(length) > knots[1]) & (np.arange(length) < knots[2] + 3)).astype(float)
    actions = np.column_stack([leader + rng.normal(0, 0.001, leader.shape), closed])
    states = np.empty_like(actions)
    pose = actions[0].copy()
    for frame in range(length):
        pose = pose + np.array([0.4] * 6 + [0.3]) * (actions[frame] - pose)
        pose[6] = min(pose[6], 0.7)
        states[frame] = pose + rng.normal(0, 0.002, 7)
    states[:, 6] = np.clip(states[:, 6], 0, 1)
    light = rng.uniform(0.93, 1.07)
    thing = (rng.uniform(0.3, 0.8) * WIDTH, rng.uniform(0.6, 0.85) * HEIGHT)
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    pictures: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    for state in states:
        for camera, draw in (("base_rgb", _from_base), ("wrist_rgb", _from_wrist)):
            clean = draw(state, wall if camera == "base_rgb" else table, thing, colour)
            noisy = clean * light + rng.normal(0, 2, clean.shape)
            pictures[camera].append(np.clip(noisy, 0, 255).astype(np.uint8))
    return Recorded(states=states, actions=actions, pictures=pictures, task=index % len(TASKS))


def _from_base(state: np.ndarray, wall: np.ndarray, thing: Any, colour: Any) -> np.ndarray:
    picture = Image.fromarray(wall.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    foot = np.array([WIDTH * 0.5 + 12 * np.sin(state[0]), HEIGHT * 0.95])
    elbow = foot + 30 * np.array([np.cos(state[1]), np.sin(state[1])])
    hand = elbow + 26 * np.array([np.cos(state[1] + state[2]), np.sin(state[1] + state[2])])
    draw.ellipse([thing[0] - 5, thing[1] - 5, thing[0] + 5, thing[1] + 5], fill=colour)
    draw.line([tuple(foot), tuple(elbow), tuple(hand)], fill=(30, 30, 35), width=6)
    tip = hand + 9 * np.array([np.cos(state[3]), np.sin(state[3])])
    draw.line([tuple(hand), tuple(tip)], fill=(220, 220, 60), width=2 + int(4 * (1 - state[6])))
    return np.asarray(picture, np.float32)


def _from_wrist(state: np.ndarray, table: np.ndarray, thing: Any, colour: Any) -> np.ndarray:
    top = int(1.5 * HEIGHT + 0.4 * HEIGHT * np.tanh(state[1] + 1.6))
    left = int(1.5 * WIDTH + 0.4 * WIDTH * np.tanh(state[0] + state[4] + 1.57))
    picture = Image.fromarray(table[top : top + HEIGHT, left : left + WIDTH].astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    gap = 6 + 18 * (1 - state[6])
    for side in (-1, 1):
        x = WIDTH / 2 + side * gap
        draw.rectangle([x - 4, HEIGHT * 0.7, x + 4, HEIGHT], fill=(40, 40, 40))
    return np.asarray(picture, np.float32)


def write_clean(folder: Path, version: str, episodes: list[Recorded]) -> Path:
    """Write episodes as a dataset of that version; v3.0 has two files of columns and two videos a camera."""
    lengths = [len(one.states) for one in episodes]
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    (folder / "meta").mkdir(parents=True)
    half = len(episodes) // 2
    groups = [[i] for i in range(len(episodes))]
    if version == "v3.0":
        groups = [list(range(half)), list(range(half, len(episodes)))]
    for number, group in enumerate(groups):
        data, videos = _paths(folder, version, number)
        data.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(data, _table(episodes[0], 0, 0).schema) as writer:
            for index in group:
                writer.write_table(_table(episodes[index], index, starts[index]))
        for camera, path in videos.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [frame for index in group for frame in episodes[index].pictures[camera]])
    (folder / "meta" / "info.json").write_text(json.dumps(_info(version, episodes, lengths), indent=4))
    rows = [
        {"episode_index": index, "tasks": [TASKS[one.task]], "length": lengths[index]}
        for index, one in enumerate(episodes)
    ]
    stats = [_statistics(one) for one in episodes]
    if version == "v3.0":
        pq.write_table(
            pa.table({"task_index": list(range(len(TASKS))), "task": list(TASKS)}),
            folder / "meta/tasks.parquet",
        )
        for index, row in enumerate(rows):
            number = int(index >= half)
            row |= {"data/chunk_index": 0, "data/file_index": number}
            row |= {"dataset_from_index": starts[index], "dataset_to_index": starts[index + 1]}
            begins = (starts[index] - starts[number * half]) / FPS
            for camera in CAMERAS:
                key = f"videos/observation.images.{camera}"
                row |= {f"{key}/chunk_index": 0, f"{key}/file_index": number}
                row |= {f"{key}/from_timestamp": begins, f"{key}/to_timestamp": begins + lengths[index] / FPS}
        path = folder / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        _write_lines(folder / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(TASKS)])
        _write_lines(folder / "meta/episodes.jsonl", rows)
    if version == "v2.1":
        lines = [{"episode_index": index, "stats": one} for index, one in enumerate(stats)]
        _write_lines(folder / "meta/episodes_stats.jsonl", lines)
    else:
        merged = {
            key: {
                "min": np.min([one[key]["min"] for one in stats], axis=0).tolist(),
                "max": np.max([one[key]["max"] for one in stats], axis=0).tolist(),
            }
            for key in stats[0]
        }
        (folder / "meta/stats.json").write_text(json.dumps(merged, indent=4))
    return folder


def _paths(folder: Path, version: str, number: int) -> tuple[Path, dict[str, Path]]:
    keys = {camera: f"observation.images.{camera}" for camera in CAMERAS}
    if version == "v3.0":
        data = folder / f"data/chunk-000/file-{number:03d}.parquet"
        return data, {c: folder / f"videos/{key}/chunk-000/file-{number:03d}.mp4" for c, key in keys.items()}
    data = folder / f"data/chunk-000/episode_{number:06d}.parquet"
    return data, {c: folder / f"videos/chunk-000/{key}/episode_{number:06d}.mp4" for c, key in keys.items()}


def _table(episode: Recorded, index: int, start: int) -> pa.Table:
    length = len(episode.states)
    vector = pa.list_(pa.float32(), len(NAMES))

    def vectors(values: np.ndarray) -> pa.Array:
        return pa.array(list(values.astype(np.float32)), vector)

    return pa.table(
        {
            "observation.state": vectors(episode.states),
            "action": vectors(episode.actions),
            "timestamp": (np.arange(length) / FPS).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(start, start + length),
            "task_index": np.full(length, episode.task),
        }
    )


def _info(version: str, episodes: list[Recorded], lengths: list[int]) -> dict[str, Any]:
    is_new = version == "v3.0"
    chunk = "chunk-{chunk_index:03d}/file-{file_index:03d}" if is_new else "chunk-{episode_chunk:03d}/"
    video = (
        "videos/{video_key}/" + chunk
        if is_new
        else "videos/" + chunk + "{video_key}/episode_{episode_index:06d}"
    )
    features: dict[str, Any] = {
        key: {"dtype": "float32", "shape": [len(NAMES)], "names": list(NAMES)}
        for key in ("observation.state", "action")
    }
    for camera in CAMERAS:
        features[f"observation.images.{camera}"] = {
            "dtype": "video",
            "shape": [HEIGHT, WIDTH, 3],
            "names": ["height", "width", "channels"],
            "info": {"video.fps": FPS, "video.codec": "h264", "video.pix_fmt": "yuv420p"},
        }
    for key in COUNTERS:
        dtype = "float32" if key == "timestamp" else "int64"
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    return {
        "codebase_version": version,
        "robot_type": "ur5e",
        "total_episodes": len(episodes),
        "total_frames": sum(lengths),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": f"data/{chunk}{'' if is_new else 'episode_{episode_index:06d}'}.parquet",
        "video_path": f"{video}.mp4",
        "features": features,
    }


def _statistics(episode: Recorded) -> dict[str, dict[str, Any]]:
    return {
        key: {
            "min": values.min(axis=0).tolist(),
            "max": values.max(axis=0).tolist(),
            "mean": values.mean(axis=0).tolist(),
            "std": values.std(axis=0).tolist(),
            "count": [len(values)],
        }
        for key, values in (("observation.state", episode.states), ("action", episode.actions))
    }


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_video(path: Path, frames: list[np.ndarray], fps: int = FPS) -> None:
    """Encode frames with a key frame every second frame, as LeRobot does."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.gop_size = 2
        stream.options = {"crf": "23", "preset": "ultrafast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
