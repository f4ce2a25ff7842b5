"""Where episodes are imported: in this process, beside it, or (`ray_executor.py`) on many machines.

Every executor takes jobs one by one, keeps only a few under way, and gives results as they come.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from pizero.processes import start_worker

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_PER_WORKER = 2
"""So many jobs are under way or waiting for each worker."""

KILLED = (
    "a worker process was ended from outside, probably because memory ran out; what is finished is kept. Run "
    "the same command to go on, with fewer --workers if it happens again"
)


@runtime_checkable
class Executor(Protocol):
    """Does jobs, in any order."""

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results as they come.

        What `function` raises is raised here, and jobs that wait are dropped. RuntimeError if a worker was
        killed.
        """
        ...


@dataclass(frozen=True)
class SerialExecutor:
    """Does one job after another in this process."""

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results in the order of the jobs."""
        return map(function, jobs)


@dataclass(frozen=True)
class ProcessExecutor:
    """Does jobs in spawned processes on this machine."""

    num_workers: int

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"expected at least one worker, found {self.num_workers}")

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results as they come; RuntimeError if a worker was killed."""
        waiting = iter(jobs)
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.num_workers, mp_context=context, initializer=start_worker)
        try:
            pending: set[Future[Result]] = {
                pool.submit(function, job) for job in islice(waiting, self.num_workers * JOBS_PER_WORKER)
            }
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(function, job) for job in islice(waiting, len(done))}
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise RuntimeError(KILLED) from None
        finally:
            pool.shutdown(cancel_futures=True)
