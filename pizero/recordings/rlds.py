"""RLDS datasets (Ramos et al. 2021) as TensorFlow Datasets writes them; needs no TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pizero.data.lerobot_features import Pictures
from pizero.data.lerobot_writer import Episode
from pizero.names import nearest
from pizero.recordings.fields import Wording, assemble
from pizero.recordings.layouts import BRIDGE_LAYOUT, DROID_LAYOUT, RecordingLayout
from pizero.recordings.pictures import EncodedPictures, as_pictures
from pizero.recordings.protobuf import FeatureValue, parse_example, read_feature
from pizero.recordings.source import RecordingError
from pizero.recordings.tfds import Leaf, find_dataset, find_shards, read_leaves
from pizero.recordings.tfrecord import read_record_at, record_identity


@dataclass(frozen=True, kw_only=True)
class RldsSource:
    """The episodes of one split; a key is `file name#number of the record`."""

    folder: Path
    split: str
    layout: RecordingLayout
    wording: Wording

    def episode_keys(self) -> list[str]:
        """Return the records in the order of the files."""
        return [
            f"{shard.path.name}#{number}"
            for shard in find_shards(self.folder, self.split)
            for number in range(shard.count)
        ]

    def field_names(self) -> dict[str, str]:
        """Return what features.json says."""
        return {path: leaf.words for path, leaf in read_leaves(self.folder).items()}

    def content_hash(self, key: str) -> str:
        """Return a hash of the record's length and stored checksum."""
        length, checksum = record_identity(*self._place(key))
        return hashlib.sha256(f"tfrecord {length} {checksum:08x}".encode()).hexdigest()

    def read(self, key: str) -> Episode:
        """Return the episode of one record."""
        path, number = self._place(key)
        where = f"{path}, record {number}"
        try:
            messages = parse_example(read_record_at(path, number))
        except RecordingError:
            raise
        except ValueError as error:
            raise RecordingError(f"{where}: not a tf.train.Example ({error})") from None
        fields = RecordFields(messages, read_leaves(self.folder), where)
        return assemble(self.layout, fields, self.wording, where)

    def _place(self, key: str) -> tuple[Path, int]:
        name, _, number = key.rpartition("#")
        return self.folder / name, int(number)


class RecordFields:
    """The fields of one record, unpacked when they are asked for."""

    def __init__(
        self, messages: Mapping[str, tuple[memoryview, ...]], leaves: Mapping[str, Leaf], where: str
    ) -> None:
        self.messages, self.leaves, self.where = messages, leaves, where

    def values(self, path: str) -> np.ndarray:
        """Return a tensor or texts."""
        leaf, value = self._feature(path)
        try:
            return leaf.decode(value)
        except ValueError as error:
            raise RecordingError(f"{self.where}: {path}: {error}") from None

    def pictures(self, path: str) -> Pictures:
        """Return a camera's pictures, still as files if the record has files."""
        leaf, value = self._feature(path)
        if leaf.kind == "tensor":
            return as_pictures(self.values(path), f"{self.where}: {path}")
        if leaf.kind != "image" or leaf.shape[-1:] != (3,) or leaf.dtype != "uint8":
            raise RecordingError(f"{self.where}: expected pictures in colour in {path}, found {leaf.words}")
        return EncodedPictures(value.blobs, f"{self.where}: {path}")

    def texts(self, path: str) -> list[str]:
        """Return a text for each step, or one for the episode."""
        if path not in self.leaves:
            return []
        values = self.values(path)
        if values.dtype.kind != "U":
            raise RecordingError(f"{self.where}: expected texts in {path}, found {self.leaves[path].words}")
        return values.tolist()

    def _feature(self, path: str) -> tuple[Leaf, FeatureValue]:
        if path not in self.leaves:
            raise RecordingError(f"{self.where}: no field {path!r}: {nearest(path, self.leaves)}")
        leaf = self.leaves[path]
        if leaf.kind == "tensor" and min(leaf.shape, default=0) < 0:
            raise RecordingError(f"{self.where}: {path}: expected a fixed shape, found {leaf.words}")
        name = path if path in self.messages else path.removeprefix("steps/")
        if name not in self.messages:
            raise RecordingError(
                f"{self.where}: features.json promises {path!r}, which the record does not have"
            )
        try:
            return leaf, read_feature(self.messages[name])
        except ValueError as error:
            raise RecordingError(f"{self.where}: {path}: {error}") from None


def open_rlds(
    source: Path,
    *,
    split: str = "train",
    layout: RecordingLayout | None = None,
    wording: Wording | None = None,
) -> RldsSource:
    """Open an RLDS dataset; without a layout, DROID, Bridge or the generic Open X-Embodiment one is found.

    ValueError if files or fields are missing.
    """
    folder = find_dataset(source)
    leaves = read_leaves(folder)
    chosen = guess_layout(leaves, folder) if layout is None else layout
    opened = RldsSource(folder=folder, split=split, layout=chosen, wording=wording or Wording())
    find_shards(folder, split)
    return opened


ACTIONS = (
    ("steps/action",),
    *(
        tuple(f"steps/action/{part}" for part in ("world_vector", "rotation_delta", gripper))
        for gripper in ("gripper_closedness_action", "open_gripper")
    ),
)
INSTRUCTIONS = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/observation/language_instruction",
    "episode_metadata/language_instruction",
)
STATES = (
    ("steps/observation/state",),
    ("steps/observation/proprio",),
    ("steps/observation/robot_state",),
    ("steps/observation/joint_position", "steps/observation/gripper_position"),
    ("steps/observation/base_pose_tool_reached", "steps/observation/gripper_closed"),
)


def guess_layout(leaves: Mapping[str, Leaf], folder: Path) -> RecordingLayout:
    """Return the layout that features suggest; ValueError lists them if they suggest none."""
    if DROID_LAYOUT.cameras["exterior_image_1_left"] in leaves and set(DROID_LAYOUT.action) <= set(leaves):
        return DROID_LAYOUT
    if "bridge" in folder.as_posix() and {"steps/observation/image_0", "steps/observation/state"} <= set(
        leaves
    ):
        return BRIDGE_LAYOUT
    numbers = {path for path, leaf in leaves.items() if leaf.kind == "tensor"}
    state = next((paths for paths in STATES if numbers.issuperset(paths)), None)
    action = next((paths for paths in ACTIONS if numbers.issuperset(paths)), None)
    if state is None or action is None:
        what = "state" if state is None else "action"
        listing = "\n".join(f"  {path}: {leaf.words}" for path, leaf in sorted(leaves.items()))
        raise ValueError(
            f"cannot tell which fields of {folder} make the {what}; write a layout file and name it with "
            f"--layout. The fields are\n{listing}"
        )
    cameras = {
        path.removeprefix("steps/observation/").replace("/", "_"): path
        for path, leaf in leaves.items()
        if path.startswith("steps/observation/")
        and leaf.kind == "image"
        and leaf.shape[-1:] == (3,)
        and leaf.dtype == "uint8"
    }
    return RecordingLayout(
        name="open-x",
        state=state,
        action=action,
        cameras=cameras,
        instructions=tuple(path for path in INSTRUCTIONS if path in leaves and leaves[path].kind == "text"),
    )
