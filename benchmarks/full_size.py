"""The full-size π0 on a CPU: built, written in openpi's PyTorch naming, converted back, the same actions.

    python -m benchmarks.full_size --folder /tmp/full_size          # π0 in openpi's PyTorch names, and back
    python -m benchmarks.full_size --folder /tmp/full_size --jax    # and as a JAX checkpoint in float32, too

Weights are random: nothing else is needed to know that none is lost on the way. Peak memory is that
of each step's own process. Needs about 21 GB of disk under `--folder` (with `--jax` 40),
and 9 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from pizero.models.base import ActionModel
from pizero.models.build import ModelConfig, skeleton
from pizero.models.pi0 import PI0
from pizero.models.pi05 import PI05
from pizero.records import read_record, write_record
from pizero.types import Inputs, Tokens
from pizero.weights.folder import CONFIG, WEIGHTS, load_into, new_folder
from pizero.weights.jax_names import jax_scheme
from pizero.weights.keymap import Place
from pizero.weights.safetensors_files import SafetensorsFile, write_safetensors
from pizero.weights.tensors import TensorInfo

MODELS: dict[str, ModelConfig] = {"pi0": PI0, "pi05": PI05}
STEPS = ("build", "to-openpi", "back", "act")
JAX_STEPS = ("write-jax", "from-jax", "compare")
RESULT_OF = {"build": "own", "to-openpi": "openpi", "from-jax": "jax-back", "compare": "jax-back"}
GIB = 2**30


def build(folder: Path, model: str) -> dict[str, float]:
    """Draw a model's weights in bfloat16 and write them, act with it once, and keep its actions."""
    config = MODELS[model]
    network = skeleton(config)
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, weight in network.state_dict().items():
        spread = 0.02 if weight.ndim < 2 else weight[0].numel() ** -0.5
        drawn[name] = torch.empty(weight.shape, dtype=torch.bfloat16).normal_(
            0.0, spread, generator=generator
        )
    load_into(network, drawn, "the drawn weights")
    infos = {name: TensorInfo(shape=tuple(t.shape), dtype=t.dtype) for name, t in drawn.items()}
    with new_folder(folder / "own") as partial:
        write_safetensors(partial / WEIGHTS, infos, ((name, drawn[name]) for name in infos))
        write_record(partial / CONFIG, config)
    np.save(folder / "before.npy", actions_of(network, config))
    return {"parameters": float(sum(weight.numel() for weight in network.parameters()))}


def act(folder: Path, _model: str) -> dict[str, float]:
    """Load the weights that came back, act once, and compare."""
    config = read_record(ModelConfig, folder / "back" / CONFIG)
    network = skeleton(config)
    file = SafetensorsFile(folder / "back" / WEIGHTS)
    load_into(network, {name: file.read(name) for name in file.infos}, "the converted weights")
    began = time.perf_counter()
    after = actions_of(network, config)
    seconds = time.perf_counter() - began
    before = np.load(folder / "before.npy")
    return {
        "largest_difference": float(np.abs(before - after).max()),
        "largest_action": float(np.abs(before).max()),
        "act_seconds": seconds,
    }


def write_jax(folder: Path, model: str) -> dict[str, float]:
    """Write the weights as a JAX checkpoint: float32, layers stacked, one chunk an array (the worst case)."""
    from tests.orbax_writer import write_orbax

    file, config = SafetensorsFile(folder / "own" / WEIGHTS), MODELS[model]
    places: dict[str, list[Place]] = {}
    for place in jax_scheme(config).places:
        places.setdefault(place.foreign, []).append(place)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for name, parts in places.items():
            if parts[0].index == ():
                yield name, parts[0].layout.write(file.read(parts[0].ours)).float().numpy()
                continue
            shape = tuple(max(column) + 1 for column in zip(*(part.index for part in parts), strict=True))
            first = parts[0].layout.write(file.read(parts[0].ours))
            stacked = np.empty((*shape, *first.shape), dtype=np.float32)
            for part in parts:
                stacked[part.index] = part.layout.write(file.read(part.ours)).float().numpy()
            yield name, stacked

    write_orbax(folder / "jax" / "params", arrays())
    return {}


def compare(folder: Path, _model: str) -> dict[str, float]:
    """Compare the weights that came back from the JAX checkpoint with those that were drawn."""
    one, other = SafetensorsFile(folder / "own" / WEIGHTS), SafetensorsFile(folder / "jax-back" / WEIGHTS)
    assert dict(one.infos).keys() == dict(other.infos).keys()
    different = [name for name in one.infos if not torch.equal(one.read(name), other.read(name))]
    return {"tensors": float(len(one.infos)), "different_tensors": float(len(different))}


def actions_of(network: ActionModel, config: ModelConfig) -> np.ndarray:
    """Return the actions for one fixed observation and noise."""
    generator = torch.Generator().manual_seed(1)
    valid = torch.arange(48)[None] < 20
    nothing = torch.zeros_like(valid)
    inputs = Inputs(
        images=torch.randint(0, 256, (1, 3, 3, 224, 224), generator=generator, dtype=torch.uint8),
        camera_valid=torch.ones(1, 3, dtype=torch.bool),
        state=torch.randn(1, 32, generator=generator),
        tokens=Tokens(
            ids=torch.randint(3, 257_152, (1, 48), generator=generator),
            valid=valid,
            causal=nothing,
            target=nothing,
        ),
    )
    noise = torch.randn(1, config.horizon, config.action_dim, generator=generator)
    return network.sample(inputs, noise=noise).numpy()


def convert(folder: Path, source: str, target: str, *options: str) -> None:
    """Run `pizero convert` in this process."""
    from pizero.cli.main import main

    sys.argv = ["pizero", "convert", str(folder / source), str(folder / target), "--weights-only", *options]
    main()


def step(name: str, folder: Path, model: str) -> None:
    """Make one step in this process and print what it measured, as JSON on the last line."""
    began = time.perf_counter()
    figures: dict[str, float] = {}
    if name == "build":
        figures = build(folder, model)
    elif name == "to-openpi":
        convert(folder, "own", "openpi", "--to", "openpi")
    elif name == "back":
        convert(folder, "openpi", "back", "--horizon", str(MODELS[model].horizon))
    elif name == "from-jax":
        convert(folder, "jax", "jax-back", "--dtype", "bfloat16")
    else:
        figures = {"act": act, "write-jax": write_jax, "compare": compare}[name](folder, model)
    figures["seconds"] = time.perf_counter() - began
    figures["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(json.dumps(figures))


def main() -> None:
    """Make every step in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description="The full-size models on this machine: time and memory.")
    parser.add_argument("--folder", type=Path, default=Path("runs/full_size"))
    parser.add_argument("--model", choices=sorted(MODELS), default="pi0")
    parser.add_argument("--keep", action="store_true", help="keep the folder with its 20 GB")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jax", action="store_true", help="also as a JAX checkpoint")
    parser.add_argument("--step", choices=(*STEPS, *JAX_STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder / options.model
    if options.step:
        step(options.step, folder, options.model)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    table: dict[str, dict[str, float]] = {}
    for name in (*STEPS, *(JAX_STEPS if options.jax else ())):
        print(f"{name} …", file=sys.stderr)
        arguments = [
            sys.executable,
            "-m",
            "benchmarks.full_size",
            "--folder",
            str(options.folder),
            "--model",
            options.model,
        ]
        done = subprocess.run([*arguments, "--step", name], check=True, stdout=subprocess.PIPE, text=True)
        table[name] = json.loads(done.stdout.splitlines()[-1])
        result = folder / RESULT_OF.get(name, "back") / WEIGHTS
        if name != "write-jax":
            table[name]["result_gib"] = result.stat().st_size / GIB
    if not options.keep:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(table, indent=2))
        return
    for name, figures in table.items():
        print(f"{name:10s} " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
