"""What a LeRobot dataset holds: its features, as info.json lists them, and how its files are laid out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from pizero.robots import Embodiment

STATE, ACTION = "observation.state", "action"
IMAGE_PREFIX = "observation.images."
Version = Literal["v2.0", "v2.1", "v3.0"]
WrittenVersion = Literal["v2.1", "v3.0"]
Codec = Literal["h264", "av1"]


@runtime_checkable
class Pictures(Protocol):
    """One camera's pictures over an episode: an array, or anything that fetches one at a time."""

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "height width 3"]:
        """Return one frame, RGB."""
        ...


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature: a numpy dtype, `string`, `image` (embedded in the columns) or `video`.

    `shape` is that of one frame's value, without the frame; pictures have [height, width, 3].
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    @property
    def is_picture(self) -> bool:
        """Return whether this is a camera."""
        return self.dtype in ("image", "video")

    @property
    def is_numeric(self) -> bool:
        """Return whether its values are numbers or booleans."""
        return not self.is_picture and self.dtype not in ("string", "language")


COUNTERS: dict[str, Feature] = {
    "timestamp": Feature(dtype="float32", shape=(1,)),
    "frame_index": Feature(dtype="int64", shape=(1,)),
    "episode_index": Feature(dtype="int64", shape=(1,)),
    "index": Feature(dtype="int64", shape=(1,)),
    "task_index": Feature(dtype="int64", shape=(1,)),
}
"""The columns that every dataset has, after its own."""


@dataclass(frozen=True, kw_only=True)
class DatasetLayout:
    """How a dataset is written: its own features (the counters are added), rate in Hz, version and files.

    A file of columns or video ends before it grows beyond `data_megabytes` or `video_megabytes` (MiB, v3.0),
    and a folder holds `chunk_size` files (v3.0) or episodes (v2.1). `quality` is the constant rate factor of
    the codec: 18 is near to lossless for h264, 30 is what LeRobot takes for AV1.
    """

    features: Mapping[str, Feature] = field(default_factory=dict)
    fps: float
    robot_type: str | None = None
    version: WrittenVersion = "v3.0"
    codec: Codec = "h264"
    quality: int = 18
    chunk_size: int = 1000
    data_megabytes: float = 100.0
    video_megabytes: float = 200.0

    def __post_init__(self) -> None:
        wrong = [f"{key!r} (a counter, which the writer adds)" for key in self.features if key in COUNTERS]
        wrong += [f"{key!r} (a key has no '/')" for key in self.features if "/" in key]
        wrong += [f"{key!r} ({entry.shape})" for key, entry in self.features.items() if not _is_shape(entry)]
        if wrong or not self.features:
            raise ValueError(f"expected features with keys and shapes, found {', '.join(wrong) or 'none'}")
        if self.fps <= 0 or self.chunk_size < 1 or min(self.data_megabytes, self.video_megabytes) <= 0:
            raise ValueError(
                f"expected fps, chunk_size and sizes of files above 0, found {self.fps}, {self.chunk_size}, "
                f"{self.data_megabytes} and {self.video_megabytes}"
            )

    @property
    def videos(self) -> tuple[str, ...]:
        """Return the features that are video files."""
        return tuple(key for key, entry in self.features.items() if entry.dtype == "video")

    @property
    def columns(self) -> dict[str, Feature]:
        """Return the features that stand in the columns, embedded pictures among them."""
        return {key: entry for key, entry in self.features.items() if entry.dtype != "video"}


def _is_shape(entry: Feature) -> bool:
    if entry.is_picture:
        return len(entry.shape) == 3 and entry.shape[2] == 3 and min(entry.shape) > 0
    if entry.dtype == "string":
        return entry.shape == (1,)
    np.dtype(entry.dtype)
    return 1 <= len(entry.shape) <= 5 and min(entry.shape) > 0


def image_key(camera: str) -> str:
    """Return the feature of a camera."""
    return IMAGE_PREFIX + camera


def camera_of(key: str) -> str:
    """Return the camera of a picture's feature: its name behind `observation.images.` or `observation.`."""
    return key.removeprefix(IMAGE_PREFIX).removeprefix("observation.")


def robot_layout(embodiment: Embodiment) -> DatasetLayout:
    """Return the layout of a robot's demonstrations: state, action, and a video for each camera."""
    features: dict[str, Feature] = {}
    for key, dimensions in ((STATE, embodiment.state), (ACTION, embodiment.actions)):
        names = tuple(dimension.name for dimension in dimensions)
        features[key] = Feature(dtype="float32", shape=(len(names),), names=names)
    for camera in embodiment.cameras:
        shape = (camera.height, camera.width, 3)
        features[image_key(camera.name)] = Feature(dtype="video", shape=shape)
    return DatasetLayout(features=features, fps=embodiment.rate, robot_type=embodiment.name)


def features_json(layout: DatasetLayout) -> dict[str, Any]:
    """Return the `features` entry of info.json."""
    entries: dict[str, Any] = {}
    for key, feature in (dict(layout.features) | COUNTERS).items():
        names: list[str] | None = list(feature.names) if feature.names else None
        entry: dict[str, Any] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
        if feature.is_picture:
            entry["names"] = ["height", "width", "channels"]
        if feature.dtype == "video":
            entry["info"] = {
                "video.height": feature.shape[0],
                "video.width": feature.shape[1],
                "video.codec": layout.codec,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": plain_number(layout.fps),
                "video.channels": 3,
                "has_audio": False,
            }
        entries[key] = entry
    return entries


def plain_number(value: float) -> int | float:
    """Return a whole number as an int, which is how LeRobot writes rates."""
    return int(value) if float(value).is_integer() else value


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the type of a feature's column."""
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if feature.dtype == "string":
        return pa.string()
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.shape == (1,):
        return kind
    if len(feature.shape) == 1:
        return pa.list_(kind, feature.shape[0])
    for _ in feature.shape:
        kind = pa.list_(kind)
    return kind


def arrow_schema(columns: Mapping[str, Feature], version: WrittenVersion) -> pa.Schema:
    """Return the schema of the data files, with the entry that Hugging Face's libraries and viewer read.

    LeRobot 0.3, which reads v2.1, needs `datasets` 3, which knows vectors as `Sequence` alone.
    """
    fields, entries = [], {}
    vector = "Sequence" if version == "v2.1" else "List"
    for key, feature in columns.items():
        value = {"dtype": feature.dtype, "_type": "Value"}
        metadata = None
        if feature.dtype == "image":
            entries[key] = {"_type": "Image"}
        elif feature.dtype == "string" or feature.shape == (1,):
            entries[key] = value
        elif len(feature.shape) == 1:
            entries[key] = {"feature": value, "length": feature.shape[0], "_type": vector}
        else:
            name = f"Array{len(feature.shape)}D"
            entries[key] = {"shape": list(feature.shape), "dtype": feature.dtype, "_type": name}
            metadata = {
                "ARROW:extension:name": f"datasets.features.features.{name}ExtensionType",
                "ARROW:extension:metadata": compact([list(feature.shape), feature.dtype]),
            }
        fields.append(pa.field(key, arrow_type(feature), metadata=metadata))
    return pa.schema(fields, metadata={"huggingface": compact({"info": {"features": entries}})})


def compact(value: Any) -> str:
    """Return JSON as LeRobot writes it into a file's metadata."""
    return json.dumps(value, ensure_ascii=False)
