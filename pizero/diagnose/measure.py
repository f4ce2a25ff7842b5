"""What a report measures of a run's policies on held-out episodes: their chunks and their velocity fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pizero.data.collate import collate
from pizero.data.dataset import action_windows, frames_of, split_episodes, used_cameras
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.data.questions import QUESTIONS
from pizero.diagnose.run import Run, find_data
from pizero.generative.flow import FlowMatching
from pizero.models.base import DenoisingModel
from pizero.policy.policy import Policy
from pizero.training.validation import prompts_of
from pizero.types import Batch, Example, Observation

TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_FRAMES = 64

MAX_OVERLAYS = 8
"""Of a dataset with more tasks, the first ones' chunks are shown."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A held-out episode's recorded actions, and the chunks that the policy predicts along it.

    `refused` says why the policy gave no actions, where it gave none.
    """

    task: str
    recorded: np.ndarray
    predicted: list[tuple[int, np.ndarray]]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VelocityError:
    """Mean squared error of the predicted velocity by flow time, and that of always predicting its mean."""

    times: tuple[float, ...]
    errors: tuple[float, ...]
    reference: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset of a run: what the run noted of it, where it is now, and its held-out episodes.

    Without a `dataset` nothing can be measured on it; `problem` says why, but for questions about pictures,
    on which a policy does not act.
    """

    named: str
    robot: str
    dataset: LeRobotDataset | None = None
    held_out: tuple[EpisodeInfo, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a policy does on the held-out episodes of a dataset; a model without a flow has no velocity."""

    robot: str
    dataset: str
    action_names: tuple[str, ...]
    num_tasks: int
    velocity_error: VelocityError | None
    overlays: list[Overlay]


def open_data(run: Run) -> list[Data]:
    """Return the datasets of a run as they are found now."""
    return [
        _open(run, row["dataset"], str(row.get("robot", "")), row.get("training_frames"))
        for row in run.samples
    ]


def _open(run: Run, named: str, robot: str, training_frames: int | None) -> Data:
    path = find_data(named, run.folder)
    if path is None:
        return Data(named=named, robot=robot, problem="is not there any more")
    if (path / QUESTIONS).is_file():
        return Data(named=named, robot=robot)
    try:
        dataset = LeRobotDataset.open(path)
        train, held_out = split_episodes(dataset, run.config.held_out, run.config.seed)
    except (ValueError, OSError) as error:
        return Data(named=named, robot=robot, problem=f"cannot be read: {error}")
    if training_frames is not None and training_frames != len(frames_of(train)):
        problem = f"has changed: the run read {training_frames} frames of it, now {len(frames_of(train))}"
        return Data(named=named, robot=robot, problem=problem)
    return Data(named=named, robot=robot, dataset=dataset, held_out=tuple(held_out))


def measure(run: Run, data: Sequence[Data]) -> tuple[list[Measured], list[str]]:
    """Run each policy on the held-out episodes of its robot; also return what could not be done, and why."""
    found, problems = [], []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policies: dict[Path, Policy] = {}
    for part in data:
        folder = run.policies.get(part.robot)
        if folder is None or part.dataset is None or not part.held_out:
            continue
        try:
            if folder not in policies:
                policies = {folder: Policy.load(folder, device=device)}
            measured = _measure(policies[folder], part.dataset, part)
        except (ValueError, OSError, RuntimeError) as error:
            problems.append(f"the policy for {part.robot} could not be run on {part.named}: {error}")
            continue
        found.append(measured)
        problems += [
            f"{overlay.task}: {len(overlay.refused)} of "
            f"{len(overlay.refused) + len(overlay.predicted)} chunks are no actions: {overlay.refused[0]}"
            for overlay in measured.overlays
            if overlay.refused
        ]
    return found, problems


def _measure(policy: Policy, dataset: LeRobotDataset, part: Data) -> Measured:
    model, held_out = policy.model, list(part.held_out)
    flows = isinstance(model, DenoisingModel) and isinstance(model.process, FlowMatching)
    return Measured(
        robot=part.robot,
        dataset=part.named,
        action_names=tuple(dataset.action_names),
        num_tasks=len({dataset.task_of_frame(episode.start) for episode in held_out}),
        velocity_error=velocity_error(policy, dataset, held_out) if flows else None,
        overlays=overlays(policy, dataset, held_out),
    )


def observation_at(dataset: LeRobotDataset, frame: int, cameras: Sequence[str]) -> Observation:
    """Return what the robot showed at a frame, by some of its cameras."""
    images = {camera: dataset.images(camera, range(frame, frame + 1))[0] for camera in cameras}
    return Observation(images=images, state=dataset.states[frame], instruction=dataset.task_of_frame(frame))


def overlays(policy: Policy, dataset: LeRobotDataset, episodes: list[EpisodeInfo]) -> list[Overlay]:
    """Let the policy predict a chunk every half horizon along one held-out episode of each task."""
    first_of_task = {dataset.task_of_frame(episode.start): episode for episode in reversed(episodes)}
    stride = max(1, policy.contract.horizon // 2)
    cameras = used_cameras(dataset, policy.contract.embodiment)
    found = []
    for task, episode in sorted(first_of_task.items())[:MAX_OVERLAYS]:
        policy.reset(seed=0)
        chunks, refused = [], []
        for step in range(0, episode.length, stride):
            observation = observation_at(dataset, episode.start + step, cameras)
            try:
                chunks.append((step, policy.act(observation)))
            except ValueError as error:
                refused.append(str(error))
        recorded = dataset.actions[episode.start : episode.end]
        found.append(Overlay(task=task, recorded=recorded, predicted=chunks, refused=tuple(refused)))
    return found


@torch.no_grad()
def velocity_error(policy: Policy, dataset: LeRobotDataset, episodes: list[EpisodeInfo]) -> VelocityError:
    """Measure the velocity field at fixed flow times on held-out frames, with the same noise at each.

    Errors are over the robot's own action dimensions. ValueError if the model learns no velocity.
    """
    model = policy.model
    if not isinstance(model, DenoisingModel) or not isinstance(model.process, FlowMatching):
        raise ValueError(f"expected a model that learns a flow, found {type(model).__name__}")
    frames = frames_of(episodes)
    chosen = np.sort(
        np.random.default_rng(0).choice(frames, size=min(NUM_FRAMES, len(frames)), replace=False)
    )
    batch = _batch(policy, dataset, chosen)
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(0)).to(policy.device)
    context = model.observe(prompts_of(batch.inputs))
    own = policy.contract.embodiment.action_dim
    velocity = (noise - batch.actions)[batch.valid][:, :own]
    constant = (velocity - velocity.mean(dim=0)).square().mean().item()
    errors = []
    for time in TIMES:
        moment = torch.full((len(chosen),), time, device=policy.device)
        error = model.prediction_error(context, batch.actions, noise=noise, time=moment, real=batch.real)
        errors.append(error[batch.valid].mean().item())
    return VelocityError(times=TIMES, errors=tuple(errors), reference=(constant,) * len(TIMES))


def _batch(policy: Policy, dataset: LeRobotDataset, frames: np.ndarray) -> Batch:
    cameras = used_cameras(dataset, policy.contract.embodiment)
    actions, valid = action_windows(dataset, frames, policy.contract.horizon)
    examples = [
        Example(
            observation=observation_at(dataset, int(frame), cameras), actions=actions[row], valid=valid[row]
        )
        for row, frame in enumerate(frames)
    ]
    return collate([policy.processor.encode_example(example) for example in examples], policy.device)
