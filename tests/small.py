"""A whole small experiment: a 2-D robot, its demonstrations, and a π0 that learns them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pizero.contract import Contract
from pizero.data.frames import DecodedFrames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import robot_layout
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import Episode, partial_folder, robot_episode, write_shard
from pizero.data.loader import Source
from pizero.data.statistics import compute_statistics
from pizero.data.text import ByteTokenizer
from pizero.envs.navigation2d import COLORS, Navigation2D
from pizero.models.pi0 import Pi0Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.vision import ResNetConfig
from pizero.robots import NAVIGATION2D
from pizero.training.config import Execution, TrainConfig
from pizero.training.loop import train
from pizero.training.optimizer import OptimizerConfig

GEMMA = GemmaConfig(width=64, depth=2, mlp_dim=128, num_heads=4, num_kv_heads=1, head_dim=16)


def small_model(*, horizon: int = 4, num_draws: int = 2) -> Pi0Config:
    """Return a π0 of about 0.3 million parameters for the 2-D robot."""
    return Pi0Config(
        backbone=PaliGemmaConfig(
            vision=ResNetConfig(
                image_size=32, stem_stride=2, widths=(16, 32), blocks=(1, 1), strides=(1, 1), num_tokens=4
            ),
            language=GEMMA,
            vocab_size=ByteTokenizer.vocab_size,
        ),
        expert=GEMMA,
        state_dim=NAVIGATION2D.state_dim,
        action_dim=NAVIGATION2D.action_dim,
        horizon=horizon,
        num_draws=num_draws,
    )


def small_config(*, num_steps: int, seed: int = 0) -> TrainConfig:
    """Return a training config that takes about 30 ms a step on one core."""
    return TrainConfig(
        model=small_model(),
        embodiments=(NAVIGATION2D.name,),
        image_size=32,
        max_tokens=24,
        action_form="displacement",
        optimizer=OptimizerConfig(
            peak_rate=3e-3, final_rate=1e-5, warmup_steps=20, decay_steps=num_steps, weight_decay=1e-4
        ),
        num_steps=num_steps,
        batch_size=32,
        ema_decay=0.98,
        held_out=0.1,
        validate_every=1_000,
        seed=seed,
    )


def demonstrate(folder: Path, *, num_episodes: int, seed: int = 0) -> LeRobotDataset:
    """Write a dataset of expert walks to either disc, with noise on what is executed."""
    partial = partial_folder(folder)
    partial.mkdir(parents=True)
    layout = robot_layout(NAVIGATION2D)
    for index in range(num_episodes):
        color = list(COLORS)[index % len(COLORS)]
        write_shard(partial, index, _walk(Navigation2D(color), seed * 100_000 + index), layout)
    merge_shards(partial, folder, layout)
    return LeRobotDataset.open(folder)


def _walk(environment: Navigation2D, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    observation = environment.reset(seed)
    observations, actions = [], []
    for _ in range(environment.max_steps):
        action = environment.expert_action()
        observations.append(observation)
        actions.append(action)
        step = environment.step(action + 0.3 * rng.standard_normal(2).astype(np.float32))
        if step.success and len(actions) >= 6:
            break
        observation = step.observation or environment.observe()
    return robot_episode(
        states=np.stack([seen.state for seen in observations]),
        actions=np.stack(actions),
        images={"top": np.stack([seen.images["top"] for seen in observations])},
        task=environment.instruction,
    )


def small_contract(config: TrainConfig, dataset: LeRobotDataset) -> Contract:
    """Return the contract of a policy for the 2-D robot."""
    return Contract(
        embodiment=NAVIGATION2D,
        image_size=config.image_size,
        max_tokens=config.max_tokens,
        horizon=config.model.horizon,
        normalization=config.normalization,
        statistics=compute_statistics(
            dataset, NAVIGATION2D, action_form=config.action_form, horizon=config.model.horizon
        ),
    )


def small_source(dataset: LeRobotDataset, contract: Contract) -> Source:
    """Return a dataset of the 2-D robot as the training loop reads it."""
    return Source(dataset=dataset, contract=contract, frames=DecodedFrames(dataset, dataset.camera_names))


def small_train(
    config: TrainConfig,
    dataset: LeRobotDataset,
    contract: Contract,
    folder: Path,
    *,
    save_every: int = 1_000,
    **given: Any,
) -> Path:
    """Train on one dataset and return the policy's folder; `given` are fields of the execution."""
    execution = Execution(save_every=save_every, **given)
    (policy,) = train(config, [small_source(dataset, contract)], folder, execution=execution)
    return policy
