"""Processes that simulate side by side."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from pizero.processes import start_worker


def default_workers() -> int:
    """Return one process for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Run jobs in spawned processes of one compute thread each; on an error or Ctrl-C, jobs that wait are
    dropped.
    """
    if num_workers < 1:
        raise ValueError(f"expected at least one worker, found {num_workers}")
    pool = ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    start_worker()
