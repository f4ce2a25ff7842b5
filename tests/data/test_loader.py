"""Every frame once an epoch, the same on every run; and a thread that prepares, fails and ends openly."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.loader import Samples, batches, frames_of_step
from pizero.types import Batch
from tests.examples import tiny_inputs


class Recorded(Samples):
    """Samples that hold nothing but which frames were asked for, and fail at one of them."""

    def __init__(self, bad_frame: int = -1) -> None:
        self.asked: list[list[int]] = []
        self.bad_frame = bad_frame

    def batch(self, frames: np.ndarray, device: torch.device) -> Batch:
        if self.bad_frame in frames:
            raise ValueError(f"frame {self.bad_frame} is damaged")
        self.asked.append(frames.tolist())
        actions = torch.from_numpy(frames).float()[:, None, None]
        return Batch(inputs=tiny_inputs(len(frames)), actions=actions, valid=actions[..., 0] >= 0)


def run(samples: Recorded, steps: range, num_frames: int = 20) -> Iterator[Batch]:
    frames = np.arange(num_frames)
    return batches(samples, frames, batch_size=2, seed=0, steps=steps, device=torch.device("cpu"))


def loader_threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


@given(st.integers(1, 40), st.data())
def test_each_epoch_reads_every_frame_once_in_an_order_of_its_own(
    num_frames: int, data: st.DataObject
) -> None:
    batch_size = data.draw(st.integers(1, num_frames))
    seed = data.draw(st.integers(0, 2**32))
    frames = np.arange(100, 100 + num_frames)
    steps_per_epoch = num_frames // batch_size
    epochs = []
    for epoch in range(2):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        read = [frames_of_step(frames, batch_size, seed, step) for step in steps]
        assert all(len(chunk) == batch_size for chunk in read)
        epochs.append(np.concatenate(read).tolist())
        assert len(set(epochs[-1])) == steps_per_epoch * batch_size
        assert set(epochs[-1]) <= set(frames.tolist())
    if steps_per_epoch * batch_size > 8:
        assert epochs[0] != epochs[1]


def test_another_seed_is_another_order_and_the_same_seed_the_same() -> None:
    frames = np.arange(50)
    first, again, other = (frames_of_step(frames, 20, seed, 3).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_frames_that_do_not_fill_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 training frames for one batch, found 7"):
        frames_of_step(np.arange(7), 8, 0, 0)


def test_batches_come_in_order_and_resume_where_they_stopped() -> None:
    whole = [batch.actions.flatten().tolist() for batch in run(Recorded(), range(25))]
    expected = [frames_of_step(np.arange(20), 2, 0, step).tolist() for step in range(25)]
    assert whole == expected
    resumed = [batch.actions.flatten().tolist() for batch in run(Recorded(), range(13, 25))]
    assert resumed == whole[13:]
    assert loader_threads() == 0


def test_an_error_while_preparing_reaches_the_reader() -> None:
    stream = run(Recorded(bad_frame=7), range(10))
    with pytest.raises(ValueError, match="frame 7 is damaged"):
        list(stream)
    assert loader_threads() == 0


def test_a_reader_that_stops_early_leaves_no_thread_and_little_read_ahead() -> None:
    samples = Recorded()
    stream = run(samples, range(1000))
    next(stream)
    assert loader_threads() == 1
    stream.close()  # type: ignore[attr-defined]
    assert loader_threads() == 0
    assert 1 <= len(samples.asked) <= 4  # the one that was read, two that wait, one in hand
