"""What a report measures of a policy on held-out episodes: its chunks and its velocity field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pizero.data.collate import collate
from pizero.data.dataset import action_windows, frames_of, split_episodes
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.data.processor import Processor
from pizero.models.base import DenoisingModel
from pizero.policy.policy import Policy
from pizero.training.config import TrainConfig
from pizero.types import Batch, Example, Observation

TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A held-out episode's recorded actions, and the chunks that the policy predicts along it."""

    task: str
    recorded: np.ndarray
    predicted: list[tuple[int, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class VelocityError:
    """Mean squared error of the predicted velocity by flow time, and that of always predicting its mean."""

    times: tuple[float, ...]
    errors: tuple[float, ...]
    reference: tuple[float, ...]


def held_out_episodes(config: TrainConfig, dataset: LeRobotDataset) -> list[EpisodeInfo]:
    """Return the episodes that the run with this config never trained on."""
    return split_episodes(dataset, config.held_out, config.seed)[1]


def observation_at(dataset: LeRobotDataset, frame: int) -> Observation:
    """Return what the robot showed at a frame."""
    images = {camera: dataset.images(camera, range(frame, frame + 1))[0] for camera in dataset.camera_names}
    return Observation(images=images, state=dataset.states[frame], instruction=dataset.task_of_frame(frame))


def overlays(policy: Policy, dataset: LeRobotDataset, episodes: list[EpisodeInfo]) -> list[Overlay]:
    """Let the policy predict a chunk every half horizon along one held-out episode of each task."""
    first_of_task = {dataset.task_of_frame(episode.start): episode for episode in reversed(episodes)}
    stride = max(1, policy.contract.horizon // 2)
    found = []
    for task, episode in sorted(first_of_task.items()):
        policy.reset(seed=0)
        steps = range(0, episode.length, stride)
        chunks = [(step, policy.act(observation_at(dataset, episode.start + step))) for step in steps]
        recorded = dataset.actions[episode.start : episode.end]
        found.append(Overlay(task=task, recorded=recorded, predicted=chunks))
    return found


@torch.no_grad()
def velocity_error(policy: Policy, dataset: LeRobotDataset, episodes: list[EpisodeInfo]) -> VelocityError:
    """Measure the velocity field at fixed flow times on held-out frames, with the same noise at each."""
    model = policy.model
    if not isinstance(model, DenoisingModel):
        raise ValueError(f"expected a model that denoises, found {type(model).__name__}")
    frames = frames_of(episodes)
    chosen = np.sort(
        np.random.default_rng(0).choice(frames, size=min(NUM_FRAMES, len(frames)), replace=False)
    )
    batch = _batch(policy.processor, dataset, chosen, policy.device)
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(0)).to(policy.device)
    context = model.observe(batch.inputs)
    velocity = (noise - batch.actions)[batch.valid]
    constant = (velocity - velocity.mean(dim=0)).square().mean().item()
    errors = []
    for time in TIMES:
        moment = torch.full((len(chosen),), time, device=policy.device)
        error = model.prediction_error(context, batch.actions, noise=noise, time=moment)
        errors.append(error[batch.valid].mean().item())
    return VelocityError(times=TIMES, errors=tuple(errors), reference=(constant,) * len(TIMES))


def _batch(processor: Processor, dataset: LeRobotDataset, frames: np.ndarray, device: torch.device) -> Batch:
    actions, valid = action_windows(dataset, frames, processor.contract.horizon)
    examples = [
        Example(observation=observation_at(dataset, int(frame)), actions=actions[row], valid=valid[row])
        for row, frame in enumerate(frames)
    ]
    return collate([processor.encode_example(example) for example in examples], device)
