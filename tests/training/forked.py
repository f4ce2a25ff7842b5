"""The command line in forked processes: ready at once, and broken on purpose at a chosen point.

    python -m tests.training.forked

reads one request a line (JSON: arguments, faults, where to write what is said, and perhaps after how many
seconds to kill) and answers with the exit status, negative for a signal. Nothing is computed in the process
that forks, so that its children start from a clean state.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from pizero.cli.main import main
from pizero.data.loader import Samples
from pizero.training import checkpoint, tracking, update
from pizero.weights import folder as policy_folder

ROOT = Path(__file__).parents[2]
NEVER = threading.Event()

LATE_IMPORTS = (
    "torch._inductor.runtime.runtime_utils",
    "torch._functorch._aot_autograd.runtime_wrappers",
    "torch.distributed.fsdp",
    "tensorboard.summary.writer.record_writer",
    "tensorboard.compat.proto.event_pb2",
    "PIL.PngImagePlugin",
    "PIL.ImageFont",
)
"""What a run imports on its way; imported here once, it need not be in every child."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit status (negative: killed by that signal) and what it said."""

    status: int
    said: str

    @property
    def sentences(self) -> list[str]:
        """What the command says of errors."""
        return [line for line in self.said.splitlines() if line.startswith("pizero: ")]


class Commands:
    """Runs commands in children of one process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "said"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.forked"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def run(
        self, *arguments: object, faults: Sequence[Sequence[Any]] = (), kill_after: float | None = None
    ) -> Ended:
        request = {
            "arguments": [str(argument) for argument in arguments],
            "faults": list(faults),
            "kill_after": kill_after,
            "log": str(self.log),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return Ended(status=status, said=self.log.read_text())


def act(action: str) -> None:
    """Let something happen to this process, here and now."""
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            NEVER.wait()
        case "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case _:
            for name in action.split():
                os.kill(os.getpid(), signal.Signals[name])


def at_file(event: str, pattern: str, number: int, action: str) -> None:
    """Act just before the `number`-th time that Python does something to a file (`open`, `os.rename` …)."""
    found = 0

    def hook(name: str, given: tuple[Any, ...]) -> None:
        nonlocal found
        if name == event and fnmatch.fnmatch(str(given[0]), pattern):
            found += 1
            if found == number:
                act(action)

    sys.addaudithook(hook)


def at_any_file(folder: str, number: int) -> None:
    """Kill just before the `number`-th thing that the main thread does to files under a folder."""
    kinds = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
    found = 0

    def hook(name: str, given: tuple[Any, ...]) -> None:
        nonlocal found
        if name not in kinds or threading.current_thread() is not threading.main_thread():
            return
        inside = str(given[0]).startswith(folder) or (name == "os.remove" and given[1] != -1)
        if inside:
            found += 1
            if found == number:
                act("kill")

    sys.addaudithook(hook)


def half_written(pattern: str, number: int, action: str) -> None:
    """Let the `number`-th file of tensors whose name fits be cut off in its middle."""
    found = 0

    def wrapped(real: Callable[..., None]) -> Callable[..., None]:
        def save(tensors: Any, path: Path, **given: Any) -> None:
            nonlocal found
            real(tensors, path, **given)
            if fnmatch.fnmatch(str(path), pattern):
                found += 1
                if found == number:
                    os.truncate(path, path.stat().st_size // 2)
                    act(action)

        return save

    for module in (checkpoint, policy_folder):
        mock.patch.object(module, "save_file", wrapped(module.save_file)).start()


def half_line(number: int) -> None:
    """Kill in the middle of a line of metrics.jsonl."""
    real = tracking.Log.write
    made = 0

    def write(self: tracking.Log, *, step: int, **figures: Any) -> None:
        nonlocal made
        made += "learning_rate" in figures
        if made == number:
            self.file.write(json.dumps({"step": step, **figures})[:20])
            self.file.flush()
            act("kill")
        real(self, step=step, **figures)

    mock.patch.object(tracking.Log, "write", write).start()


def at_update(number: int, action: str) -> None:
    """Act within an update, just before the moving average is taken."""
    real = update.update_average
    made = 0

    def average(*given: Any) -> None:
        nonlocal made
        made += 1
        if made == number:
            act(action)
        real(*given)

    mock.patch.object(update, "update_average", average).start()


def poison(*numbers: int) -> None:
    """Put a number that is not finite into some of the batches, counted from 1."""
    real = Samples.prepare
    made = 0

    def prepare(*given: Any) -> Any:
        nonlocal made
        made += 1
        prepared = real(*given)
        if made in numbers:
            prepared.batch.actions[0] = float("nan")
        return prepared

    mock.patch.object(Samples, "prepare", prepare).start()


def small_files(size: int) -> None:
    """Let no file grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def no_privileges() -> None:
    """Give up root's right to write where permissions forbid it (capset of Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def full_log() -> None:
    """Let metrics.jsonl lie on a disk that is full."""
    real = tracking.Log.__init__

    def begin(self: tracking.Log, path: Path, step: int) -> None:
        real(self, path, step)
        if path.name == "metrics.jsonl":
            self.file.close()
            self.file = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115

    mock.patch.object(tracking.Log, "__init__", begin).start()


def wandb(fault: str) -> None:
    """Put a module `wandb` into this process, whose runs raise or hang."""

    class Run:
        step = 0

        def log(self, figures: dict[str, float], *, step: int) -> None:
            if fault == "hangs":
                NEVER.wait()
            raise ConnectionError("no route to host")

        def finish(self) -> None: ...

    module = ModuleType("wandb")
    vars(module).update(init=lambda **_: Run(), Settings=dict)
    sys.modules["wandb"] = module
    defaults = {"close_seconds": 0.1}  # so long a tracker that hangs is waited for
    mock.patch.object(tracking.Trackers.__init__, "__kwdefaults__", defaults).start()


FAULTS: dict[str, Callable[..., None]] = {
    made.__name__: made
    for made in (
        at_file,
        at_any_file,
        half_written,
        half_line,
        at_update,
        poison,
        small_files,
        no_privileges,
        full_log,
        wandb,
    )
}


def _child(request: dict[str, Any]) -> None:
    said = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    for name, *given in request["faults"]:
        FAULTS[name](*given)
    sys.argv = ["pizero", *request["arguments"]]
    status = 0
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    for name in LATE_IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(request)
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
