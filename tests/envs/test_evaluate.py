"""An evaluation can be stopped and resumed, does not depend on its workers, and belongs to one policy."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pizero.contract import Contract, FieldStatistics, Statistics
from pizero.data.video import decode_video
from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.evaluate import EvaluateConfig, evaluate
from pizero.models.build import build
from pizero.models.pi0 import Pi0Config
from pizero.recipes import metaworld
from pizero.records import from_data, to_data
from pizero.results import EpisodeResult
from pizero.robots import METAWORLD
from pizero.weights.folder import write_policy

pytestmark = pytest.mark.sim

CONFIG = EvaluateConfig(tasks=("reach",), episodes_per_task=6, max_steps=12, num_executed=5)


def untrained_policy(folder: Path, seed: int) -> Path:
    recipe = metaworld(precision="float32")
    data = to_data(recipe.model)
    config = from_data(Pi0Config, data | {"num_draws": 1})
    plain = FieldStatistics(
        mean=(0.0,) * 4,
        std=(0.5,) * 4,
        minimum=(-1.0,) * 4,
        maximum=(1.0,) * 4,
        q01=(-1.0,) * 4,
        q99=(1.0,) * 4,
        count=9,
    )
    contract = Contract(
        embodiment=METAWORLD,
        image_size=recipe.image_size,
        max_tokens=recipe.max_tokens,
        horizon=config.horizon,
        normalization="zscore",
        statistics=Statistics(state=plain, actions=plain),
    )
    write_policy(folder, config=config, contract=contract, tensors=build(config, seed).state_dict())
    return folder


def but_for_time(results: list[EpisodeResult]) -> list[dict[str, object]]:
    return [asdict(result) | {"seconds": 0.0} for result in results]


def test_stopped_with_other_workers_and_resumed_the_results_are_the_same(tmp_path: Path) -> None:
    policy = untrained_policy(tmp_path / "policy", seed=0)
    whole = evaluate(CONFIG, policy, tmp_path / "whole", num_workers=2)
    assert [result.index for result in whole] == list(range(6))
    assert all(result.seed >= DEMONSTRATION_SEEDS for result in whole)
    frames = list(decode_video(tmp_path / "whole" / "videos" / "reach-000.mp4"))
    assert len(frames) == whole[0].steps + 1

    log = tmp_path / "whole" / "episodes.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]) + lines[2][:20])
    again = evaluate(CONFIG, policy, tmp_path / "whole", num_workers=1)
    assert but_for_time(again) == but_for_time(whole)
    assert len([json.loads(line) for line in log.read_text().splitlines()]) == 6

    other = untrained_policy(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"evaluation of another policy or config .*Nothing was changed"):
        evaluate(CONFIG, other, tmp_path / "whole", num_workers=1)


def test_executing_more_than_a_chunk_is_refused(tmp_path: Path) -> None:
    policy = untrained_policy(tmp_path / "policy", seed=0)
    with pytest.raises(ValueError, match="expected to execute 1 to 10 actions of a chunk of 10, found 11"):
        evaluate(EvaluateConfig(tasks=("reach",), num_executed=11), policy, tmp_path / "e", num_workers=1)
    assert not (tmp_path / "e").exists()


def test_a_latency_that_chunks_cannot_bear_is_refused_before_anything_moves(tmp_path: Path) -> None:
    policy = untrained_policy(tmp_path / "policy", seed=0)
    config = EvaluateConfig(tasks=("reach",), controller="guided", latency=6)
    with pytest.raises(ValueError, match=r"found 6 ≤ 6 ≤ 4\. Delays of up to 5 can be spliced"):
        evaluate(config, policy, tmp_path / "e", num_workers=1)
    assert not (tmp_path / "e").exists()


def test_waiting_for_the_policy_is_counted(tmp_path: Path) -> None:
    """Three steps of waiting before each chunk of five: 12 steps are 3 + 5 + 3 + 1."""
    policy = untrained_policy(tmp_path / "policy", seed=0)
    config = EvaluateConfig(tasks=("reach",), episodes_per_task=1, max_steps=12, num_videos=0, latency=3)
    (result,) = evaluate(config, policy, tmp_path / "e", num_workers=1)
    assert result.held == 6
    assert result.roughness is not None
    assert result.roughness > 0
