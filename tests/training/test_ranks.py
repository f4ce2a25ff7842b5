"""Two processes train as one does: the same samples, the same noise, nearly the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.testing._internal.distributed.fake_pg import FakeStore

from pizero.data.lerobot import LeRobotDataset
from pizero.models.build import skeleton
from pizero.models.pi0 import PI0
from pizero.nn.gemma import GemmaLayer
from pizero.training.checkpoint import part_name
from pizero.training.loop import InterruptedRunError, train
from pizero.training.ranks import Ranks
from pizero.training.sharding import check_shards, first_row, local, shard
from tests.small import demonstrate, small_config, small_contract, small_source, small_train
from tests.training.on_two_ranks import NUM_STEPS, STOP_AT, adapted, interrupted

ROOT = Path(__file__).parents[2]
CLOSE = 2e-5
"""How far weights of about 0.1 may lie apart after eight steps at a rate of up to 1e-3, by rounding alone."""


def torchrun(module: str, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", module, *arguments),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def one_process(folder: Path, name: str, *, stopped: bool = False) -> None:
    dataset = LeRobotDataset.open(folder / "dataset")
    config = small_config(num_steps=NUM_STEPS)
    contract = small_contract(config, dataset)
    if not stopped:
        small_train(config, dataset, contract, folder / name, save_every=2)
        return
    with interrupted(Ranks(), only=0, step=STOP_AT), pytest.raises(InterruptedRunError):
        small_train(config, dataset, contract, folder / name, save_every=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    demonstrate(folder / "dataset", num_episodes=20)
    one_process(folder, "alone")
    one_process(folder, "begun_by_one", stopped=True)
    ended = torchrun("tests.training.on_two_ranks", str(folder))
    assert ended.returncode == 0, ended.stderr[-3000:]
    one_process(folder, "begun_by_two")
    policy = folder / "alone" / "policy"
    dataset = LeRobotDataset.open(folder / "dataset")
    source = small_source(dataset, small_contract(small_config(num_steps=NUM_STEPS), dataset))
    train(adapted(policy), [source], folder / "adapters_alone", start=policy)
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "policy" / "model.safetensors")


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = {row["step"]: row["loss"] for row in rows}
    assert list(found) == list(range(1, NUM_STEPS + 1))
    return list(found.values())


def test_stopping_two_processes_and_going_on_changes_no_bit(runs: Path) -> None:
    said = [(runs / f"stopped-{rank}.txt").read_text() for rank in (0, 1)]
    assert said == [f"stopped after step {STOP_AT}, which is saved"] * 2, "only process 1 got the signal"
    assert losses(runs / "sharded") == losses(runs / "stopped")
    whole, stopped = weights(runs / "sharded"), weights(runs / "stopped")
    assert all(whole[name].equal(stopped[name]) for name in whole)


@pytest.mark.parametrize("name", ["sharded", "replicated", "pieces", "begun_by_one", "begun_by_two"])
def test_however_a_run_is_divided_it_computes_the_same(runs: Path, name: str) -> None:
    alone, divided = runs / "alone", runs / name
    assert losses(divided) == pytest.approx(losses(alone), rel=1e-4)
    ours, theirs = weights(alone), weights(divided)
    assert ours.keys() == theirs.keys()
    for key, weight in ours.items():
        torch.testing.assert_close(
            theirs[key], weight, atol=CLOSE, rtol=0.0, msg=lambda said, key=key: f"{key}: {said}"
        )
    assert (alone / "samples.json").read_text() == (divided / "samples.json").read_text()
    validation = [
        json.loads((run / "validation.jsonl").read_text())["action_error"] for run in (alone, divided)
    ]
    assert validation[0] == pytest.approx(validation[1], rel=1e-3)


def test_adapters_beside_rounded_weights_are_divided_too(runs: Path) -> None:
    alone, divided, base = (weights(runs / name) for name in ("adapters_alone", "adapters", "alone"))
    assert alone.keys() == divided.keys()
    moved = 0
    for name, weight in alone.items():
        assert weight.dtype == divided[name].dtype
        assert (divided[name] - weight).abs().max() <= CLOSE, name
        moved += name in base and not weight.equal(base[name].to(weight.dtype))
    assert moved > 10, "the image encoder and the projections train"
    assert losses(runs / "adapters") == pytest.approx(losses(runs / "adapters_alone"), rel=1e-4)


def test_a_checkpoint_is_divided_and_says_so(runs: Path) -> None:
    checkpoint = runs / "sharded" / "checkpoints" / f"step-{NUM_STEPS:08d}"
    parts = [load_file(checkpoint / part_name(part, 2)) for part in (0, 1)]
    together = load_file(runs / "replicated" / "checkpoints" / f"step-{NUM_STEPS:08d}" / part_name(0, 1))
    assert parts[0].keys() == parts[1].keys() == together.keys()
    for name, tensor in together.items():
        if tensor.ndim:
            assert torch.cat([part[name] for part in parts]).shape == tensor.shape, name
    sizes = [sum(tensor.numel() for tensor in part.values()) for part in (*parts, together)]
    assert max(sizes[:2]) < 0.55 * sizes[2]


def test_who_ran_a_run_is_written_down(runs: Path) -> None:
    lines = [
        json.loads(line) for line in (runs / "begun_by_one" / "executions.jsonl").read_text().splitlines()
    ]
    assert [(line["step"], line["world_size"]) for line in lines] == [(0, 1), (STOP_AT, 2)]


@pytest.fixture
def eight_ranks() -> Ranks:
    """The first of eight processes, of which the others are imagined: nothing is sent anywhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield Ranks(rank=0, world_size=8)
    dist.destroy_process_group()


@pytest.mark.parametrize(("shards", "expected"), [(8, 8), (4, 4), (1, 1)])
def test_each_process_has_its_share_of_the_full_size_model(
    eight_ranks: Ranks, shards: int, expected: int
) -> None:
    """On a model without memory: no process ever holds it all, and layers are divided one by one."""
    model = skeleton(PI0)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 3_238_048_528
    shard(model, eight_ranks, shards=shards)
    own = sum(local(parameter.detach()).numel() for parameter in model.parameters())
    assert own == pytest.approx(total / expected, rel=1e-3)
    for layer in model.modules():
        if isinstance(layer, GemmaLayer):
            of_layer = [parameter.detach() for parameter in layer.parameters()]
            assert sum(local(each).numel() for each in of_layer) == pytest.approx(
                sum(each.numel() for each in of_layer) / expected, rel=1e-2
            )
            assert all(first_row(each) == 0 for each in of_layer)


def test_shards_divide_the_processes() -> None:
    for shards in (0, 3, 16):
        with pytest.raises(ValueError, match=f"divides the 8 processes, found {shards}"):
            check_shards(shards, Ranks(rank=0, world_size=8))
