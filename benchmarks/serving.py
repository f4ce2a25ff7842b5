"""What a server adds to inference, whether it stays as it is for half an hour, and whether clients mix.

    python -m benchmarks.serving                      # 16 clients: added latency, memory, answers
    python -m benchmarks.serving --policy FOLDER      # the same with a policy of yours
    python -m benchmarks.serving soak --minutes 30    # 4 clients at 50 Hz: memory, open files, p99 by minute
    python -m benchmarks.serving soak --batch 4       # the same; what waits is computed together

The server is a process of its own, as `pizero serve` starts it; the clients are threads of this one. Added
is what a client waits beyond the inference of its own request: the way there and back, checks and hand-overs,
and in the second figure also what it waits for others' inference. All traffic stays on this machine.

The speed of a shared machine is not constant: the soak gives a minute's p99 also in units of the time that
its median request took to compute, which is as fast or slow as the machine is in this minute.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pizero.contract import Contract, FieldStatistics, Statistics
from pizero.generative.flow import FlowMatching
from pizero.models.pi0 import Pi0, Pi0Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.vision import ResNetConfig
from pizero.policy.policy import Policy
from pizero.robots import NAVIGATION2D
from pizero.serving.client import ConnectionLostError, RemotePolicy, ServerError, Shown, Times
from pizero.weights.folder import read_policy, write_policy

TRANSFORMER = GemmaConfig(width=16, depth=1, mlp_dim=24, num_heads=2, num_kv_heads=1, head_dim=8)
TINY = Pi0Config(
    backbone=PaliGemmaConfig(
        vision=ResNetConfig(
            image_size=16, stem_stride=4, widths=(8,), blocks=(1,), strides=(1,), num_groups=4, num_tokens=4
        ),
        language=TRANSFORMER,
        vocab_size=259,
    ),
    expert=TRANSFORMER,
    state_dim=2,
    action_dim=2,
    horizon=10,
    process=FlowMatching(num_steps=1),
)
"""A π0 that answers in a millisecond or two, so that the server and not the model is what is measured."""


def tiny_folder(folder: Path) -> Path:
    """Write a policy with random weights for the 2-D robot."""
    torch.manual_seed(0)
    numbers = FieldStatistics(mean=(0.0, 0.0), std=(1.0, 1.0))
    contract = Contract(
        embodiment=NAVIGATION2D,
        image_size=16,
        max_tokens=24,
        horizon=TINY.horizon,
        normalization="zscore",
        statistics=Statistics(state=numbers, actions=numbers),
    )
    write_policy(folder, config=TINY, contract=contract, tensors=Pi0(TINY).state_dict())
    return folder


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Run `pizero serve` in a process of its own; give its address and process id."""
    command = [sys.executable, "-m", "pizero", "serve", str(folder), "--port", "0", "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("{"):
            raise ValueError(f"the server did not start: {line}")
        try:
            yield json.loads(line)["url"], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def memory_of(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} says nothing of its memory")


def files_of(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def seen(folder: Path, index: int) -> Shown:
    """Return a random observation of a policy's robot."""
    robot = read_policy(folder).contract.embodiment
    random = np.random.default_rng(index)
    return Shown(
        images={
            camera.name: random.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
            for camera in robot.cameras
        },
        state=np.array([random.uniform(each.low, each.high) for each in robot.state], dtype=np.float32),
        instruction="go to the red disc",
    )


@dataclass
class Client:
    """A robot that asks at a steady rate; what it waited, and what the server spent, in seconds."""

    policy: RemotePolicy
    shown: Shown
    waited: list[tuple[float, float, dict[str, float]]] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    late: int = 0

    def run(self, rate: float, until: float, phase: float, chunks: list[np.ndarray] | None = None) -> None:
        """Ask at absolute moments; those that have passed already are left out."""
        start, tick = time.monotonic() + phase, 0
        while (due := start + tick / rate) < until:
            now = time.monotonic()
            if due < now:
                behind = int((now - due) * rate)
                self.late, tick = self.late + behind, tick + behind
            else:
                time.sleep(due - now)
            began = time.monotonic()
            try:
                chunk = self.policy.act(self.shown)
                self.waited.append((began, time.monotonic() - began, dict(self.policy.timing)))
                if chunks is not None:
                    chunks.append(chunk)
            except (ServerError, ConnectionLostError) as error:
                name = error.code if isinstance(error, ServerError) else type(error).__name__
                self.failures[name] = self.failures.get(name, 0) + 1
            tick += 1


def percentile(values: list[float], share: float) -> float:
    """Return a percentile in milliseconds."""
    return 1e3 * float(np.percentile(values, share)) if values else float("nan")


def run_clients(uri: str, folder: Path, number: int, rate: float, seconds: float) -> tuple[list[Client], Any]:
    """Let some clients ask side by side, out of step; return them, and the chunks of each."""
    times = Times(connect=60.0, attempt=30.0, answer=30.0)
    clients = [Client(RemotePolicy(uri, times=times), seen(folder, index)) for index in range(number)]
    for index, client in enumerate(clients):
        client.policy.reset(seed=index)
    chunks: list[list[np.ndarray]] = [[] for _ in clients]
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client.run, args=(rate, until, index / (rate * number), chunks[index]))
        for index, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients, chunks


def added_latency(folder: Path, *, number: int, rate: float, seconds: float, batch: int) -> dict[str, Any]:
    """Return what 16 clients wait beyond inference, and whether each got what it would have got alone."""
    with served(folder, "--batch", str(batch)) as (uri, pid):
        run_clients(uri, folder, 1, 20.0, 2.0)
        before = memory_of(pid)
        clients, chunks = run_clients(uri, folder, number, rate, seconds)
        after = memory_of(pid)
        for client in clients:
            client.policy.close()
    alone = Policy.load(folder)
    equal = 0
    for index, client in enumerate(clients):
        alone.reset(seed=index)
        equal += sum(np.array_equal(chunk, alone.act(_observation(client.shown))) for chunk in chunks[index])
    rows = [row for client in clients for row in client.waited]
    own = [total - times["infer"] - times["queue"] for _, total, times in rows]
    others = [total - times["infer"] for _, total, times in rows]
    inference = [times["infer"] for _, _, times in rows]
    inside = [times["total"] - times["infer"] - times["queue"] for _, _, times in rows]
    return {
        "clients": number,
        "rate": rate,
        "answers": len(rows),
        "failures": sum(sum(client.failures.values()) for client in clients),
        "equal_to_solo": equal,
        "load": sum(inference) / seconds,
        **_figures("inference_ms", inference),
        **_figures("added_ms", own),
        **_figures("added_with_queue_ms", others),
        **_figures("added_inside_server_ms", inside),
        "memory_before_mib": before,
        "memory_after_mib": after,
    }


def soak(
    folder: Path, output: Path, *, number: int, rate: float, minutes: float, batch: int
) -> dict[str, Any]:
    """Let a few clients ask at 50 Hz for a long time, and watch the server; one line of JSON a minute."""
    rows: list[dict[str, Any]] = []
    with served(folder, "--batch", str(batch)) as (uri, pid):
        times = Times(connect=60.0, attempt=30.0, answer=5.0)
        clients = [Client(RemotePolicy(uri, times=times), seen(folder, index)) for index in range(number)]
        until = time.monotonic() + 60.0 * minutes
        threads = [
            threading.Thread(target=client.run, args=(rate, until, index / (rate * number)))
            for index, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        began, last = time.monotonic(), [0] * number
        with output.open("w", encoding="utf-8") as file:
            for minute in range(1, math.ceil(minutes) + 1):
                time.sleep(max(60.0 * min(minute, minutes) - (time.monotonic() - began), 0.0))
                fresh = [client.waited[start:] for client, start in zip(clients, last, strict=True)]
                last = [len(client.waited) for client in clients]
                waited = [row for part in fresh for row in part]
                totals = [total for _, total, _ in waited]
                inference = [times["infer"] for _, _, times in waited]
                row = {
                    "minute": minute,
                    "answers": len(waited),
                    "p50_ms": percentile(totals, 50),
                    "p99_ms": percentile(totals, 99),
                    "p99_in_inferences": percentile(totals, 99) / percentile(inference, 50),
                    "infer_p50_ms": percentile(inference, 50),
                    "infer_p99_ms": percentile(inference, 99),
                    "added_p99_ms": percentile(
                        [total - times["infer"] - times["queue"] for _, total, times in waited], 99
                    ),
                    "memory_mib": memory_of(pid),
                    "files": files_of(pid),
                    "late": sum(client.late for client in clients),
                    "failures": sum(sum(client.failures.values()) for client in clients),
                    "load_average": os.getloadavg()[0],
                }
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(json.dumps(row), flush=True)
            for thread in threads:
                thread.join()
        failures = {
            name: sum(client.failures.get(name, 0) for client in clients)
            for client in clients
            for name in client.failures
        }
    settled = rows[min(2, len(rows) - 1) :]
    slope = (
        float(np.polyfit([row["minute"] for row in settled], [row["memory_mib"] for row in settled], 1)[0])
        if len(settled) > 1
        else float("nan")
    )
    return {
        "minutes": len(rows),
        "answers": sum(row["answers"] for row in rows),
        "failures": failures,
        "memory_slope_mib_per_minute": slope,
        "memory_first_mib": settled[0]["memory_mib"],
        "memory_last_mib": settled[-1]["memory_mib"],
        "files": sorted({row["files"] for row in settled}),
        **{
            f"{name}{what}": number
            for name in ("p99_ms", "p99_in_inferences", "infer_p50_ms")
            for what, number in _steadiness([row[name] for row in rows]).items()
        },
    }


def _steadiness(values: list[float]) -> dict[str, Any]:
    """Return the minutes' figures, how far from their median they are, and the last third's by the first."""
    middle, third = float(np.median(values)), max(len(values) // 3, 1)
    return {
        "": [round(value, 2) for value in values],
        "_from_median": [round(end / middle - 1.0, 3) for end in (min(values), max(values))],
        "_within_a_tenth": sum(abs(value / middle - 1.0) <= 0.1 for value in values),
        "_last_third_by_first": round(
            float(np.median(values[-third:])) / float(np.median(values[:third])), 3
        ),
    }


def _figures(name: str, values: list[float]) -> dict[str, list[float]]:
    return {name: [round(percentile(values, share), 3) for share in (50, 99)]}


def _observation(shown: Shown) -> Any:
    from pizero.types import Observation

    return Observation(images=shown.images, state=shown.state, instruction=shown.instruction)


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("latency", "soak"), default="latency")
    parser.add_argument(
        "--policy", type=Path, help="policy folder; by default a tiny one with random weights"
    )
    parser.add_argument("--clients", type=int, help="16 for latency, 4 for the soak")
    parser.add_argument(
        "--rate", type=float, help="requests a second of each: 2 for latency, 50 for the soak"
    )
    parser.add_argument("--batch", type=int, default=1, help="requests that the server may compute together")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--output", type=Path, default=Path("soak.jsonl"), help="one line for each minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.policy or tiny_folder(Path(place) / "policy")
        if arguments.what == "soak":
            number, rate = arguments.clients or 4, arguments.rate or 50.0
            found = soak(
                folder,
                arguments.output,
                number=number,
                rate=rate,
                minutes=arguments.minutes,
                batch=arguments.batch,
            )
        else:
            number, rate = arguments.clients or 16, arguments.rate or 2.0
            found = added_latency(
                folder, number=number, rate=rate, seconds=arguments.seconds, batch=arguments.batch
            )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
