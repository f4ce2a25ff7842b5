"""Training batches, prepared ahead of the step that reads them, by a thread or by worker processes."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing  # so that tensors reach other processes through shared memory
from jaxtyping import Int64

from pizero.contract import Contract
from pizero.data.collate import collate, to_device
from pizero.data.dataset import action_windows, frames_of, split_episodes
from pizero.data.faults import DatasetError
from pizero.data.frames import FrameStore, Instant
from pizero.data.lerobot import LeRobotDataset
from pizero.data.processor import Processor
from pizero.data.questions import QuestionSet
from pizero.data.sampler import Frames, Sampler
from pizero.processes import start_worker
from pizero.types import Batch, Example, Observation

AHEAD = 2
"""So many batches are prepared ahead, by each worker."""

SUBSTITUTES = 100
"""So many frames after a damaged one are tried."""

HOST = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset of a training run: its contract, its pictures, the folder of the contract's tokenizers."""

    dataset: LeRobotDataset
    contract: Contract
    frames: FrameStore
    files: Path | None = None

    @property
    def folder(self) -> Path:
        """Return where the data lies."""
        return self.dataset.folder

    @property
    def num_frames(self) -> int:
        """Return how many samples there are."""
        return self.dataset.num_frames

    def split(self, held_out: float, seed: int) -> tuple[Frames, Frames]:
        """Return the frames to train on and those to hold out: that share of each task's episodes."""
        train, unseen = split_episodes(self.dataset, held_out, seed)
        return frames_of(train), frames_of(unseen)

    def example(self, frame: int, pictures: Instant) -> Example:
        """Return what the robot showed at a frame and what it did from there on, in robot units."""
        actions, valid = action_windows(self.dataset, np.array([frame]), self.contract.horizon)
        observation = Observation(
            images=pictures, state=self.dataset.states[frame], instruction=self.dataset.task_of_frame(frame)
        )
        return Example(observation=observation, actions=actions[0], valid=valid[0])

    def encode(self, frame: int, pictures: Instant, processor: Processor) -> Batch:
        """Return a frame as a training sample, unbatched."""
        return processor.encode_example(self.example(frame, pictures))


@dataclass(frozen=True, kw_only=True)
class QuestionSource:
    """Questions about pictures in a training run: "frame" i is question i, of a robot's contract."""

    frames: QuestionSet
    contract: Contract
    files: Path | None = None

    @property
    def folder(self) -> Path:
        """Return where the data lies."""
        return self.frames.folder

    @property
    def num_frames(self) -> int:
        """Return how many samples there are."""
        return len(self.frames)

    def split(self, held_out: float, seed: int) -> tuple[Frames, Frames]:
        """Return every question to train on and none to hold out: a policy in training is tried by acting."""
        return np.arange(len(self.frames)), np.arange(0)

    def encode(self, frame: int, pictures: Instant, processor: Processor) -> Batch:
        """Return a question as a training sample, unbatched."""
        return self.frames.encode(frame, processor, pictures)


AnySource = Source | QuestionSource


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A batch, and what could not be read for it."""

    batch: Batch
    damaged: tuple[DatasetError, ...] = ()


class Samples:
    """Datasets as samples: one for each frame of each, or for each of some `frames`, in ascending order."""

    def __init__(
        self, sources: Sequence[AnySource], frames: Sequence[Int64[np.ndarray, "_"]] | None = None
    ) -> None:
        self.sources = tuple(sources)
        self.frames = frames or [np.arange(source.num_frames) for source in sources]
        self.processors = tuple(Processor(source.contract, source.files) for source in sources)

    def example(self, source: int, frame: int) -> Example:
        """Return what the robot showed at a frame and what it did from there on, in robot units.

        DatasetError if a picture cannot be had.
        """
        chosen = self.sources[source]
        assert isinstance(chosen, Source), "a question is no example of a robot"
        (pictures,) = chosen.frames.read([frame])
        if isinstance(pictures, DatasetError):
            raise pictures
        return chosen.example(frame, pictures)

    def prepare(self, sources: Int64[np.ndarray, "batch"], frames: Int64[np.ndarray, "batch"]) -> Prepared:
        """Return some samples in model units; instead of a damaged one, the next whole one of its dataset."""
        pictures: dict[int, Instant | DatasetError] = {}
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            pictures |= zip(
                rows.tolist(), self.sources[source].frames.read(frames[rows].tolist()), strict=True
            )
        encoded, damaged = [], []
        for row, (source, frame) in enumerate(zip(sources.tolist(), frames.tolist(), strict=True)):
            whole, found, faults = self._next_whole(source, frame, pictures[row])
            damaged += faults
            encoded.append(self.sources[source].encode(whole, found, self.processors[source]))
        return Prepared(batch=collate(encoded, HOST), damaged=tuple(damaged))

    def _next_whole(
        self, source: int, frame: int, pictures: Instant | DatasetError
    ) -> tuple[int, Instant, list[DatasetError]]:
        faults: list[DatasetError] = []
        known = self.frames[source]
        place = int(np.searchsorted(known, frame))
        while isinstance(pictures, DatasetError):
            faults.append(pictures)
            if len(faults) == SUBSTITUTES:
                raise faults[0]
            frame = int(known[(place + len(faults)) % len(known)])
            (pictures,) = self.sources[source].frames.read([frame])
        return frame, pictures, faults


def batches(
    samples: Samples,
    sampler: Sampler,
    *,
    steps: range,
    device: torch.device,
    num_workers: int = 0,
    max_damaged: int = 0,
) -> Iterator[Batch]:
    """Yield one batch a step, prepared ahead by a thread, or by worker processes.

    DatasetError at the first sample that cannot be read after `max_damaged` others; RuntimeError if a worker
    dies. The batches do not depend on the number of workers.
    """
    damaged = 0
    stream = (
        _from_workers(samples, sampler, steps, num_workers)
        if num_workers
        else _from_thread(samples, sampler, steps)
    )
    try:
        for prepared in stream:
            damaged += len(prepared.damaged)
            if damaged > max_damaged:
                raise _over_budget(prepared.damaged[-1], damaged, max_damaged)
            yield to_device(prepared.batch, device)
    finally:
        stream.close()


def _over_budget(error: DatasetError, damaged: int, allowed: int) -> DatasetError:
    if not allowed:
        return error
    return DatasetError(
        error.code,
        error.place,
        f"{damaged} samples could not be read, {allowed} are allowed; the last: {error.message}",
    )


def _from_thread(samples: Samples, sampler: Sampler, steps: range) -> Generator[Prepared, None, None]:
    ready: queue.Queue[Prepared | BaseException] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: Prepared | BaseException) -> bool:
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
                if not put(samples.prepare(*sampler.step(step))):
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


def _from_workers(
    samples: Samples, sampler: Sampler, steps: range, num_workers: int
) -> Generator[Prepared, None, None]:
    waiting: deque[Future[Prepared | Exception]] = deque()
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(samples, sampler),
    )
    try:
        for step in steps:
            waiting.append(pool.submit(_prepare_step, step))
            if len(waiting) > AHEAD * num_workers:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that prepares batches died; often the memory was not enough: use fewer --workers, or "
            "--frames video. The last checkpoint is whole: the same command goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Prepared | Exception]) -> Prepared:
    item = future.result()
    if isinstance(item, Exception):
        raise item
    return item


_worker: list[tuple[Samples, Sampler]] = []
"""What this process prepares, if it is a worker."""


def _start_worker(samples: Samples, sampler: Sampler) -> None:
    torch.set_num_threads(1)
    start_worker()
    _worker.append((samples, sampler))


def _prepare_step(step: int) -> Prepared | Exception:
    """Prepare a step's batch; errors travel as values, so that they arrive whole."""
    samples, sampler = _worker[0]
    try:
        return samples.prepare(*sampler.step(step))
    except (ValueError, OSError) as error:
        return error
