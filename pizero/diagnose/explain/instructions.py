"""Whether other instructions than the recorded ones make a policy's answers right."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pizero.data.lerobot import LeRobotDataset
from pizero.diagnose.explain.repairs import Repair
from pizero.diagnose.explain.replay import Change, Errors, Replay
from pizero.diagnose.explain.verdict import Court, Trial

MAX_CANDIDATES = 6


def candidates(dataset: LeRobotDataset, replay: Replay) -> list[str]:
    """Return the instructions that the policy may have been meant to get; none if there is no choice."""
    texts = [*dataset.tasks, replay.policy.contract.instruction]
    found = [text for text in dict.fromkeys(texts) if text.strip()]
    return found if 2 <= len(found) <= MAX_CANDIDATES else []


def try_instructions(court: Court, texts: Sequence[str]) -> Trial:
    """Return what it explains to ask for something else.

    If all samples have the same instruction, each episode gets the one that fits it best; otherwise each
    recorded instruction is taken to have meant the one that fits it best.
    """
    samples = court.replay.samples
    constant = len({sample.observation.instruction for sample in samples}) == 1
    groups: list[Hashable] = [
        sample.episode if constant else sample.observation.instruction for sample in samples
    ]
    if constant:
        repair = Repair(
            culprit="instruction-constant",
            title="all samples have one instruction, though the robot did different things",
            advice="write into each episode what was asked there, and send the operator's words when serving",
            num_fitted=len(set(groups)),
        )
    else:
        repair = Repair(
            culprit="instructions-exchanged",
            title="instructions stand at the wrong episodes",
            advice="check the task of each episode (`task_index`, `meta/tasks`)",
            num_fitted=len(set(groups)),
        )

    def errors_of(count: int) -> Errors:
        answers = [court.replay.act(_asking(text), count=count) for text in texts]
        errors = np.stack([court.ruler.errors(chunks) for chunks in answers])
        return _best_of_groups(errors, groups[: errors.shape[1]])

    return court.try_one(repair, errors_of)


def _best_of_groups(
    errors: Float[np.ndarray, "text sample"], groups: Sequence[Hashable]
) -> Float[np.ndarray, "sample"]:
    best = np.empty(errors.shape[1])
    for group in set(groups):
        members = np.array([other == group for other in groups])
        best[members] = errors[:, members][errors[:, members].mean(axis=1).argmin()]
    return best


def _asking(text: str) -> Change:
    return Change(
        name=f"instruction {text!r}", observe=lambda observation: replace(observation, instruction=text)
    )
