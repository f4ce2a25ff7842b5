"""All that a replay measures of a policy, before anyone judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pizero.diagnose.explain.ablations import Ablation, ablate
from pizero.diagnose.explain.answers import DimensionError, dimension_errors
from pizero.diagnose.explain.inputs import Seen, seen
from pizero.diagnose.explain.replay import AS_RECORDED, Chunks, Replay, Ruler
from pizero.diagnose.explain.samples import Sample
from pizero.diagnose.explain.verdict import MATERIAL, Comparison, Trial, compare

MIN_TASK_SAMPLES = 6


@dataclass(frozen=True, kw_only=True)
class TaskError:
    """A task's samples: their error, and that of always answering the mean of the data."""

    task: str
    samples: int
    error: float
    mean_error: float

    @property
    def fails(self) -> bool:
        """Return whether the policy answers this task hardly better than the mean does."""
        return self.samples >= MIN_TASK_SAMPLES and self.error > MATERIAL * self.mean_error


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a replay found; `skill` compares the policy with always answering the mean of the data.

    `predicted` and `mean` are chunks in the dataset's units, for `samples` in order.
    """

    episodes: str
    samples: tuple[Sample, ...]
    predicted: Chunks
    mean: Chunks
    skill: Comparison
    error: float
    dimensions: tuple[DimensionError, ...]
    tasks: tuple[TaskError, ...]
    ablations: tuple[Ablation, ...]
    trials: tuple[Trial, ...]
    seen: tuple[Seen, ...]


def measure_replay(
    replay: Replay, ruler: Ruler, instructions: Sequence[str], trials: Sequence[Trial], episodes: str
) -> Measured:
    """Return everything about the answers; `instructions` are the dataset's, `episodes` says which ones.

    The error that decides is of the average of two answers: a policy that has several good ones is not wrong
    for choosing another than the one recorded.
    """
    samples, policy = replay.samples, replay.policy
    first, second = (replay.act(AS_RECORDED, draw=draw) for draw in (0, 1))
    typical = ruler.errors((first + second) / 2.0)
    mean = ruler.mean()
    mean_errors = ruler.errors(mean)
    texts = [sample.observation.instruction for sample in samples]
    tasks = []
    for task in dict.fromkeys(texts):
        members = np.array([text == task for text in texts])
        tasks.append(
            TaskError(
                task=task,
                samples=int(members.sum()),
                error=float(typical[members].mean()),
                mean_error=float(mean_errors[members].mean()),
            )
        )
    return Measured(
        episodes=episodes,
        samples=samples,
        predicted=first,
        mean=mean,
        skill=compare(mean_errors, typical),
        error=float(ruler.errors(first).mean()),
        dimensions=tuple(dimension_errors(first, mean, samples, policy.contract)),
        tasks=tuple(tasks),
        ablations=tuple(ablate(replay, ruler, instructions)),
        trials=tuple(trials),
        seen=tuple(seen(policy, samples[:3])),
    )
