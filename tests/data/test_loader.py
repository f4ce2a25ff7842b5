"""Every frame once an epoch, shares kept, the same on every run; threads and processes that end openly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.faults import DatasetError
from pizero.data.frames import DecodedFrames, Instant, VideoFrames, open_frames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Prepared, Samples, Source, batches
from pizero.data.sampler import LEAST_CYCLE, Sampler, mixture_shares
from pizero.types import Batch
from tests.examples import tiny_inputs
from tests.small import demonstrate, small_config, small_contract

CPU = torch.device("cpu")


def sampler_of(sizes: list[int], shares: list[float], *, batch_size: int = 2, seed: int = 0) -> Sampler:
    frames = [1000 * index + np.arange(size) for index, size in enumerate(sizes)]
    return Sampler(frames, np.array(shares), batch_size=batch_size, seed=seed)


@given(size=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_each_epoch_reads_every_frame_once_in_an_order_of_its_own(
    size: int, batch_size: int, seed: int
) -> None:
    sampler = sampler_of([size], [1.0], batch_size=batch_size, seed=seed)
    steps = -(-3 * size // batch_size)
    read = np.concatenate([sampler.step(step)[1] for step in range(steps)])
    epochs = [read[start : start + size] for start in range(0, 3 * size, size)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(size))
    if size > 8:
        assert epochs[0].tolist() != epochs[1].tolist()


def test_another_seed_is_another_order_and_the_same_seed_the_same() -> None:
    first, again, other = (sampler_of([50], [1.0], batch_size=20, seed=s).step(3)[1] for s in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


@given(
    shares=st.lists(st.floats(0.02, 1.0), min_size=2, max_size=4),
    start=st.integers(0, 3000),
    seed=st.integers(0, 9),
)
def test_a_mixture_keeps_its_shares_and_every_source_its_epochs(
    shares: list[float], start: int, seed: int
) -> None:
    total = np.array(shares) / sum(shares)
    sizes = [17 * (index + 1) for index in range(len(shares))]
    sampler = sampler_of(sizes, total.tolist(), batch_size=16, seed=seed)
    steps = sampler.cycle // 16
    read = [sampler.step(step) for step in range(steps)]
    sources, frames = (np.concatenate(parts) for parts in zip(*read, strict=True))
    counts = np.bincount(sources, minlength=len(sizes))
    assert np.abs(counts / len(sources) - total).max() <= 2 / LEAST_CYCLE
    assert counts.tolist() == sampler.num_drawn(steps)
    for source, size in enumerate(sizes):
        mine = frames[sources == source] - 1000 * source
        first = mine[:size].tolist()
        assert len(set(first)) == len(first)
        assert set(first) <= set(range(size))
    fresh = sampler_of(sizes, total.tolist(), batch_size=16, seed=seed)
    for found, expected in zip(fresh.step(start), sampler.step(start), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_ranks_share_a_step_between_them() -> None:
    sampler = sampler_of([40, 30], [0.5, 0.5], batch_size=12)
    whole = list(zip(*(part.tolist() for part in sampler.step(7)), strict=True))
    parts = [sampler.share_of(rank, 3).step(7) for rank in range(3)]
    found = [pair for part in parts for pair in zip(*(each.tolist() for each in part), strict=True)]
    assert sorted(found) == sorted(whole)


def test_shares_are_given_or_of_the_sizes() -> None:
    np.testing.assert_allclose(mixture_shares([10, 10], (3.0, 1.0)), [0.75, 0.25])
    np.testing.assert_allclose(mixture_shares([1, 32]), [1 / (1 + 32**0.43), 32**0.43 / (1 + 32**0.43)])
    with pytest.raises(ValueError, match=r"a weight above 0 for each of 2 datasets, found \[1.0\]"):
        mixture_shares([1, 1], (1.0,))
    with pytest.raises(ValueError, match=r"training frames in every dataset, found \[3, 0\]"):
        mixture_shares([3, 0])


class Recorded(Samples):
    """Samples that hold nothing but which frames were asked for, and fail at one of them."""

    def __init__(self, bad_frame: int = -1, death: int = -1) -> None:
        self.asked: list[list[int]] = []
        self.bad_frame, self.death = bad_frame, death

    def prepare(self, sources: np.ndarray, frames: np.ndarray) -> Prepared:
        if self.death in frames:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.bad_frame in frames:
            raise DatasetError("video-damaged", Path("a.mp4"), f"frame {self.bad_frame} is damaged")
        self.asked.append(frames.tolist())
        actions = torch.from_numpy(frames).float()[:, None, None]
        real = torch.ones(len(frames), 1, dtype=torch.bool)
        batch = Batch(inputs=tiny_inputs(len(frames)), actions=actions, valid=actions[..., 0] >= 0, real=real)
        return Prepared(batch=batch)


def run(samples: Samples, steps: range, num_workers: int = 0) -> Iterator[Batch]:
    sampler = sampler_of([20], [1.0])
    return batches(samples, sampler, steps=steps, device=CPU, num_workers=num_workers)


def loader_threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


def numbers(stream: Iterator[Batch]) -> list[list[float]]:
    return [batch.actions.flatten().tolist() for batch in stream]


def test_batches_come_in_order_and_resume_where_they_stopped() -> None:
    whole = numbers(run(Recorded(), range(25)))
    assert whole == [sampler_of([20], [1.0]).step(step)[1].tolist() for step in range(25)]
    assert numbers(run(Recorded(), range(13, 25))) == whole[13:]
    assert loader_threads() == 0


def test_worker_processes_change_nothing() -> None:
    assert numbers(run(Recorded(), range(7), num_workers=2)) == numbers(run(Recorded(), range(7)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_while_preparing_reaches_the_reader_whole(num_workers: int) -> None:
    with pytest.raises(DatasetError, match=r"frame 7 is damaged \[video-damaged\]") as caught:
        numbers(run(Recorded(bad_frame=7), range(10), num_workers))
    assert (caught.value.code, caught.value.place) == ("video-damaged", Path("a.mp4"))
    assert loader_threads() == 0


def test_a_worker_that_is_killed_is_told_and_nothing_hangs() -> None:
    with pytest.raises(
        RuntimeError, match="a process that prepares batches died; often the memory was not enough"
    ):
        numbers(run(Recorded(death=7), range(10), num_workers=2))


def test_a_reader_that_stops_early_leaves_no_thread_and_little_read_ahead() -> None:
    samples = Recorded()
    stream = run(samples, range(1000))
    next(stream)
    assert loader_threads() == 1
    stream.close()  # type: ignore[attr-defined]
    assert loader_threads() == 0
    assert 1 <= len(samples.asked) <= 4  # the one that was read, two that wait, one in hand


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("loader") / "dataset", num_episodes=6)


def test_pictures_are_the_same_wherever_they_come_from(dataset: LeRobotDataset, tmp_path: Path) -> None:
    stores = [
        open_frames(dataset, ("top",), "memory"),
        open_frames(dataset, ("top",), "video"),
        open_frames(dataset, ("top",), "cache", tmp_path / "cache"),
        open_frames(dataset, ("top",), "cache", tmp_path / "cache"),
    ]
    assert isinstance(open_frames(dataset, ("top",)), DecodedFrames)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for frame in (dataset.num_frames - 1, 0, 7, 3):
        pictures = [store.read([1, frame])[1]["top"] for store in stores]  # type: ignore[index]
        for picture in pictures[1:]:
            np.testing.assert_array_equal(picture, pictures[0])
    with pytest.raises(ValueError, match="give --frame-cache FOLDER"):
        open_frames(dataset, ("top",), "cache")


class Damaged(VideoFrames):
    """Pictures of which some frames cannot be read."""

    bad: tuple[int, ...] = (3, 4, 9)

    def read(self, frames: Sequence[int]) -> list[Instant | DatasetError]:
        whole = super().read(frames)
        for row, frame in enumerate(frames):
            if frame in self.bad:
                message = f"frame {frame} cannot be decoded"
                whole[row] = DatasetError("video-damaged", Path("a.mp4"), message)
        return whole


def test_damaged_samples_are_replaced_within_their_budget(dataset: LeRobotDataset) -> None:
    contract = small_contract(small_config(num_steps=1), dataset)
    samples = Samples([Source(dataset=dataset, contract=contract, frames=Damaged(dataset, ("top",)))])
    prepared = samples.prepare(np.zeros(3, np.int64), np.array([3, 9, 11]))
    expected = samples.prepare(np.zeros(3, np.int64), np.array([5, 10, 11]))
    assert [str(error) for error in prepared.damaged] == [
        f"frame {frame} cannot be decoded [video-damaged]" for frame in (3, 4, 9)
    ]
    assert torch.equal(prepared.batch.inputs.images, expected.batch.inputs.images)
    assert torch.equal(prepared.batch.actions, expected.batch.actions)
    known = np.array([3, 4, 11, 17])
    chosen = Samples(samples.sources, [known]).prepare(np.zeros(2, np.int64), np.array([3, 17]))
    expected = samples.prepare(np.zeros(2, np.int64), np.array([11, 17]))
    assert torch.equal(chosen.batch.actions, expected.batch.actions)
    sampler = Sampler([np.arange(12)], np.ones(1), batch_size=12, seed=0)
    assert len(list(batches(samples, sampler, steps=range(1), device=CPU, max_damaged=4))) == 1
    with pytest.raises(DatasetError, match="samples could not be read, 2 are allowed; the last: frame"):
        list(batches(samples, sampler, steps=range(1), device=CPU, max_damaged=2))
