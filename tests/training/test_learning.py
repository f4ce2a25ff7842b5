"""The behaviour that everything is for: demonstrations in, a policy that drives a robot out."""

from pathlib import Path

import pytest
import torch

from pizero.data.lerobot import LeRobotDataset
from pizero.envs.navigation2d import COLORS, Navigation2D
from pizero.generative.flow import FlowMatching
from pizero.policy.controllers.chunks import ChunkPlayer
from pizero.policy.controllers.simulated import SimulatedController
from pizero.policy.policy import Policy
from tests.small import demonstrate, small_config, small_contract, small_train

NUM_STEPS = 500
SCENES_PER_COLOR = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("learning") / "dataset", num_episodes=300)


def success_rate(policy: Policy) -> float:
    """Run the policy on scenes that no demonstration shows, on as many for each instruction."""
    solved = 0
    player = ChunkPlayer(horizon=policy.contract.horizon, num_executed=2)
    controller = SimulatedController(player, policy, policy.contract.embodiment)
    for color in COLORS:
        for seed in range(SCENES_PER_COLOR):
            environment = Navigation2D(color)
            environment.reset(10_000_000 + seed)
            controller.reset(seed=seed)
            for _ in range(environment.max_steps):
                if environment.step(controller.step(environment.observe), render=False).success:
                    solved += 1
                    break
    return solved / (len(COLORS) * SCENES_PER_COLOR)


def train_policy(dataset: LeRobotDataset, folder: Path) -> Policy:
    config = small_config(num_steps=NUM_STEPS)
    return Policy.load(small_train(config, dataset, small_contract(config, dataset), folder))


def test_a_policy_learns_to_follow_instructions_in_closed_loop(
    dataset: LeRobotDataset, tmp_path: Path
) -> None:
    assert success_rate(train_policy(dataset, tmp_path / "run")) >= 0.8


def test_a_wrong_loss_is_caught(
    dataset: LeRobotDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the velocity's sign turned round, the loss falls just as well, and the policy solves nothing."""
    right = FlowMatching.corrupt

    def wrong(
        self: FlowMatching, actions: torch.Tensor, **given: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        noisy, velocity = right(self, actions, **given)
        return noisy, -velocity

    monkeypatch.setattr(FlowMatching, "corrupt", wrong)
    assert success_rate(train_policy(dataset, tmp_path / "run")) <= 0.4
