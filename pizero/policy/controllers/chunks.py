"""One chunk after another: look, wait for the chunk, execute the first of its actions, look again."""

from __future__ import annotations

from pizero.policy.controllers.player import Action, Pending, Player
from pizero.types import ActionChunk


class ChunkPlayer(Player):
    """Executes the first `num_executed` actions of each chunk and stands still until the next one is there.

    With all `horizon` actions this is synchronous execution, with fewer a receding horizon.
    """

    def __init__(self, *, horizon: int, num_executed: int) -> None:
        if not 1 <= num_executed <= horizon:
            raise ValueError(
                f"expected to execute 1 to {horizon} actions of a chunk of {horizon}, found {num_executed}"
            )
        self.num_executed = num_executed
        super().__init__(horizon=horizon)

    @property
    def num_planned(self) -> int:
        """Return how many actions are left of the chunk."""
        return len(self.plan)

    def _due(self) -> bool:
        return not self.plan

    def _accept(self, chunk: ActionChunk, pending: Pending, consumed: int) -> None:
        self.plan = list(chunk[: self.num_executed])
        self.source = pending.request.sequence

    def upcoming(self) -> Action | None:
        """Return the next action of the chunk."""
        return self.plan[0] if self.plan else None

    def _next(self) -> tuple[Action, int] | None:
        return (self.plan.pop(0), self.source) if self.plan else None

    def _forget_plan(self) -> None:
        self.plan: list[Action] = []
        self.source = 0
