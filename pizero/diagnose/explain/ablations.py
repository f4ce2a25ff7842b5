"""What a policy listens to: one input is taken away at a time, and its answers compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pizero.diagnose.explain.replay import AS_RECORDED, Change, Replay, Ruler
from pizero.diagnose.explain.samples import Sample
from pizero.types import Observation

BLANK_PROMPT = "_"
"""A prompt writes an underscore as a blank, and an empty instruction is refused."""

NUM_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """How much answers change without an input, in spreads of the actions (root mean square).

    `noises` is that change divided by the one that other noise makes, None if noise makes none.
    """

    name: str
    change: float
    noises: float | None


def ablate(replay: Replay, ruler: Ruler, tasks: Sequence[str]) -> list[Ablation]:
    """Return what each input does, the strongest first; noise itself is the last.

    Both answers to a sample are made from the same noise. `tasks` are the dataset's instructions.
    """
    base = ruler.write(replay.act(AS_RECORDED, count=NUM_SAMPLES))
    found = {}
    for change in changes(replay.samples, tasks):
        chunks = ruler.write(replay.act(change, count=NUM_SAMPLES))
        found[change.name] = _root(ruler, base, chunks)
    noise = _root(ruler, base, ruler.write(replay.act(AS_RECORDED, count=NUM_SAMPLES, draw=1)))
    ablations = [
        Ablation(name=name, change=change, noises=change / noise if noise > 0.0 else None)
        for name, change in sorted(found.items(), key=lambda item: -item[1])
    ]
    return [*ablations, Ablation(name="other noise", change=noise, noises=None if noise == 0.0 else 1.0)]


def changes(samples: Sequence[Sample], tasks: Sequence[str]) -> list[Change]:
    """Return the ablations: each camera, the state, the instruction blank, and exchanged for another."""
    found = [_without_camera(camera, samples) for camera in samples[0].observation.images]
    mean = np.mean([sample.observation.state for sample in samples], axis=0).astype(np.float32)
    found.append(Change(name="state → mean", observe=lambda observation: replace(observation, state=mean)))
    found.append(
        Change(
            name="instruction → blank",
            observe=lambda observation: replace(observation, instruction=BLANK_PROMPT),
        )
    )
    distinct = list(dict.fromkeys(task for task in tasks if task.strip()))
    if len(distinct) > 1:
        following = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))

        def exchange(observation: Observation) -> Observation:
            other = following.get(observation.instruction, distinct[0])
            return replace(observation, instruction=other)

        found.append(Change(name=OTHER_INSTRUCTION, observe=exchange))
    return found


OTHER_INSTRUCTION = "instruction → another task's"


def _without_camera(camera: str, samples: Sequence[Sample]) -> Change:
    pictures = [sample.observation.images[camera] for sample in samples]
    color = np.mean([picture.mean(axis=(0, 1)) for picture in pictures], axis=0).astype(np.uint8)

    def observe(observation: Observation) -> Observation:
        blank = np.broadcast_to(color, observation.images[camera].shape).copy()
        return replace(observation, images={**observation.images, camera: blank})

    return Change(name=f"camera {camera} → one color", observe=observe)


def _root(ruler: Ruler, ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sqrt(ruler.distance(ours, theirs).mean()))
