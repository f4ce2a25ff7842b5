"""What a controller asks of a policy, wherever the policy runs; nothing here needs torch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pizero.types import ActionChunk, Continuation, Observation


@runtime_checkable
class Acting(Protocol):
    """Something that makes chunks of actions: a policy in this process, or one behind a server."""

    @property
    def horizon(self) -> int:
        """Return how many actions a chunk has."""
        ...

    @property
    def rate(self) -> float:
        """Return the control ticks a second that they are for."""
        ...

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise."""
        ...

    def act(
        self,
        observation: Observation,
        *,
        continuation: Continuation | None = None,
        num_steps: int | None = None,
    ) -> ActionChunk:
        """Return the next `horizon` actions, of which the first is for the instant of the observation.

        With a `continuation` they go on from what is planned; `num_steps` replaces the policy's own number of
        flow steps. ValueError if the observation breaks the contract.
        """
        ...
