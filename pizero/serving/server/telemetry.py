"""What a server knows of its clients at this moment: bounded, from any thread, and cheap to keep."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pizero.types import ActionChunk, Observation

MAX_CLIENTS = 64
"""That are kept; others are counted, and a stop of all reaches them too."""

MAX_CHUNKS = 4
"""Of a client, the newest last."""

MAX_ANSWERS = 300
"""Of a client, whose times are kept."""

MAX_TIMELINE = 60
"""Answers whose times are shown one by one."""

MAX_EXECUTED = 512
"""Ticks of a client: ten seconds at 50 Hz."""

STATES = ("starting", "running", "holding", "stopped")
"""Of a guard."""

MAX_NAMES = 32
"""Of interventions that a client may report."""

MAX_TEXT = 2_000
"""Characters of an instruction that are shown."""

FORGET_AFTER = 60.0
"""Seconds after which a client that has left is no longer shown."""

RATE_WINDOW = 10.0
"""Seconds over which answers are counted."""


@dataclass(frozen=True, kw_only=True)
class _Report:
    tick: int
    executed: np.ndarray
    state: str
    interventions: dict[str, int]
    late_ticks: int


@dataclass
class _Client:
    heard: float
    observation: Observation | None = None
    number: int = 0
    answers: int = 0
    chunks: deque[tuple[int, ActionChunk]] = field(default_factory=lambda: deque(maxlen=MAX_CHUNKS))
    times: deque[tuple[float, Mapping[str, float]]] = field(default_factory=lambda: deque(maxlen=MAX_ANSWERS))
    executed: deque[tuple[int, np.ndarray]] = field(default_factory=lambda: deque(maxlen=MAX_EXECUTED))
    tick: int | None = None
    guard: tuple[str, dict[str, int]] | None = None
    late_ticks: int | None = None
    left: float | None = None
    stopped: float | None = None
    told: float | None = None


class Telemetry:
    """The latest observation, chunks, times and reports of each client, and whom an operator has stopped.

    A stop holds until it is taken back. Names are those of connections, `HOST:PORT #NUMBER`: who comes from
    the host of a stopped client that has left may be the same robot, and is stopped too. Nothing is copied
    but what is small: of each client one observation is kept, that of its last request. `clock` gives
    seconds, of which only differences matter.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[str, _Client] = {}
        self._stopped_all: float | None = None
        self._unlisted = 0

    def observed(self, client: str, observation: Observation) -> None:
        """Keep what a client asked with."""
        with self._lock:
            if (one := self._heard(client)) is not None:
                one.observation = observation
                one.number += 1

    def answered(self, client: str, chunk: ActionChunk, seconds: Mapping[str, float]) -> None:
        """Keep what a client was answered, and the seconds that each stage took, in their order."""
        with self._lock:
            if (one := self._clients.get(client)) is not None:
                one.answers += 1
                one.chunks.append((0 if one.tick is None else one.tick + 1, chunk))
                one.times.append((self._clock(), seconds))

    def reported(self, client: str, report: Mapping[str, Any]) -> None:
        """Keep what a client says that it has done; ValueError if it is no report.

        Of `executed`, `[n, action_dim]` in robot units, the last row was for the control tick `tick`; rows
        that are not finite are for ticks at which nothing was executed. A tick that runs back begins a new
        episode.
        """
        checked = _checked(report)
        with self._lock:
            if (one := self._heard(client)) is not None:
                _take(one, checked)

    def left(self, client: str) -> None:
        """Keep that a client's connection has ended."""
        with self._lock:
            if client in self._clients:
                self._clients[client].left = self._clock()

    def request_stop(self, client: str | None) -> None:
        """Stop a client, or all, also those that will come; ValueError for a client that is not known."""
        with self._lock:
            now = self._clock()
            if client is None:
                self._stopped_all = now if self._stopped_all is None else self._stopped_all
            else:
                one = self._known(client)
                one.stopped = now if one.stopped is None else one.stopped

    def allow(self, client: str | None) -> None:
        """Take a client's stop back and those of its host that have left, or all stops there are."""
        with self._lock:
            if client is not None:
                self._known(client)
            self._stopped_all = None if client is None else self._stopped_all
            for name, one in self._clients.items():
                gone = client is not None and one.left is not None and _host(name) == _host(client)
                if client is None or name == client or gone:
                    one.stopped = one.told = None

    def stop_requested(self, client: str) -> bool:
        """Return whether a client is to be told to stop, and take it for told if so."""
        with self._lock:
            one = self._clients.get(client)
            stopped = _since(one, self._stopped_all) is not None
            if stopped and one is not None and one.told is None:
                one.told = self._clock()
            return stopped

    def latest(self, client: str) -> tuple[int, Observation] | None:
        """Return the number of a client's last observation and the observation, if there is one."""
        with self._lock:
            one = self._clients.get(client)
            return None if one is None or one.observation is None else (one.number, one.observation)

    def snapshot(self, *, watched: str | None = None) -> dict[str, Any]:
        """Return everything but pictures as lists, texts and finite numbers: all clients in short, and one
        client's chunks, executed actions and times.
        """
        with self._lock:  # copies alone are made while others wait
            now = self._clock()
            self._forget(now - FORGET_AFTER)
            stopped_all, unlisted = self._stopped_all, self._unlisted
            copies = {name: replace(one, times=one.times.copy()) for name, one in self._clients.items()}
            if (one := copies.get(watched or "")) is not None:
                one.chunks, one.executed = one.chunks.copy(), one.executed.copy()
        return {
            "clients": [_summary(name, one, stopped_all, now) for name, one in copies.items()],
            "stopped_all": None if stopped_all is None else now - stopped_all,
            "unlisted": unlisted,
            "watched": None if one is None else {"name": watched, **_details(one)},
        }

    def _heard(self, client: str) -> _Client | None:
        now = self._clock()
        one = self._clients.get(client)
        if one is None:
            if len(self._clients) >= MAX_CLIENTS and not self._make_room():
                self._unlisted += 1
                return None
            one = self._clients[client] = _Client(heard=now, stopped=self._inherited(client))
        one.heard, one.left = now, None
        return one

    def _known(self, client: str) -> _Client:
        if client not in self._clients:
            raise ValueError(
                f"expected one of the clients {', '.join(self._clients) or '(none)'}, found {client!r}"
            )
        return self._clients[client]

    def _inherited(self, client: str) -> float | None:
        stops = [
            one.stopped
            for name, one in self._clients.items()
            if one.left is not None and one.stopped is not None and _host(name) == _host(client)
        ]
        return min(stops, default=None)

    def _make_room(self) -> bool:
        gone = [
            (one.left, name)
            for name, one in self._clients.items()
            if one.left is not None and one.stopped is None
        ]
        if gone:
            del self._clients[min(gone)[1]]
        return bool(gone)

    def _forget(self, before: float) -> None:
        for name, one in list(self._clients.items()):
            if one.left is not None and one.left < before and one.stopped is None:
                del self._clients[name]


def _host(client: str) -> str:
    return client.rpartition(":")[0] or client


def _since(one: _Client | None, stopped_all: float | None) -> float | None:
    stops = [stopped_all, None if one is None else one.stopped]
    return min((at for at in stops if at is not None), default=None)


def _summary(name: str, one: _Client, stopped_all: float | None, now: float) -> dict[str, Any]:
    stopped = _since(one, stopped_all)
    last = list(one.times)[-MAX_TIMELINE:]
    spent = sorted(sum(stages.values()) for _, stages in last)
    return {
        "name": name,
        "heard": now - one.heard,
        "left": None if one.left is None else now - one.left,
        "instruction": "" if one.observation is None else one.observation.instruction[:MAX_TEXT],
        "answers": one.answers,
        "rate": _rate([at for at, _ in one.times], now),
        "typical": spent[len(spent) // 2] if spent else None,
        "tick": one.tick,
        "guard": None if one.guard is None else {"state": one.guard[0], "interventions": one.guard[1]},
        "late_ticks": one.late_ticks,
        "stopped": None if stopped is None else now - stopped,
        "told": None if stopped is None or one.told is None else now - one.told,
    }


def _rate(times: list[float], now: float) -> float:
    return (len(times) - bisect_left(times, now - RATE_WINDOW)) / RATE_WINDOW


def _details(one: _Client) -> dict[str, Any]:
    observation = one.observation
    return {
        "state": [] if observation is None else _numbers(observation.state),
        "cameras": [] if observation is None else list(observation.images),
        "chunks": [{"tick": tick, "actions": _numbers(chunk)} for tick, chunk in one.chunks],
        "executed": {
            "ticks": [tick for tick, _ in one.executed],
            "actions": _numbers(np.array([row for _, row in one.executed])) if one.executed else [],
        },
        "seconds": [dict(stages) for _, stages in list(one.times)[-MAX_TIMELINE:]],
        "counted": len(one.times),
        "percentiles": percentiles([stages for _, stages in one.times]),
    }


def percentiles(seconds: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return p50, p95 and p99 of each stage's seconds, and of their sum under `total`."""
    stages: dict[str, list[float]] = {}
    for one in seconds:
        for name, value in (*one.items(), ("total", sum(one.values()))):
            stages.setdefault(name, []).append(value)
    total = stages.pop("total", None)
    ordered = stages if total is None else {**stages, "total": total}
    return {name: np.percentile(values, [50, 95, 99]).tolist() for name, values in ordered.items()}


def _checked(report: Mapping[str, Any]) -> _Report:
    expected = "expected a report of tick, executed, guard (state, interventions) and late_ticks"
    tick, late, guard = report.get("tick"), report.get("late_ticks", 0), report.get("guard", {})
    if not (_is_count(tick) and _is_count(late) and isinstance(guard, Mapping)):
        raise ValueError(f"{expected}, found tick {tick!r}, late_ticks {late!r}, guard {guard!r}"[:400])
    executed = np.asarray(report.get("executed", np.zeros((0, 0))))
    if executed.ndim != 2 or executed.dtype.kind not in "fiu":
        raise ValueError(f"{expected}, found executed {executed.dtype} {list(executed.shape)}")
    state, named = guard.get("state", "running"), guard.get("interventions", {})
    countable = isinstance(named, Mapping) and all(
        isinstance(name, str) and _is_count(count) for name, count in named.items()
    )
    if state not in STATES or not countable:
        raise ValueError(f"{expected}, a state of {STATES} and counts by name, found {guard!r}"[:400])
    return _Report(
        tick=int(tick or 0),
        executed=executed[-MAX_EXECUTED:].astype(np.float32),
        state=state,
        interventions={name[:80]: int(count) for name, count in list(named.items())[:MAX_NAMES]},
        late_ticks=int(late),
    )


def _is_count(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and 0 <= int(value) < 2**53


def _take(one: _Client, report: _Report) -> None:
    known = -1 if one.tick is None else one.tick
    if report.tick < known:
        one.executed.clear()
        one.chunks.clear()
        known = -1
    if one.executed and len(report.executed) and one.executed[-1][1].shape != report.executed[0].shape:
        one.executed.clear()
    ticks = enumerate(report.executed, report.tick - len(report.executed) + 1)
    one.executed.extend((tick, action) for tick, action in ticks if tick > known)
    one.tick, one.late_ticks = report.tick, report.late_ticks
    one.guard = (report.state, report.interventions)


def _numbers(values: np.ndarray) -> list[Any]:
    """Return numbers as JSON has them, to six digits, and None for those that are not finite."""
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    size = np.abs(np.where(finite & (exact != 0.0), exact, 1.0))
    digits = 10.0 ** (5.0 - np.floor(np.log10(size)))
    rounded = np.round(np.where(finite, exact, 0.0) * digits) / digits
    known: np.ndarray = rounded.astype(object)
    known[~finite] = None
    return known.tolist()
