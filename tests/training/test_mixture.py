"""Several datasets and robots in one run: padding, masks, shares, and a policy for each robot."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.frames import DecodedFrames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Samples, Source
from pizero.embodiment import Camera, Dimension, Embodiment
from pizero.models.base import DenoisingModel
from pizero.models.build import build
from pizero.models.pi0 import Pi0Config
from pizero.policy.policy import Policy
from pizero.records import write_record
from pizero.robots import NAVIGATION2D
from pizero.training.config import TrainConfig
from pizero.training.loop import train
from pizero.training.sources import open_sources, robot_of
from pizero.types import Observation
from pizero.weights.folder import read_policy
from tests.data.test_lerobot import write_dataset
from tests.small import demonstrate, small_config

WIDE = Embodiment(
    name="wide",
    state=tuple(
        Dimension(name=f"s{index}", unit="m", kind="position", low=-9.0, high=9.0) for index in range(3)
    ),
    actions=tuple(
        Dimension(name=f"a{index}", unit="m/s", kind="velocity", low=-9.0, high=9.0) for index in range(4)
    ),
    cameras=(Camera(name="left", height=64, width=96), Camera(name="right", height=64, width=96)),
    rate=20.0,
)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("mixture") / "narrow", num_episodes=8)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return LeRobotDataset.open(write_dataset(tmp_path_factory.mktemp("mixture") / "wide", robot=WIDE))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = tmp_path_factory.mktemp("robot") / "wide.json"
    write_record(path, WIDE)
    base = small_config(num_steps=6)
    assert isinstance(base.model, Pi0Config)
    return replace(
        base,
        model=replace(base.model, state_dim=4, action_dim=4),
        embodiments=(NAVIGATION2D.name, str(path)),
        width=4,
        num_slots=2,
        weights=(3.0, 1.0),
        batch_size=8,
        held_out=0.3,
        validate_every=3,
    )


def sources_of(config: TrainConfig, datasets: list[LeRobotDataset], folder: Path) -> tuple[Source, ...]:
    return open_sources(config, datasets, tokenizers=folder / "tokenizers")


def test_samples_of_both_robots_fit_one_batch(
    config: TrainConfig, narrow: LeRobotDataset, wide: LeRobotDataset, tmp_path: Path
) -> None:
    samples = Samples(sources_of(config, [narrow, wide], tmp_path))
    batch = samples.prepare(np.array([0, 1]), np.array([2, 2])).batch
    assert batch.inputs.images.shape == (2, 2, 3, 32, 32)
    assert batch.inputs.camera_valid.tolist() == [[True, False], [True, True]]
    assert batch.real.tolist() == [[True, True, False, False], [True] * 4]
    assert not batch.actions[0, :, 2:].any()
    assert not batch.inputs.state[0, 2:].any()
    assert not batch.inputs.state[1, 3:].any()
    assert batch.inputs.state[1, 2] != 0


def test_each_robot_is_normalised_by_its_own_data(
    config: TrainConfig, narrow: LeRobotDataset, wide: LeRobotDataset, tmp_path: Path
) -> None:
    one, other = sources_of(config, [narrow, wide], tmp_path)
    np.testing.assert_allclose(one.contract.statistics.state.mean, narrow.states.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(other.contract.statistics.state.mean, wide.states.mean(axis=0), rtol=1e-5)
    assert (one.contract.embodiment.rate, other.contract.embodiment.rate) == (10.0, 20.0)


def test_two_datasets_of_one_robot_share_their_statistics(narrow: LeRobotDataset, tmp_path: Path) -> None:
    more = demonstrate(tmp_path / "more", num_episodes=3, seed=7)
    config = small_config(num_steps=1)
    one, other = sources_of(config, [narrow, more], tmp_path)
    assert one.contract == other.contract
    together = np.concatenate([narrow.states, more.states]).astype(np.float64)
    np.testing.assert_allclose(one.contract.statistics.state.mean, together.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(
        one.contract.statistics.state.q99, np.quantile(together, 0.99, axis=0), rtol=1e-9
    )


def test_a_run_gives_a_policy_for_each_robot_and_says_what_it_read(
    config: TrainConfig, narrow: LeRobotDataset, wide: LeRobotDataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    policies = train(config, sources_of(config, [narrow, wide], run), run)
    assert [path.relative_to(run).as_posix() for path in policies] == [
        "policies/navigation2d",
        "policies/wide",
    ]
    rows = json.loads((run / "samples.json").read_text())
    assert rows[0]["samples"] > rows[1]["samples"] > 0
    assert sum(row["samples"] for row in rows) == 6 * 8
    assert [row["robot"] for row in rows] == ["navigation2d", "wide"]
    validation = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert {"action_error_0", "action_error_1"} <= set(validation[-1])
    for path, dim in zip(policies, (2, 4), strict=True):
        policy = Policy.load(path)
        embodiment = policy.contract.embodiment
        images = {
            camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in embodiment.cameras
        }
        observation = Observation(
            images=images, state=np.zeros(embodiment.state_dim, np.float32), instruction="go"
        )
        assert policy.act(observation).shape == (4, dim)
    one, other = (read_policy(path).tensors for path in policies)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert train(config, sources_of(config, [narrow, wide], run), run) == policies


def test_masked_dimensions_do_not_count(config: TrainConfig) -> None:
    """The masked loss is that of the real dimensions alone, whatever stands in the others."""
    model = build(config.model)
    assert isinstance(model, DenoisingModel)
    actions = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, True, False, False], [True, True, True, True]])
    error = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))

    class Fixed(type(model)):  # type: ignore[misc]
        def observe(self, inputs: object) -> object:
            return None

        def denoise(self, context: object, noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return noisy - noisy + self.prediction

    fixed = Fixed(config.model)
    fixed.prediction = error
    noise, time = torch.zeros(2, 4, 4), torch.full((2,), 0.5)
    masked = fixed.prediction_error(None, actions, noise=noise, time=time, real=real)
    squared = (error - (noise - actions)).square()
    torch.testing.assert_close(masked[0], squared[0, :, :2].mean(dim=-1))
    torch.testing.assert_close(masked[1], squared[1].mean(dim=-1))
    counted = fixed.prediction_error(None, actions, noise=noise, time=time)
    torch.testing.assert_close(counted, squared.mean(dim=-1))


def test_a_dataset_of_no_robot_of_the_recipe_is_refused(
    config: TrainConfig, narrow: LeRobotDataset, wide: LeRobotDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="was not made by the robot 'navigation2d': expected states"):
        robot_of(wide, [NAVIGATION2D])
    with pytest.raises(ValueError, match="a dataset of each robot of the recipe, found none of wide"):
        sources_of(config, [narrow], tmp_path)


def test_datasets_of_one_robot_with_other_contracts_are_refused(
    narrow: LeRobotDataset, tmp_path: Path
) -> None:
    config = small_config(num_steps=1)
    (source,) = sources_of(config, [narrow], tmp_path)
    other = replace(source, contract=replace(source.contract, epsilon=1e-3))
    with pytest.raises(ValueError, match=r"'navigation2d' have different contracts: epsilon"):
        train(config, [source, other], tmp_path / "run")


def test_pictures_of_cameras_that_the_robot_lacks_are_not_decoded(
    wide: LeRobotDataset, tmp_path: Path
) -> None:
    one_eyed = replace(WIDE, name="one_eyed", cameras=WIDE.cameras[:1])
    path = tmp_path / "one_eyed.json"
    write_record(path, one_eyed)
    config = replace(small_config(num_steps=1), embodiments=(str(path),))
    (source,) = sources_of(config, [wide], tmp_path)
    assert isinstance(source.frames, DecodedFrames)
    assert set(source.frames.images) == {"left"}
