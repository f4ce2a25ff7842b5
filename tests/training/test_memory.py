"""Estimates of memory against what updates take, as the allocator and the system see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from pizero.models.build import ModelConfig, build
from pizero.models.pi0 import PI0, Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.models.pi05 import CoTraining, Pi05Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.lora import LoRAConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.nn.vision import ResNetConfig
from pizero.training.config import Execution, TrainConfig
from pizero.training.flops import batch_loss, blank_batch, blank_draws
from pizero.training.freezing import around_adapters
from pizero.training.memory import Ledger, MemoryEstimate, describe, estimate_memory
from pizero.training.optimizer import OptimizerConfig
from pizero.training.ranks import Ranks, join_ranks
from pizero.training.state import make_state
from pizero.training.update import update

HOST = torch.device("cpu")
GEMMA = GemmaConfig(width=128, depth=2, mlp_dim=512, num_heads=4, num_kv_heads=1, head_dim=32)
SIGLIP = SigLIPConfig(width=96, depth=2, mlp_dim=256, num_heads=4, patch_size=14, image_size=56)
RESNET = ResNetConfig(image_size=56, stem_stride=2, widths=(16, 32), blocks=(1, 2), strides=(1, 2))
LORA = LoRAConfig(attention_rank=4, attention_alpha=4.0, feed_forward_rank=4)


def run_of(model: ModelConfig, **other: Any) -> TrainConfig:
    """Return a run of two cameras."""
    sizes: dict[str, Any] = {"image_size": 56, "max_tokens": 24, "width": 32, "num_slots": 2} | other
    return TrainConfig(
        model=model, embodiments=("metaworld",), optimizer=OptimizerConfig(), num_steps=10, **sizes
    )


def backbone(vision: SigLIPConfig | ResNetConfig = SIGLIP, language: GemmaConfig = GEMMA) -> PaliGemmaConfig:
    return PaliGemmaConfig(vision=vision, language=language, vocab_size=1024)


def pi0(vision: SigLIPConfig | ResNetConfig = SIGLIP, gemma: GemmaConfig = GEMMA) -> Pi0Config:
    return Pi0Config(
        backbone=backbone(vision, gemma), expert=gemma, horizon=10, num_draws=2, compute_dtype="bfloat16"
    )


def with_adapters() -> TrainConfig:
    """Return a run like openpi's with adapters: frozen weights in bfloat16, no moving average."""
    model = pi0(gemma=replace(GEMMA, lora=LORA))
    return run_of(model, frozen=around_adapters(model), frozen_dtype="bfloat16", ema_decay=None)


PI05_SMALL = Pi05Config(backbone=backbone(), expert=replace(GEMMA, conditioned=True), horizon=10)
CO_TRAINED = replace(PI05_SMALL, co_training=CoTraining())
FAST_SMALL = Pi0FASTConfig(backbone=backbone(), horizon=10, compute_dtype="bfloat16")


class Allocations:
    """What the allocator of this machine gave and took back while this was open, as its profiler saw it."""

    end = peak = 0

    def __enter__(self) -> Allocations:
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.profile.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.profile.__exit__(*exception)
        assert self.profile.profiler is not None
        events: Any = self.profile.profiler.kineto_results
        sizes = [
            (event.start_ns(), event.nbytes()) for event in events.events() if event.name() == "[memory]"
        ]
        for _, size in sorted(sizes):
            self.end += size
            self.peak = max(self.peak, self.end)


def measure(config: TrainConfig, rows: int, execution: Execution) -> MemoryEstimate:
    """Make two updates, and return what the second took; `weights` are all that lasts."""
    config = replace(config, batch_size=rows * execution.micro_batches)

    def step(number: int) -> None:
        batch = blank_batch(config, config.batch_size, HOST)
        update(state, batch, config, step=number, execution=execution, ranks=Ranks())

    with Allocations() as lasting:
        state = make_state(config, execution=execution, start=None)
        step(0)
        state.optimizer.zero_grad()
    with Allocations() as second:
        step(1)
    state.optimizer.zero_grad()
    with Allocations() as forward:
        batch, draws = blank_batch(config, rows, HOST), blank_draws(state.model, rows, HOST)
        loss = batch_loss(state.model, config, batch, draws)
    del loss
    return MemoryEstimate(
        weights=lasting.end,
        gradients=second.end,
        optimizer=0,
        average=0,
        activations=forward.end,
        peak=lasting.end + second.peak,
    )


def compare(config: TrainConfig, rows: int, execution: Execution) -> None:
    estimate = estimate_memory(
        config, rows=rows, micro_batches=execution.micro_batches, recompute=execution.recompute
    )
    found = measure(config, rows, execution)
    assert estimate.weights + estimate.optimizer + estimate.average == pytest.approx(found.weights, rel=0.01)
    assert estimate.gradients == pytest.approx(found.gradients, rel=0.01)
    assert estimate.activations == pytest.approx(found.activations, rel=0.05)
    assert estimate.peak == pytest.approx(found.peak, rel=0.02)


CASES: dict[str, tuple[Callable[[], TrainConfig], Execution]] = {
    "siglip": (lambda: run_of(pi0()), Execution()),
    "resnet, layers again": (lambda: run_of(pi0(RESNET)), Execution(recompute="layers")),
    "π0-FAST": (lambda: run_of(FAST_SMALL), Execution()),
}
MORE_CASES: dict[str, tuple[Callable[[], TrainConfig], Execution]] = {
    "adapters": (with_adapters, Execution()),
    "pieces": (lambda: run_of(pi0()), Execution(micro_batches=3)),
    "float32": (lambda: run_of(replace(pi0(), compute_dtype="float32")), Execution()),
    "siglip, layers again": (lambda: run_of(pi0()), Execution(recompute="layers")),
    "siglip, cheap again": (lambda: run_of(pi0()), Execution(recompute="cheap")),
    "resnet": (lambda: run_of(pi0(RESNET)), Execution()),
    "resnet, cheap again": (lambda: run_of(pi0(RESNET)), Execution(recompute="cheap")),
    "π0.5": (lambda: run_of(PI05_SMALL), Execution()),
    "π0.5, co-trained": (lambda: run_of(CO_TRAINED), Execution()),
    "adapters, layers again": (with_adapters, Execution(recompute="layers")),
    "adapters, cheap again": (with_adapters, Execution(recompute="cheap")),
    "π0-FAST, layers again": (lambda: run_of(FAST_SMALL), Execution(recompute="layers")),
}


@pytest.mark.parametrize("name", CASES)
def test_an_update_takes_what_was_estimated(name: str) -> None:
    make, execution = CASES[name]
    compare(make(), 4, execution)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_CASES)
def test_an_update_of_any_kind_takes_what_was_estimated(name: str) -> None:
    make, execution = MORE_CASES[name]
    compare(make(), 8, execution)


def test_a_ledger_counts_storages_not_tensors() -> None:
    with FakeTensorMode():
        given = torch.zeros(1000)
        with Ledger() as ledger:
            given.add_(1.0)
            assert ledger.live == 0  # it was there before
            made = given * 2.0
            view, same = made[:10], made.add_(1.0)
            assert ledger.live == 4000
            other = made.double()
            assert (ledger.live, ledger.peak) == (12_000, 12_000)
            del made, same
            assert ledger.live == 12_000  # the view still holds it
            del view
            assert (ledger.live, ledger.peak) == (8000, 12_000)
            ledger.hold(other.untyped_storage(), 100)
            assert ledger.live == 100
            del other
            assert ledger.live == 0


def test_a_share_is_what_torch_cuts_off() -> None:
    config = run_of(pi0())
    estimate = estimate_memory(config, rows=1, shards=3)
    cut = sum(parameter.detach().chunk(3)[0].nbytes for parameter in build(config.model).parameters())
    assert estimate.weights == estimate.average == cut
    steps = 4 * sum(1 for _ in build(config.model).parameters())
    idle = estimate.weights - estimate.gradients  # of the last layer, the expert reads keys and values alone
    assert 0 < idle < 0.2 * cut
    assert 2 * estimate.gradients < estimate.optimizer < 2 * estimate.gradients + steps


def test_a_table_names_what_is_held() -> None:
    estimate = MemoryEstimate(
        weights=1, gradients=2_000_000, optimizer=3, average=4, activations=5_600_000_000, peak=7_000_000_000
    )
    rows = dict(describe(estimate))
    assert rows["gradients"] == "0.002 GB"
    assert rows["activations at the end of the forward pass"] == "5.600 GB"
    assert list(rows)[-1] == "peak"
    assert rows["peak"] == "7.000 GB"


@pytest.mark.slow
def test_the_published_model_needs_what_its_size_says() -> None:
    config = run_of(PI0, image_size=224, max_tokens=48, num_slots=3)
    estimate = estimate_memory(config, rows=1)
    unused = 2 * 2048 * 2048 + 3 * 2048 * 16_384 + 2 * 2048  # of the last layer, and the norm after it
    assert estimate.weights == estimate.average == 4 * 3_238_048_528
    assert estimate.gradients == 4 * (3_238_048_528 - unused)
    assert estimate.optimizer == pytest.approx(2 * estimate.gradients, rel=1e-6)


SHARDED = GemmaConfig(width=512, depth=6, mlp_dim=2048, num_heads=8, num_kv_heads=1, head_dim=64)


@pytest.mark.slow
@pytest.mark.parametrize(("recompute", "gather"), [("layers", "float32"), ("nothing", "bfloat16")])
def test_two_processes_that_share_a_model_take_what_was_estimated(recompute: str, gather: str) -> None:
    execution: dict[str, Any] = {"recompute": recompute, "gather": gather}
    estimate = estimate_memory(run_of(pi0(gemma=SHARDED)), rows=2, shards=2, **execution)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [*program, "-m", "tests.training.test_memory", json.dumps(execution)],
        cwd=Path(__file__).parents[2],
        env=os.environ | given_back | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    (found,) = (int(line) for line in done.stdout.splitlines() if line.isdigit())
    assert 0.85 * found < estimate.peak < 1.02 * found  # the system counts what libraries keep, too


def print_resident(execution: Execution) -> None:
    """Make updates on several processes; the first prints the most memory that it had of the system."""
    with join_ranks(timeout=60.0) as ranks:

        def updates(config: TrainConfig) -> None:
            config = replace(config, batch_size=2 * ranks.world_size)
            state = make_state(config, execution=execution, ranks=ranks, start=None)
            for step in range(3):
                batch = blank_batch(config, 2, HOST)
                update(state, batch, config, step=step, execution=execution, ranks=ranks)
                if step == 0:
                    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far

        updates(run_of(pi0()))  # loads what libraries load once
        before = resident("VmRSS")
        updates(run_of(pi0(gemma=SHARDED)))
        if ranks.is_first:
            sys.stdout.write(f"{resident('VmHWM') - before}\n")


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    print_resident(Execution(**json.loads(sys.argv[1])))
