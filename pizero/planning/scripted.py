"""Instructions that a person wrote down before: one after another, each until something holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pizero.embodiment import Embodiment
from pizero.names import nearest
from pizero.planning.instructions import one_line
from pizero.planning.planner import PlanFailedError, Situation
from pizero.types import Observation

Predicate = Callable[[Observation], bool]
"""Whether something is so in what the robot shows."""


@dataclass(frozen=True, kw_only=True)
class Within:
    """A state dimension, by its name, is between two values in its own unit."""

    dimension: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One instruction, and when the next one follows.

    `until` names a condition that whoever runs the plan provides, `within` says where state dimensions have
    to be; all of it must hold at once. Without either the step lasts `seconds`. With one, `seconds` is the
    longest that it may take: then the plan has failed.
    """

    instruction: str
    seconds: float | None = None
    until: str = ""
    within: tuple[Within, ...] = ()

    def __post_init__(self) -> None:
        one_line(self.instruction)
        if self.seconds is None and not self.until and not self.within:
            raise ValueError(
                f"the step {self.instruction!r} would never end: give it seconds, until or within"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(
                f"expected more than 0 seconds of the step {self.instruction!r}, found {self.seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class ScriptedPlan:
    """The steps of a plan, in their order."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("expected a plan of at least one step, found none")


class ScriptedPlanner:
    """Says what a plan says; implements `Planner`.

    ValueError at once for a condition that is not among `predicates`, or a dimension that the robot's state
    does not have.
    """

    def __init__(
        self,
        plan: ScriptedPlan,
        embodiment: Embodiment,
        *,
        predicates: Mapping[str, Predicate] | None = None,
    ) -> None:
        self.script, self.predicates = plan, dict(predicates or {})
        self.places = {dimension.name: place for place, dimension in enumerate(embodiment.state)}
        for step in plan.steps:
            if step.until and step.until not in self.predicates:
                known = nearest(step.until, self.predicates) if self.predicates else "Known: none here."
                raise ValueError(f"unknown condition {step.until!r}: {known}")
            for limit in step.within:
                if limit.dimension not in self.places:
                    raise ValueError(
                        f"{embodiment.name} has no state dimension {limit.dimension!r}: "
                        f"{nearest(limit.dimension, self.places)}"
                    )
        self.reset()

    def reset(self) -> None:
        """Start with the first step."""
        self.place, self.began = 0, 0.0

    def plan(self, situation: Situation) -> str | None:
        """Return the instruction of the present step; None after the last one."""
        if self.place < len(self.script.steps) and self._over(self.script.steps[self.place], situation):
            self.place, self.began = self.place + 1, situation.seconds
        return self.script.steps[self.place].instruction if self.place < len(self.script.steps) else None

    def _over(self, step: Step, situation: Situation) -> bool:
        late = step.seconds is not None and situation.seconds - self.began >= step.seconds
        if not step.until and not step.within:
            return late
        seen = situation.observation
        if (not step.until or self.predicates[step.until](seen)) and all(
            limit.low <= seen.state[self.places[limit.dimension]] <= limit.high for limit in step.within
        ):
            return True
        if late:
            raise PlanFailedError(f"step {self.place + 1}, {step.instruction!r}, took {step.seconds:g} s")
        return False
