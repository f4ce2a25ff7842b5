"""The processes of one run: one by itself, or several that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from pizero.progress import be_silent

HOST = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of a run's `world_size` processes this is, and the device that it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = HOST

    @property
    def is_first(self) -> bool:
        """Return whether this process is the one that writes what there is one of."""
        return self.rank == 0

    @property
    def own_rows(self) -> slice:
        """Return which rows of a whole batch are this process's."""
        return slice(self.rank, None, self.world_size)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes; each has to call it with numbers of the same shape."""
        if self.world_size > 1:
            dist.all_reduce(numbers)
        return numbers

    def wait(self) -> None:
        """Return when every process has come here."""
        self.sum(torch.zeros(1, device=self.device))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process do something, then the others, who find it done; errors are everybody's."""
        if not self.is_first:
            self.wait()
        try:
            yield
        finally:
            if self.is_first:
                self.wait()


@contextmanager
def join_ranks(*, timeout: float = 600.0) -> Iterator[Ranks]:
    """Give this process its place among those that torchrun started, or let it be the only one.

    RuntimeError if another process ends, or is waited for longer than `timeout` seconds. ValueError if there
    are more processes on this machine than GPUs.
    """
    on_gpu = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device=torch.device("cuda") if on_gpu else HOST)
        return
    local = int(os.environ["LOCAL_RANK"])
    if on_gpu and local >= torch.cuda.device_count():
        raise ValueError(
            f"expected at most one process for each of the {torch.cuda.device_count()} GPUs of this machine, "
            f"found process {local + 1}; start torchrun with a smaller --nproc-per-node"
        )
    device = torch.device("cuda", local) if on_gpu else HOST
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=timeout),
        device_id=device if on_gpu else None,
    )
    rank = dist.get_rank()
    if rank > 0:
        be_silent()
    world_size, lost = dist.get_world_size(), None
    try:
        yield Ranks(rank=rank, world_size=world_size, device=device)
    except (RuntimeError, KeyboardInterrupt) as error:
        lost = _loss_in(error)
        if lost is None:
            raise
    finally:
        try:
            dist.destroy_process_group()
        except KeyboardInterrupt:
            if lost is None:
                raise
    if lost is not None:
        raise RuntimeError(
            f"process {rank + 1} of {world_size} lost another one, which died, failed (then it says of "
            f"what), or did not answer for {timeout:g} s ({str(lost).splitlines()[0]}). The last "
            f"checkpoint is whole: the same command goes on"
        )


def _loss_in(error: BaseException) -> RuntimeError | None:
    """Return the error by which a process learns that it lost another one, if there is one.

    Torchrun tells the others to end as soon as one has failed, so it may come while that error is on its way.
    """
    found = error.__context__ if isinstance(error, KeyboardInterrupt) else error
    if isinstance(found, RuntimeError) and (isinstance(found, dist.DistError) or "gloo" in str(found)):
        return found
    return None
