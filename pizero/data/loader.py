"""Which samples a training step reads, and reading them a step ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8

from pizero.data.collate import collate
from pizero.data.dataset import action_windows
from pizero.data.lerobot import LeRobotDataset
from pizero.data.processor import Processor
from pizero.progress import counting
from pizero.types import Batch, Example, Observation


class Frames:
    """Every picture of a dataset, decoded once, in memory: `uint8 [frame, height, width, 3]` per camera."""

    def __init__(self, dataset: LeRobotDataset) -> None:
        self.images: dict[str, UInt8[np.ndarray, "frame height width 3"]] = {}
        total = dataset.num_frames * len(dataset.camera_names)
        with counting("decoding videos", total, "frames") as progress:
            for camera in dataset.camera_names:
                height, width = dataset.image_shape(camera)
                self.images[camera] = np.empty((dataset.num_frames, height, width, 3), dtype=np.uint8)
                dataset.decode_all(camera, self.images[camera], progress.advance)

    def at(self, frame: int) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
        """Return the pictures of one instant."""
        return {camera: images[frame] for camera, images in self.images.items()}


class Samples:
    """A dataset as training samples: one for each frame."""

    def __init__(self, dataset: LeRobotDataset, frames: Frames, processor: Processor) -> None:
        self.dataset, self.frames, self.processor = dataset, frames, processor

    def example(self, frame: int) -> Example:
        """Return what the robot showed at a frame and what it did from there on."""
        actions, valid = action_windows(self.dataset, np.array([frame]), self.processor.contract.horizon)
        observation = Observation(
            images=self.frames.at(frame),
            state=self.dataset.states[frame],
            instruction=self.dataset.task_of_frame(frame),
        )
        return Example(observation=observation, actions=actions[0], valid=valid[0])

    def batch(self, frames: Int[np.ndarray, "batch"], device: torch.device) -> Batch:
        """Return the samples of some frames, in model units."""
        encoded = [self.processor.encode_example(self.example(int(frame))) for frame in frames]
        return collate(encoded, device)


def frames_of_step(
    frames: Int[np.ndarray, "frame"], batch_size: int, seed: int, step: int
) -> Int[np.ndarray, "batch"]:
    """Return the frames of one training step: epoch after epoch, each in an order of its own.

    A pure function of seed and step, so a run that resumes goes on with the very same samples.
    """
    if batch_size > len(frames):
        raise ValueError(f"expected at least {batch_size} training frames for one batch, found {len(frames)}")
    steps_per_epoch = len(frames) // batch_size
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(frames)
    return order[place * batch_size : (place + 1) * batch_size]


def batches(
    samples: Samples,
    frames: Int[np.ndarray, "frame"],
    *,
    batch_size: int,
    seed: int,
    steps: range,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield one batch per step, prepared by a thread that runs two steps ahead."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def prepare() -> None:
        try:
            for step in steps:
                if not put(samples.batch(frames_of_step(frames, batch_size, seed, step), device)):
                    return
        except BaseException as error:
            put(error)  # the training thread raises it

    thread = threading.Thread(target=prepare, name="batches", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
