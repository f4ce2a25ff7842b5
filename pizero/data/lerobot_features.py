"""The names and feature entries of LeRobot's format, for a robot of ours."""

from __future__ import annotations

from typing import Any

from pizero.robots import Embodiment

STATE, ACTION = "observation.state", "action"
IMAGE_PREFIX = "observation.images."
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def image_key(camera: str) -> str:
    """Return the feature of a camera."""
    return IMAGE_PREFIX + camera


def features_of(embodiment: Embodiment) -> dict[str, Any]:
    """Return the `features` entry of info.json."""
    features: dict[str, Any] = {}
    for key, dimensions in ((STATE, embodiment.state), (ACTION, embodiment.actions)):
        names = [dimension.name for dimension in dimensions]
        features[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
    for camera in embodiment.cameras:
        features[image_key(camera.name)] = {
            "dtype": "video",
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": round(embodiment.rate),
                "video.channels": 3,
                "has_audio": False,
            },
        }
    for name, dtype in COUNTERS.items():
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    return features


def huggingface_schema(features: dict[str, Any]) -> dict[str, Any]:
    """Return the schema entry that Hugging Face's viewer reads from a parquet file."""
    entries: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "video":
            continue
        length = feature["shape"][0]
        entries[key] = value if length == 1 else {"feature": value, "length": length, "_type": "List"}
    return {"info": {"features": entries}}
