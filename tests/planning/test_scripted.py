"""A written plan goes on when it should, and one that could not work is refused before anything moves."""

import json
from pathlib import Path

import numpy as np
import pytest

from pizero.planning.planner import PlanFailedError, Situation
from pizero.planning.scripted import ScriptedPlan, ScriptedPlanner, Step, Within
from pizero.records import read_record, write_record
from pizero.robots import NAVIGATION2D
from pizero.types import Observation


def at(seconds: float, x: float = 0.0, y: float = 0.0) -> Situation:
    seen = Observation(images={}, state=np.array([x, y], dtype=np.float32))
    return Situation(goal="both discs", observation=seen, seconds=seconds)


def test_steps_that_last_some_seconds() -> None:
    plan = ScriptedPlan(steps=(Step(instruction="one", seconds=2.0), Step(instruction="two", seconds=1.0)))
    planner = ScriptedPlanner(plan, NAVIGATION2D)
    for _ in range(2):
        planner.reset()
        said = [planner.plan(at(seconds)) for seconds in (0.0, 1.0, 2.0, 2.5, 3.0, 9.0)]
        assert said == ["one", "one", "two", "two", None, None]


def test_steps_until_the_state_is_there() -> None:
    near = Within(dimension="y", low=0.4, high=0.6)
    plan = ScriptedPlan(steps=(Step(instruction="up", within=(near,)), Step(instruction="on", seconds=1.0)))
    planner = ScriptedPlanner(plan, NAVIGATION2D)
    assert planner.plan(at(0.0, x=0.5)) == "up"
    assert planner.plan(at(1.0, y=0.61)) == "up"
    assert planner.plan(at(2.0, y=0.6)) == "on"
    assert planner.plan(at(2.5)) == "on", "a step that is over does not begin again"


def test_steps_until_a_named_condition_and_a_place_hold_at_once() -> None:
    near = Within(dimension="x", low=0.9, high=1.0)
    plan = ScriptedPlan(steps=(Step(instruction="go", until="upper half", within=(near,)),))
    planner = ScriptedPlanner(
        plan, NAVIGATION2D, predicates={"upper half": lambda seen: bool(seen.state[1] > 0.5)}
    )
    assert planner.plan(at(0.0, x=0.95, y=0.0)) == "go"
    assert planner.plan(at(1.0, x=0.0, y=0.8)) == "go"
    assert planner.plan(at(2.0, x=0.95, y=0.8)) is None


def test_a_step_that_takes_too_long_ends_the_plan() -> None:
    plan = ScriptedPlan(steps=(Step(instruction="go", until="there", seconds=3.0),))
    planner = ScriptedPlanner(plan, NAVIGATION2D, predicates={"there": lambda seen: False})
    assert planner.plan(at(2.9)) == "go"
    with pytest.raises(PlanFailedError, match="step 1, 'go', took 3 s"):
        planner.plan(at(3.0))


def test_a_plan_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = ScriptedPlan(
        steps=(Step(instruction="one", within=(Within(dimension="x", low=0.0, high=0.5),), until="success"),)
    )
    write_record(file, plan)
    assert read_record(ScriptedPlan, file) == plan
    for text, complaint in (
        ('{"steps": [{"instruction": "go", "second": 3}]}', "unknown field 'second': did you mean 'seconds'"),
        ('{"steps": [{"instruction": "go"}]}', "would never end"),
        ('{"steps": [{"instruction": " \\n", "seconds": 1}]}', "nothing to read in it"),
        ('{"steps": [{"instruction": "go", "seconds": 0}]}', "more than 0 seconds"),
        ('{"steps": []}', "at least one step"),
        ("steps", "is not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=complaint) as error:
            read_record(ScriptedPlan, file)
        assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ({"until": "succeed"}, "unknown condition 'succeed': did you mean 'success'"),
        ({"within": [{"dimension": "z", "low": 0, "high": 1}]}, "has no state dimension 'z'"),
    ],
)
def test_what_a_robot_cannot_tell_is_refused_at_once(
    tmp_path: Path, step: dict[str, object], complaint: str
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"steps": [{"instruction": "go", **step}]}))
    with pytest.raises(ValueError, match=complaint):
        ScriptedPlanner(
            read_record(ScriptedPlan, file), NAVIGATION2D, predicates={"success": lambda seen: True}
        )
