"""openpi's own client, from PyPI, drives Meta-World through `pizero serve`: with the policy's own actions?

    python3.11 -m venv runs/openpi
    runs/openpi/bin/pip install openpi-client typing_extensions "numpy<2"
    python -m benchmarks.peers.compare_openpi_client runs/demo/training/policy --python runs/openpi/bin/python

The client is unmodified, in an environment of its own with numpy 1, and hands out the actions of a chunk one
by one as openpi's runtime does. Beside each of its actions the policy in this process is asked the same, on
one thread as in the server, for another number of threads adds in another order. The status is 1 if any
number differs.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from benchmarks.serving import served
from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.simulators import find_simulator
from pizero.policy.policy import Policy
from pizero.types import Observation

ASK = Path(__file__).with_name("openpi_ask.py")


def ask(pipes: tuple[IO[bytes], IO[bytes]], seen: Observation, seed: int | None) -> np.ndarray:
    """Return the action that openpi's client gives for an observation."""
    to, back = pipes
    arrays: dict[str, Any] = {f"images/{name}": picture for name, picture in seen.images.items()}
    arrays |= {"state": seen.state, "prompt": np.array(seen.instruction)}
    if seed is not None:
        arrays["seed"] = np.array(seed)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    to.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
    to.flush()
    (length,) = struct.unpack("<Q", back.read(8))
    return np.frombuffer(back.read(length), dtype="<f4")


def episode(
    folder: Path, python: Path, task: str, *, num_executed: int, max_steps: int, seed: int
) -> dict[str, Any]:
    """Drive one episode by openpi's client, and compare each action with the policy in this process."""
    policy = Policy.load(folder)
    policy.reset(seed=seed)
    environment = find_simulator(policy.contract).make(task, max_steps)
    environment.reset(seed)
    differences, solved, steps = [], False, 0
    chunk = np.zeros((0, policy.contract.embodiment.action_dim), dtype=np.float32)
    with served(folder) as (url, _):
        port = url.rpartition(":")[2]
        command = [str(python), str(ASK), "127.0.0.1", port, str(num_executed)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            while not solved and steps < max_steps:
                seen = environment.observe()
                theirs = ask((client.stdin, client.stdout), seen, seed if steps == 0 else None)
                if steps % num_executed == 0:
                    chunk = policy.act(seen)
                differences.append(float(np.abs(theirs - chunk[steps % num_executed]).max()))
                solved = environment.step(theirs.copy(), render=False).success
                steps += 1
            client.stdin.close()
    environment.close()
    return {
        "task": task,
        "steps": steps,
        "success": solved,
        "largest_difference": max(differences),
        "equal": all(difference == 0.0 for difference in differences),
    }


def main() -> None:
    """Drive one episode of each task, and print what came out as JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("policy", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="Python that has openpi-client")
    parser.add_argument("--tasks", nargs="+", default=["drawer-open", "window-close"])
    parser.add_argument("--num-executed", type=int, default=5)
    parser.add_argument("--max-steps", type=int, default=125)
    parser.add_argument("--seed", type=int, default=DEMONSTRATION_SEEDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    equal = True
    for task in arguments.tasks:
        found = episode(
            arguments.policy,
            arguments.python,
            task,
            num_executed=arguments.num_executed,
            max_steps=arguments.max_steps,
            seed=arguments.seed,
        )
        print(json.dumps(found), flush=True)
        equal = equal and found["equal"]
    sys.exit(not equal)


if __name__ == "__main__":
    main()
