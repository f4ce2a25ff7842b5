"""Jobs on the machines of a Ray cluster; the only file that knows Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import ModuleType

from pizero.recordings.executor import JOBS_PER_WORKER, KILLED, Job, Result

RETRIES = 2
"""A job whose machine went away is done again so many times: an episode is written whole or not at all."""


@dataclass(frozen=True)
class RayExecutor:
    """Does jobs on the cluster at `address`, or on a new one of this machine's cores if that is None.

    Every machine must have pizero installed, and see the recordings and the dataset under the same paths.
    """

    num_workers: int
    address: str | None = None

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results as they come; RuntimeError if a worker was killed again and again."""
        ray = _ray()
        started = not ray.is_initialized()
        if started and self.address is None:
            ray.init(address="local", num_cpus=self.num_workers, include_dashboard=False, log_to_driver=False)
        elif started:
            ray.init(address=self.address, log_to_driver=False)
        remote = ray.remote(max_retries=RETRIES, num_cpus=1)(function)
        waiting = iter(jobs)
        pending: list[object] = []
        try:
            pending = [remote.remote(job) for job in islice(waiting, self.num_workers * JOBS_PER_WORKER)]
            while pending:
                done, pending = ray.wait(pending)
                pending += [remote.remote(job) for job in islice(waiting, len(done))]
                for reference in done:
                    yield ray.get(reference)
        except (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError,
        ):
            raise RuntimeError(KILLED) from None
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        finally:
            for reference in pending:
                ray.cancel(reference, force=False)
            if started:
                ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError("--executor ray needs Ray: pip install 'pizero[ray]'") from None
    return ray
