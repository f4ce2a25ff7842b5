"""What a server answered, asked again of the policy in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pizero.policy.policy import Policy
from pizero.progress import counting
from pizero.serving.recording import RecordedPolicy, read_recording
from pizero.weights.folder import MANIFEST, sha256_of

EQUAL = 1e-4
"""Largest difference, in robot units, that batches and processors explain by rounding."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A recorded request: what came of it, and how far off the policy's answer is now, in robot units.

    `difference` is None if the server answered with an error, and infinite if the policy refuses now.
    """

    number: int
    client: str
    outcome: str
    difference: float | None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """All requests of a recording; `same_policy` says whether the policy's files are the recorded ones."""

    policy: RecordedPolicy
    same_policy: bool
    requests: tuple[Replayed, ...]

    @property
    def largest(self) -> float:
        """Return the largest difference of all requests; 0 if there is none to compare."""
        return max((each.difference for each in self.requests if each.difference is not None), default=0.0)


def replay_recording(policy: Policy, files: Path, recording: Path) -> Replay:
    """Ask a policy, whose folder is `files`, all that was recorded, with the noise that was drawn then."""
    recorded, requests = read_recording(recording)
    found = []
    with counting("replaying", sum(1 for _ in recording.glob("*.npz")), "requests") as progress:
        for request in requests:
            difference = None
            if request.actions is not None:
                try:
                    chunk = policy.act(
                        request.observation,
                        continuation=request.continuation,
                        num_steps=request.line.num_steps,
                        noise=request.noise,
                    )
                    difference = float(np.abs(chunk - request.actions).max())
                except ValueError:
                    difference = float("inf")
            line = request.line
            found.append(
                Replayed(number=line.number, client=line.client, outcome=line.outcome, difference=difference)
            )
            progress.advance()
    same = recorded.manifest == sha256_of(files / MANIFEST)
    return Replay(policy=recorded, same_policy=same, requests=tuple(found))
