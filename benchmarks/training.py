"""How fast a recipe trains on this machine, how much memory it takes, and what each choice costs.

    python -m benchmarks.training                                  # the recipe `metaworld`, batches in memory
    python -m benchmarks.training --recipe metaworld_fast --batch 32
    python -m benchmarks.training --dataset runs/reach/dataset     # and how long training waits for real data
    python -m benchmarks.training --model pi0 --batch 8            # the published size, on a GPU

One model is trained with random weights and random batches; the variants (what the backward pass computes
again, compiled layers, draws of noise for each observation) take turns, round after round, and are compared
within each round. Operations are the model's own, without what is computed again; utilisation is their rate
over that of the fastest square matrix product in the same dtype, measured in the same minute. More draws for
an observation are no more observations: read their rate beside that of samples, never instead.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch.profiler import ProfilerActivity, profile

from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Samples, batches
from pizero.data.sampler import Sampler, mixture_shares
from pizero.models.build import skeleton
from pizero.recipes import find_recipe
from pizero.training.config import Execution, TrainConfig
from pizero.training.flops import blank_batch, count_flops
from pizero.training.memory import estimate_memory, share_of
from pizero.training.ranks import Ranks
from pizero.training.recompute import Recompute, apply_recompute, layers_of
from pizero.training.sources import open_sources
from pizero.training.state import State, prepare_model, state_of
from pizero.training.update import Augmenter, update
from pizero.types import Batch

WARM_UP = 2
"""Updates of each variant that are not timed."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make the same update; `num_draws` 0 is what the recipe says."""

    name: str
    recompute: Recompute = "nothing"
    compiled: bool = False
    num_draws: int = 0


VARIANTS = (
    Variant(name="plain"),
    Variant(name="cheap", recompute="cheap"),
    Variant(name="layers", recompute="layers"),
    Variant(name="compiled", compiled=True),
    *(Variant(name=f"draws-{number}", num_draws=number) for number in (1, 2, 4, 8)),
)


class Trainer:
    """One model in training, that makes updates in any variant."""

    def __init__(self, config: TrainConfig, ranks: Ranks, micro_batches: int) -> None:
        self.config, self.ranks, self.micro_batches = config, ranks, micro_batches
        model = skeleton(config.model)
        prepare_model(model, config, "nothing")
        model.to_empty(device=ranks.device)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.02)
        self.state: State = state_of(model, config)
        self.num_draws = model.num_draws
        self.batch = random_batch(config, ranks.device)
        self.compiled: dict[torch.nn.Module, Any] = {}
        self.step = 0

    def switch(self, variant: Variant) -> None:
        """Let the model make its next updates in another way."""
        model = self.state.model
        for layer in layers_of(model):
            layer.__dict__.pop("forward", None)
            layer._compiled_call_impl = None
        apply_recompute(model, variant.recompute)
        if variant.compiled:
            for layer in layers_of(model):
                if layer not in self.compiled:
                    layer.compile()
                    self.compiled[layer] = layer._compiled_call_impl
                layer._compiled_call_impl = self.compiled[layer]
        model.num_draws = variant.num_draws or self.num_draws

    def update(self, batch: Batch | None = None) -> None:
        """Make one update."""
        figures = update(
            self.state,
            self.batch if batch is None else batch,
            self.config,
            step=self.step,
            execution=Execution(micro_batches=self.micro_batches),
            ranks=self.ranks,
        )
        if not figures.made:
            raise ValueError("expected finite gradients, found others: what is measured is no training")
        self.step += 1

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, number: int) -> float:
        """Return how long an update takes, over `number` of them."""
        self.synchronize()
        began = time.perf_counter()
        for _ in range(number):
            self.update()
        self.synchronize()
        return (time.perf_counter() - began) / number

    def peak_bytes(self) -> int:
        """Return the most memory that an update takes, as the device's allocator sees it."""
        self.state.optimizer.zero_grad()
        if self.ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.update()
            return torch.cuda.max_memory_allocated()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.update()
        assert profiler.profiler is not None
        kineto: Any = profiler.profiler.kineto_results
        events = [event for event in kineto.events() if event.name() == "[memory]"]
        now = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        batch = self.batch.inputs
        held = [batch.images, batch.state, batch.tokens.ids, self.batch.actions]
        return share_of([*self.state.tensors().values(), *held], 1) + peak


def random_batch(config: TrainConfig, device: torch.device) -> Batch:
    """Return a batch of random pictures, numbers and text."""
    blank = blank_batch(config, config.batch_size, device)
    generator = torch.Generator(device).manual_seed(0)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, device=device)

    def whole(like: torch.Tensor, end: int) -> torch.Tensor:
        return torch.randint(0, end, like.shape, generator=generator, device=device, dtype=like.dtype)

    inputs, tokens = blank.inputs, blank.inputs.tokens
    ids = whole(tokens.ids, config.model.backbone.vocab_size)
    inputs = replace(
        inputs,
        images=whole(inputs.images, 256),
        state=normal(inputs.state),
        tokens=replace(tokens, ids=ids),
    )
    return replace(blank, inputs=inputs, actions=normal(blank.actions))


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations a second of the fastest square matrix product."""
    best = 0.0
    for size in (4096, 8192) if device.type == "cuda" else (1024, 2048):
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(5):
            began = time.perf_counter()
            product = one @ other
            for _ in range(3):
                torch.matmul(one, other, out=product)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 4 * 2 * size**3 / (time.perf_counter() - began))
    return best


def measure(trainer: Trainer, variants: list[Variant], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Let variants take turns, and return the figures of each; one that does not fit says so."""
    config, seconds = trainer.config, {variant.name: list[float]() for variant in variants}
    peaks: dict[str, int] = {}
    running = []
    for variant in variants:
        trainer.switch(variant)
        try:
            for _ in range(WARM_UP):
                trainer.update()
            peaks[variant.name] = trainer.peak_bytes()
        except torch.OutOfMemoryError:
            trainer.state.optimizer.zero_grad()
            torch.cuda.empty_cache()
            print(f"{variant.name} does not fit into this device's memory")
        else:
            running.append(variant)
    for number in range(options.rounds):
        start = number % max(len(running), 1)
        for variant in running[start:] + running[:start]:
            trainer.switch(variant)
            trainer.update()  # what the variant before left behind is gone after this one
            seconds[variant.name].append(trainer.seconds(options.steps))
    rate = matmul_rate(getattr(torch, config.model.compute_dtype), trainer.ranks.device)
    return [
        figures_of(variant, config, seconds, peaks[variant.name], rate, trainer.micro_batches)
        for variant in running
    ]


def figures_of(
    variant: Variant,
    config: TrainConfig,
    seconds: dict[str, list[float]],
    peak: int,
    rate: float,
    micro_batches: int,
) -> dict[str, Any]:
    """Return what one variant was like."""
    if variant.num_draws:
        model: Any = config.model
        config = replace(config, model=replace(model, num_draws=variant.num_draws))
    own, plain = seconds[variant.name], seconds.get("plain") or seconds[variant.name]
    step = statistics.median(own)
    flops = count_flops(config).total * config.batch_size
    rows = config.batch_size // micro_batches
    estimate = None
    if not variant.compiled:
        estimated = estimate_memory(
            config, rows=rows, micro_batches=micro_batches, recompute=variant.recompute
        )
        estimate = estimated.peak
    return {
        "variant": variant.name,
        "seconds_of_an_update": step,
        "slowest_and_fastest_round": [max(own), min(own)],
        "samples_per_second": config.batch_size / step,
        "draws_per_second": getattr(config.model, "num_draws", 0) * config.batch_size / step,
        "times_plain": statistics.median(before / now for before, now in zip(plain, own, strict=True)),
        "flops_of_an_update": flops,
        "flops_per_second": flops / step,
        "matmul_flops_per_second": rate,
        "utilisation": flops / step / rate,
        "peak_bytes": peak,
        "estimated_peak_bytes": estimate,
    }


def measure_waiting(trainer: Trainer, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train on a dataset through the loader, and return the share of the time that waits for it."""
    config, ranks = trainer.config, trainer.ranks
    steps = range(options.rounds * options.steps + WARM_UP)
    trainer.switch(VARIANTS[0])
    with tempfile.TemporaryDirectory() as tokenizers:
        sources = open_sources(config, [LeRobotDataset.open(folder)], tokenizers=Path(tokenizers))
        frames = [source.split(0.0, config.seed)[0] for source in sources]
        shares = mixture_shares([len(part) for part in frames])
        sampler = Sampler(frames, shares, batch_size=config.batch_size, seed=config.seed)
        augmenter = Augmenter(config, sources, sampler, ranks)
        samples = Samples(sources, frames)
        stream = batches(samples, sampler, steps=steps, device=ranks.device, num_workers=options.workers)
        waited = worked = 0.0
        before = time.perf_counter()
        for step, batch in zip(steps, stream, strict=True):
            began = time.perf_counter()
            trainer.update(augmenter.prepare(batch, step))
            trainer.synchronize()
            ended = time.perf_counter()
            if step >= WARM_UP:
                waited, worked = waited + began - before, worked + ended - began
            before = ended
    number = (len(steps) - WARM_UP) * config.batch_size
    return {"samples_per_second": number / (waited + worked), "waiting": waited / (waited + worked)}


def config_of(options: argparse.Namespace) -> TrainConfig:
    """Return what is trained: a recipe, or all of a published model over three views."""
    config = find_recipe(options.model or options.recipe)()
    if options.model:
        config = replace(config, embodiments=("metaworld",), num_slots=3)
    changes = {"batch_size": options.batch} if options.batch else {}
    if options.precision:
        changes["model"] = replace(config.model, compute_dtype=options.precision)
    return replace(config, **changes)


def chosen_variants(config: TrainConfig, names: list[str] | None) -> list[Variant]:
    """Return the variants that a model has and this machine can make."""
    chosen = [variant for variant in VARIANTS if names is None or variant.name in names]
    if not hasattr(config.model, "num_draws"):
        chosen = [variant for variant in chosen if not variant.num_draws]
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        print("no variant `compiled`: torch.compile needs a C++ compiler, and there is none here")
        chosen = [variant for variant in chosen if not variant.compiled]
    return chosen


def print_table(found: dict[str, Any]) -> None:
    """Print the figures of all variants as rows."""
    rate = found["variants"][0]["matmul_flops_per_second"] if found["variants"] else 0.0
    print(f"{found['device']}, {found['dtype']}: matrix products at {rate / 1e12:.3f} TFLOP/s")
    print("variant    samples/s  draws/s  × plain  GFLOP/s  utilisation  peak MB  estimated")
    for row in found["variants"]:
        estimated = row["estimated_peak_bytes"]
        print(
            f"{row['variant']:10s} {row['samples_per_second']:9.1f} {row['draws_per_second']:8.1f} "
            f"{row['times_plain']:8.3f} {row['flops_per_second'] / 1e9:8.1f} {row['utilisation']:12.3f} "
            f"{row['peak_bytes'] / 1e6:8.1f} {f'{estimated / 1e6:10.1f}' if estimated else '         -'}"
        )
    if "loader" in found:
        print(
            f"from the dataset: {found['loader']['samples_per_second']:.1f} samples/s, "
            f"{found['loader']['waiting']:.1%} of the time waits for data"
        )


def main() -> None:
    """Measure, print, and write the figures if asked."""
    parser = argparse.ArgumentParser(description="How fast a recipe trains on this machine.")
    parser.add_argument("--recipe", default="metaworld")
    parser.add_argument("--model", choices=("pi0", "pi05", "pi0_fast"), help="a published size, all trained")
    parser.add_argument("--dataset", type=Path, help="also train from this dataset, through the loader")
    parser.add_argument("--workers", type=int, default=0, help="processes of that loader; 0 is a thread")
    parser.add_argument("--batch", type=int, help="samples of an update, instead of the recipe's")
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--variants", nargs="+", choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="updates of each variant in a round")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--output", type=Path, help="write the figures into this JSON file")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    on_gpu = torch.cuda.is_available()
    ranks = Ranks(device=torch.device("cuda" if on_gpu else "cpu"))
    config = config_of(options)
    trainer = Trainer(config, ranks, options.micro_batches)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "recipe": options.model or options.recipe,
        "dtype": config.model.compute_dtype,
        "parameters": sum(parameter.numel() for parameter in trainer.state.model.parameters()),
        "batch": config.batch_size,
        "variants": measure(trainer, chosen_variants(config, options.variants), options),
    }
    if options.dataset is not None:
        found["loader"] = measure_waiting(trainer, options.dataset, options)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print_table(found)


if __name__ == "__main__":
    main()
