"""Where the figures of a training run go; nothing here can stop training, or make it wait."""

from __future__ import annotations

import importlib.util
import json
import math
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["metrics", "validation"]
Tracker = Literal["tensorboard", "wandb"]

QUEUE_ROWS = 10_000
"""So many rows wait for a slow tracker before the oldest are dropped."""

CLOSE_SECONDS = 10.0
"""So long the end of a run waits for what its trackers have still to write."""

WANDB_ID = "wandb-id.txt"
"""The file of a run's folder that names its Weights & Biases run, so that resuming goes on with it."""


class Sink(Protocol):
    """Somewhere that figures are written to."""

    def write(self, kind: Kind, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of one step."""
        ...

    def close(self) -> None:
        """Finish what was begun."""
        ...


class Log:
    """A file of one JSON object a line; on resuming, lines of steps that will be made again are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if (made := _step_of(line)) is not None and made <= step]
            if kept != lines:
                partial = path.with_name(path.name + ".partial")
                partial.write_text("".join(kept), encoding="utf-8")
                partial.replace(path)
        self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, *, step: int, **figures: Any) -> None:
        """Append one line; a number that is not finite becomes null, for JSON knows none."""
        row = {"step": step, **{name: _written(value) for name, value in figures.items()}}
        self.file.write(json.dumps(row, allow_nan=False) + "\n")
        self.file.flush()


class JsonLines:
    """`metrics.jsonl` and `validation.jsonl` of a run's folder."""

    def __init__(self, folder: Path, step: int) -> None:
        self.logs: dict[Kind, Log] = {
            "metrics": Log(folder / "metrics.jsonl", step),
            "validation": Log(folder / "validation.jsonl", step),
        }

    def write(self, kind: Kind, step: int, figures: Mapping[str, float]) -> None:
        """Append one line to the file of this kind."""
        self.logs[kind].write(step=step, **figures)

    def close(self) -> None:
        """Close both files, even if one cannot be."""
        try:
            self.logs["metrics"].file.close()
        finally:
            self.logs["validation"].file.close()


class TensorBoard:
    """An event file of TensorBoard's; what earlier files say of steps after `step` is purged.

    Files are numbered, because TensorBoard reads them in the order of their names: one for each time that the
    run was started.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*.*")]
        name = f"events.out.tfevents.{max(numbers, default=0) + 1:010d}.{socket.gethostname()}"
        self.file = (folder / name).open("xb")
        self.records = RecordWriter(self.file)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, kind: Kind, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures as scalars, named `metrics/loss` and so on."""
        values = [
            self.summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in figures.items()
        ]
        self._add(self.event(step=step, summary=self.summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())
        self.file.flush()


class WeightsAndBiases:
    """A run of Weights & Biases; on resuming it is the same one, and steps that it has are passed over."""

    def __init__(self, folder: Path, config_data: Mapping[str, Any], run_name: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        place = folder / WANDB_ID
        if not place.exists():
            place.write_text(secrets.token_hex(8), encoding="utf-8")
        self.run = wandb.init(
            project="pizero",
            id=place.read_text(encoding="utf-8").strip(),
            resume="allow",
            name=run_name,
            config=dict(config_data),
            dir=str(folder),
            settings=wandb.Settings(console="off"),
        )
        self.first = self.run.step

    def write(self, kind: Kind, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures, named `metrics/loss` and so on."""
        if step >= self.first:
            self.run.log({f"{kind}/{name}": value for name, value in figures.items()}, step=step)

    def close(self) -> None:
        """Tell Weights & Biases that nothing follows."""
        self.run.finish()


class Direct:
    """A sink that is written to at once; after its first error it is left alone."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self.name = name
        self.sink: Sink | None = None
        try:
            self.sink = make()
        except Exception as error:
            _warn(f"{name} cannot be opened ({_words(error)}), and gets no figures; training goes on")

    def write(self, kind: Kind, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of one step; on an error, warn and write no more."""
        if self.sink is None:
            return
        try:
            self.sink.write(kind, step, figures)
        except Exception as error:
            failed, self.sink = self.sink, None
            _warn(_stopped(self.name, error, step))
            with suppress(Exception):
                failed.close()

    def end(self) -> None:
        """Close the sink."""
        sink, self.sink = self.sink, None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:
                _warn(f"{self.name} could not be closed ({_words(error)}); its last figures may be lost")

    def wait(self, deadline: float) -> None:
        """There is nothing to wait for."""


class Background:
    """A sink on a thread of its own, which may be slow, hang or fail without anybody waiting for it.

    Rows wait in a queue of `size`; when it is full, the oldest is dropped. The sink is made on the thread.
    """

    def __init__(self, name: str, make: Callable[[], Sink], size: int = QUEUE_ROWS) -> None:
        self.name, self.make, self.size = name, make, size
        self.rows: deque[tuple[Kind, int, Mapping[str, float]]] = deque()
        self.changed = threading.Condition()
        self.dropped = 0
        self.ending = self.failed = self.abandoned = False
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def write(self, kind: Kind, step: int, figures: Mapping[str, float]) -> None:
        """Leave the figures of one step to the thread."""
        with self.changed:
            if self.failed or self.ending:
                return
            if len(self.rows) == self.size:
                self.rows.popleft()
                self.dropped += 1
            self.rows.append((kind, step, dict(figures)))
            self.changed.notify()

    def end(self) -> None:
        """Let the thread write what waits, and then close the sink."""
        with self.changed:
            self.ending = True
            self.changed.notify()

    def wait(self, deadline: float) -> None:
        """Wait for the thread until a moment of `time.monotonic`, and warn of what is lost."""
        self.thread.join(max(deadline - time.monotonic(), 0.0))
        with self.changed:
            self.abandoned = self.thread.is_alive() and not self.failed
            lost = 0 if self.failed else self.dropped + len(self.rows)
        if self.abandoned:
            _warn(
                f"{self.name} did not finish in time; {lost} rows of figures, or a few more, are lost there"
            )
        elif lost:
            _warn(f"{self.name} was too slow; {lost} rows of figures, the oldest each time, are lost there")

    def _work(self) -> None:
        sink, step = None, None
        try:
            sink = self.make()
            while (row := self._next()) is not None:
                step = row[1]
                sink.write(*row)
            sink.close()
        except BaseException as error:  # on this thread there is nobody else to tell
            with self.changed:
                self.failed = True
                self.rows.clear()
                told = self.abandoned
            if not told:
                _warn(_stopped(self.name, error, step, self.dropped))
            if sink is not None:
                with suppress(BaseException):
                    sink.close()

    def _next(self) -> tuple[Kind, int, Mapping[str, float]] | None:
        with self.changed:
            self.changed.wait_for(lambda: self.rows or self.ending)
            return self.rows.popleft() if self.rows else None


class Trackers:
    """All that a run's figures are written to; without any, they go nowhere."""

    def __init__(
        self, trackers: Sequence[Direct | Background] = (), *, close_seconds: float = CLOSE_SECONDS
    ) -> None:
        self.trackers = tuple(trackers)
        self.close_seconds = close_seconds

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exception: object) -> None:
        for tracker in self.trackers:
            tracker.end()
        deadline = time.monotonic() + self.close_seconds
        for tracker in self.trackers:
            tracker.wait(deadline)

    def write(self, step: int, figures: Mapping[str, float], *, kind: Kind = "metrics") -> None:
        """Write the figures of one step everywhere; this neither raises nor waits for a slow tracker."""
        for tracker in self.trackers:
            tracker.write(kind, step, figures)


def open_trackers(
    folder: Path,
    step: int,
    names: Sequence[Tracker] = (),
    *,
    config_data: Mapping[str, Any],
    run_name: str,
) -> Trackers:
    """Return the trackers of a run whose first `step` steps are made: the files `metrics.jsonl` and
    `validation.jsonl` and the folder `tensorboard`, always, and Weights & Biases if it is named.

    `config_data` is the run's config in plain JSON. ValueError if Weights & Biases is not installed.
    """
    if "wandb" in names and "wandb" not in sys.modules and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "the tracker 'wandb' is not installed: `pip install pizero[wandb]`, or do without it; "
            "metrics.jsonl and TensorBoard's files are written always"
        )
    trackers: list[Direct | Background] = [
        Direct("metrics.jsonl and validation.jsonl", lambda: JsonLines(folder, step)),
        Background("TensorBoard", lambda: TensorBoard(folder / "tensorboard", step)),
    ]
    if "wandb" in names:
        make = lambda: WeightsAndBiases(folder, config_data, run_name)  # noqa: E731
        trackers.append(Background("Weights & Biases", make))
    return Trackers(trackers)


def _written(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> int | None:
    """Return the step of a whole line of a log, and None for any other."""
    try:
        row = json.loads(line) if line.endswith("}\n") else None
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None


def _stopped(name: str, error: BaseException, step: int | None, dropped: int = 0) -> str:
    since = "all figures" if step is None else f"figures from step {step} on"
    before = f", and {dropped} rows of earlier ones," if dropped else ""
    return f"{name} stopped ({_words(error)}); {since}{before} are lost there, and training goes on"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _warn(sentence: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(f"pizero: {sentence}\n")
        sys.stderr.flush()
