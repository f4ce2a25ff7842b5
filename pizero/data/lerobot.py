"""LeRobot datasets of versions 2.0, 2.1 and 3.0, read natively: nothing of `lerobot` or `datasets` needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from pizero.data.faults import DatasetError
from pizero.data.lerobot_columns import column_blocks, read_columns
from pizero.data.lerobot_features import ACTION, STATE, camera_of
from pizero.data.lerobot_metadata import EpisodeInfo, Metadata, read_metadata
from pizero.data.lerobot_pictures import PictureReader


class LeRobotDataset:
    """A dataset: metadata at once, each column when it is first asked for, pictures on demand.

    Frames are numbered through all episodes. Wherever something does not fit, DatasetError (a ValueError)
    says which file, under a code that `pizero doctor` knows.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.folder, self.info, self.version = metadata.folder, metadata.info, metadata.version
        self.features, self.tasks, self.episodes = metadata.features, metadata.tasks, metadata.episodes
        self.fps = float(metadata.info["fps"])
        self.num_frames = int(metadata.info["total_frames"])
        self._pictures = PictureReader(metadata)
        lengths = [episode.length for episode in self.episodes]
        self.episode_index: Int64[np.ndarray, "frame"] = np.repeat(np.arange(len(lengths)), lengths)

    @classmethod
    def open(cls, folder: Path) -> LeRobotDataset:
        """Open a dataset by what stands in `meta/`; neither columns nor pictures are read."""
        return cls(read_metadata(folder))

    @cached_property
    def states(self) -> Float32[np.ndarray, "frame state_dim"]:
        """Return all states, in robot units."""
        return self._vectors(STATE)

    @cached_property
    def actions(self) -> Float32[np.ndarray, "frame action_dim"]:
        """Return all actions, in robot units."""
        return self._vectors(ACTION)

    @cached_property
    def task_index(self) -> Int64[np.ndarray, "frame"]:
        """Return the number of the task of each frame."""
        values = self.column("task_index").astype(np.int64)
        wrong = np.flatnonzero((values < 0) | (values >= len(self.tasks)))
        if len(wrong):
            raise DatasetError(
                "tasks-damaged",
                self.folder,
                f"{self.folder}: frame {wrong[0]} has task {values[wrong[0]]}, expected 0 to "
                f"{len(self.tasks) - 1}",
            )
        return values

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Return the cameras, in the order of the features."""
        return tuple(camera_of(key) for key, feature in self.features.items() if feature.is_picture)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of the state's dimensions."""
        return self._names(STATE)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the actions' dimensions."""
        return self._names(ACTION)

    def image_shape(self, camera: str) -> tuple[int, int]:
        """Return a camera's height and width."""
        height, width, _ = self._pictures.features[camera][1].shape
        return height, width

    def task_of_frame(self, frame: int) -> str:
        """Return what was asked at a frame."""
        return self.tasks[int(self.task_index[frame])]

    def episode_of_frame(self, frame: int) -> EpisodeInfo:
        """Return the episode that a frame is of."""
        return self.episodes[int(self.episode_index[frame])]

    def decode_all(
        self,
        camera: str,
        out: UInt8[np.ndarray, "frame height width 3"],
        visit: Callable[[int], None] | None = None,
    ) -> None:
        """Write every picture of a camera into `out`, each decoded once; `visit` is told how many are new."""
        for episode in self.episodes:
            out[episode.start : episode.end] = self.images(camera, range(episode.start, episode.end))
            if visit is not None:
                visit(episode.length)

    def images(self, camera: str, frames: range) -> UInt8[np.ndarray, "frame height width 3"]:
        """Return the pictures of some successive frames of one episode."""
        episode = self.episode_of_frame(frames.start)
        return self._pictures.read(
            camera, episode, range(frames.start - episode.start, frames.stop - episode.start)
        )

    def column(self, key: str) -> np.ndarray:
        """Return any column, `[frame, *shape]`; a feature of shape (1,) is `[frame]`, texts are objects."""
        return read_columns(self.metadata, [key])[key]

    def check_times(self) -> None:
        """Raise DatasetError unless each episode's times begin at 0 and go on by the period of the rate.

        A sample's pictures and actions are taken by counting frames, which other times would make wrong.
        """
        for episodes, columns in self.blocks(["timestamp"]):
            times, first = columns["timestamp"].astype(np.float64), episodes[0].start
            for episode in episodes:
                check_times(episode, times[episode.start - first : episode.end - first], self.fps)

    def blocks(self, keys: Sequence[str]) -> Iterator[tuple[Sequence[EpisodeInfo], dict[str, np.ndarray]]]:
        """Yield successive whole episodes and their rows of some columns, in bounded memory."""
        return column_blocks(self.metadata, keys)

    def _vectors(self, key: str) -> Float32[np.ndarray, "frame dimension"]:
        return as_vectors(self.column(key))

    def _names(self, key: str) -> tuple[str, ...]:
        if key not in self.features:
            raise DatasetError(
                "column-missing",
                self.folder,
                f"{self.folder} has no column {key!r}; it has {', '.join(self.features)}",
            )
        feature = self.features[key]
        return feature.names or tuple(f"dimension_{index}" for index in range(feature.shape[-1]))


def check_times(episode: EpisodeInfo, times: np.ndarray, fps: float) -> None:
    """Raise DatasetError unless an episode's times, in seconds, are those of its rate to a quarter period."""
    steps = np.diff(times)
    back = np.flatnonzero(~(steps > 0))
    if len(back):
        step = int(back[0])
        raise DatasetError(
            "timestamps-damaged",
            episode.data,
            f"{episode.data}: times of episode {episode.index} do not go forward: {times[step]:.4f} s is "
            f"followed by {times[step + 1]:.4f} s at step {step + 1}",
        )
    off = np.abs(times - np.arange(len(times)) / fps)
    if not (off < 0.25 / fps).all():
        median = float(np.median(steps)) if len(steps) else 0.0
        raise DatasetError(
            "rate-mismatch",
            episode.data,
            f"{episode.data}: times of episode {episode.index} are not those of {fps:g} Hz: the median step "
            f"is {median:.4f} s, and step {int(off.argmax())} is {off.max():.4f} s off",
        )


def as_vectors(values: np.ndarray) -> Float32[np.ndarray, "frame dimension"]:
    """Return a column of numbers as float32 vectors."""
    return values.reshape(len(values), -1).astype(np.float32)
