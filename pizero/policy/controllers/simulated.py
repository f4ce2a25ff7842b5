"""A controller for a simulator, in which time stands still while a policy computes."""

from __future__ import annotations

from collections.abc import Callable

from pizero.embodiment import Embodiment
from pizero.policy.acting import Acting
from pizero.policy.controllers.player import Action, Player, Request
from pizero.policy.hold import hold_command
from pizero.types import ActionChunk, Observation


class SimulatedController:
    """Plays a policy's chunks, each `latency` ticks after its observation; implements `Controller`.

    `num_held` counts the ticks of the episode at which the robot had to stay where it was.
    """

    def __init__(self, player: Player, policy: Acting, embodiment: Embodiment, *, latency: int = 0) -> None:
        if latency < 0:
            raise ValueError(f"expected a latency of 0 or more control periods, found {latency}")
        self.player, self.policy, self.embodiment, self.latency = player, policy, embodiment, latency
        self.reset(seed=0)

    def reset(self, *, seed: int) -> None:
        """Start a new episode, with its own noise."""
        self.policy.reset(seed=seed)
        self.player.reset()
        self.tick = self.num_held = 0
        self.on_the_way: list[tuple[int, int, ActionChunk]] = []
        self.last: Action | None = None
        self.seen: Observation | None = None

    def step(self, observe: Callable[[], Observation]) -> Action:
        """Return the action of this tick."""
        self._deliver()
        request = self.player.request()
        if request is not None:
            self._ask(request, observe())
            self._deliver()
        action = self.player.action()
        self.tick += 1
        if action is None:
            self.num_held += 1
            seen = self.seen or observe()
            action = hold_command(self.embodiment, last=self.last, state=seen.state)
        self.last = action
        return action

    def replan(self) -> None:
        """Drop what is planned, but for what is committed already, and ask again at once."""
        self.player.replan()

    def _ask(self, request: Request, observation: Observation) -> None:
        chunk = (
            self.policy.act(observation)
            if request.continuation is None
            else self.policy.act(observation, continuation=request.continuation)
        )
        self.seen = observation
        self.on_the_way.append((self.tick + self.latency, request.sequence, chunk))

    def _deliver(self) -> None:
        while self.on_the_way and self.on_the_way[0][0] <= self.tick:
            _, sequence, chunk = self.on_the_way.pop(0)
            self.player.answer(sequence, chunk)
