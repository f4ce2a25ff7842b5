"""What may be wrong between a policy and a dataset, each with the change that would undo it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from pizero.contract import Contract, Statistics
from pizero.data.actions import ActionTransform
from pizero.data.conventions import find_convention
from pizero.data.lerobot import LeRobotDataset
from pizero.diagnose.explain.orders import proposed_orders
from pizero.diagnose.explain.replay import AS_RECORDED, Change
from pizero.embodiment import ROTATION_LENGTHS, Dimension, Embodiment
from pizero.types import ActionChunk, Observation

Answer = Callable[[ActionChunk, Observation], ActionChunk]
Numbers = Callable[[np.ndarray], np.ndarray]

ROTATION_KINDS = ("joint", "angle", "axis_angle", "euler_xyz")


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A hypothesis: if `culprit` is true, then changing what goes in and what comes out makes answers right.

    `num_fitted` counts the numbers that the repair takes from the dataset: of two that explain as much, the
    one that had less freedom is to be believed. A repair that `rearranges` only puts what is shown elsewhere:
    it can neither lose anything nor make answers harmless, so that even a small gain gives it away.
    """

    culprit: str
    title: str
    advice: str
    change: Change = AS_RECORDED
    answer: Answer = lambda chunk, observation: chunk
    num_fitted: int = 0
    rearranges: bool = False


def repairs(
    contract: Contract,
    dataset: LeRobotDataset,
    own: Statistics,
    *,
    trained: Contract | None,
    same_robot: bool,
) -> list[Repair]:
    """Return every hypothesis that applies to this robot.

    `own` are the dataset's statistics, `trained` is the contract that the run wrote down, and `same_robot`
    says that the dataset's dimensions have the contract's names.
    """
    return [
        *_contract(contract, trained),
        *_grippers(contract),
        *_units(contract),
        *_forms(contract),
        *_pictures(contract),
        *_orders(contract, dataset, own),
        _statistics(contract, own, same_robot=same_robot),
    ]


def on_state(dimensions: np.ndarray, change: Numbers, name: str) -> Change:
    """Return the change of some numbers of the state; `dimensions` is boolean, one for each."""

    def observe(observation: Observation) -> Observation:
        state = np.where(dimensions, change(observation.state), observation.state)
        return replace(observation, state=state.astype(np.float32))

    return Change(name=name, observe=observe)


def on_actions(dimensions: np.ndarray, change: Numbers) -> Answer:
    """Return the change of some numbers of the actions."""
    return lambda chunk, _: np.where(dimensions, change(chunk), chunk).astype(np.float32)


def _contract(contract: Contract, trained: Contract | None) -> list[Repair]:
    if trained is None or trained == contract or trained.embodiment != contract.embodiment:
        return []
    return [
        Repair(
            culprit="contract-changed",
            title="the policy's contract is not the one that it was trained under",
            advice="serve the policy folder that training wrote, unchanged",
            change=Change(name="the run's contract", observe=AS_RECORDED.observe, contract=trained),
        )
    ]


def _grippers(contract: Contract) -> list[Repair]:
    state = _are(contract.embodiment.state, ("gripper",))
    actions = _are(contract.embodiment.actions, ("gripper",))
    advice = "turn the gripper's numbers round where the robot's are read and written, or in the dataset"
    ways: tuple[tuple[str, str, Numbers, Numbers], ...] = (
        ("gripper-sign", "the sign of the gripper is flipped", np.negative, np.negative),
        ("gripper-inverted", "the gripper is 1 - x: open and closed are exchanged", _one_minus, _one_minus),
        ("gripper-range", "the gripper runs from -1 to 1, expected 0 to 1", _to_unit, _from_unit),
        ("gripper-range", "the gripper runs from 0 to 1, expected -1 to 1", _from_unit, _to_unit),
    )
    found = []
    for code, title, inwards, outwards in ways:
        found += _both_ways(code, title, advice, state, inwards, actions, outwards)
    return found


def _units(contract: Contract) -> list[Repair]:
    state, actions = _are(contract.embodiment.state, ROTATION_KINDS), _turning(contract.embodiment.actions)
    advice = "convert angles where the robot's are read and written, or in the dataset, and train on one unit"
    found = []
    for code, title, inwards, outwards in (
        ("degrees", "angles are in degrees, expected radians", np.radians, np.degrees),
        ("radians", "angles are in radians, expected degrees", np.degrees, np.radians),
    ):
        found += _both_ways(code, title, advice, state, inwards, actions, outwards)
    return found


def _forms(contract: Contract) -> list[Repair]:
    embodiment, convention = contract.embodiment, find_convention(contract.convention)
    found = []

    def through(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Answer:
        def answer(chunk: ActionChunk, observation: Observation) -> ActionChunk:
            state = convention.encode_state(observation.state)
            changed = change(convention.encode_actions(chunk), state)
            return convention.decode_actions(changed).astype(np.float32)

        return answer

    def add(title: str, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        advice = (
            f"the contract says that actions are written as {contract.statistics.action_form!r}: train, "
            f"convert and record with the same form"
        )
        found.append(Repair(culprit="action-form", title=title, advice=advice, answer=through(change)))

    relative = _relative(embodiment, contract.statistics.absolute)
    moving = relative.subtracted | relative.angles
    if moving.any():

        def steps(chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
            base = state[None, relative.partner]
            return np.where(moving, np.diff(chunk, axis=0, prepend=base), chunk)

        def positions(chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
            return np.where(moving, state[relative.partner] + np.cumsum(chunk, axis=0), chunk)

        add("answers are relative to the state and are taken for absolute ones", relative.decode)
        add("answers are absolute, expected relative to the state", relative.encode)
        add("answers are absolute, the dataset's actions are steps from tick to tick", steps)
        add("answers are steps from tick to tick, the dataset's actions are absolute", positions)
    displacement = ActionTransform("displacement", embodiment, contract.statistics.absolute)
    if displacement.summed.any():
        add("answers are displacements and are taken for velocities", displacement.decode)
        add("answers are velocities, expected displacements", displacement.encode)
    return found


def _relative(embodiment: Embodiment, absolute: Sequence[str]) -> ActionTransform:
    """Return the relative form of all actions that may have one: the state has what they set."""
    places = {dimension.name: place for place, dimension in enumerate(embodiment.state)}

    def is_set(place: int, action: Dimension) -> bool:
        partner = places.get(action.name, place)
        return partner < embodiment.state_dim and embodiment.state[partner].kind == action.kind

    kept = {action.name for place, action in enumerate(embodiment.actions) if not is_set(place, action)}
    kept |= {action.name for action in embodiment.actions if action.kind in ("velocity", *ROTATION_LENGTHS)}
    return ActionTransform("relative", embodiment, [*absolute, *sorted(kept - set(absolute))])


def _pictures(contract: Contract) -> list[Repair]:
    names = contract.embodiment.camera_names
    found = []
    for first, second in combinations(names, 2):
        found.append(
            Repair(
                culprit="cameras-swapped",
                title=f"the cameras {first!r} and {second!r} are exchanged",
                advice="give each camera's pictures the name that they had in training",
                change=_on_pictures(f"{first} ↔ {second}", _exchange(first, second)),
                rearranges=True,
            )
        )

    def each(change: Numbers) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        return lambda images: {
            name: np.ascontiguousarray(change(picture)) for name, picture in images.items()
        }

    found.append(
        Repair(
            culprit="colors-swapped",
            title="red and blue are exchanged (BGR, as OpenCV reads)",
            advice="turn pictures into RGB where they are read",
            change=_on_pictures("red ↔ blue", each(lambda picture: picture[..., ::-1])),
            rearranges=True,
        )
    )
    found.append(
        Repair(
            culprit="pictures-turned",
            title="pictures are upside down",
            advice="turn pictures by half a turn where they are read, as they were in training",
            change=_on_pictures("half a turn", each(lambda picture: picture[::-1, ::-1])),
            rearranges=True,
        )
    )
    return found


def _orders(contract: Contract, dataset: LeRobotDataset, own: Statistics) -> list[Repair]:
    state, actions = proposed_orders(contract, dataset, own)
    advice = "bring the dimensions into the contract's order where the robot's are read and written"
    state_change = AS_RECORDED
    found = []

    def answer_in(order: np.ndarray) -> Answer:
        return lambda chunk, _: chunk[:, np.argsort(order)]

    if state is not None:
        state_change = Change(
            name=f"state in the order {state.tolist()}",
            observe=lambda observation: replace(observation, state=observation.state[state]),
        )
        names = ", ".join(dataset.state_names[place] for place in state)
        title = f"the state is in another order, expected {names}"
        found.append(Repair(culprit="state-order", title=title, advice=advice, change=state_change))
    both = state if state is not None and len(state) == contract.embodiment.action_dim else None
    for order in (actions, both):
        if order is None:
            continue
        names = ", ".join(dataset.action_names[place] for place in order)
        title = f"the actions are in another order, expected {names}"
        answer = answer_in(order)
        found.append(Repair(culprit="action-order", title=title, advice=advice, answer=answer))
        if state is not None:
            title = "state and actions are in another order than the contract's"
            found.append(
                Repair(culprit="state-order", title=title, advice=advice, change=state_change, answer=answer)
            )
    return found


def _statistics(contract: Contract, own: Statistics, *, same_robot: bool) -> Repair:
    numbers = 2 * (contract.embodiment.state_dim + contract.embodiment.action_dim)
    change = Change(
        name="the dataset's statistics",
        observe=AS_RECORDED.observe,
        contract=replace(contract, statistics=own),
    )
    if same_robot:
        return Repair(
            culprit="statistics",
            title="the contract's statistics are not those of these data",
            advice="compute them with `pizero stats` on the data that the policy was trained on, and compare",
            change=change,
            num_fitted=numbers,
        )
    return Repair(
        culprit="another-robot",
        title=f"the contract is another robot's ({contract.embodiment.name})",
        advice="serve the policy under the contract of the robot that it was trained for",
        change=change,
        num_fitted=numbers,
    )


def _both_ways(
    code: str,
    title: str,
    advice: str,
    state: np.ndarray,
    inwards: Numbers,
    actions: np.ndarray,
    outwards: Numbers,
) -> list[Repair]:
    """Return the hypotheses that a change concerns the state, the actions, or both."""
    found = []
    change, answer = on_state(state, inwards, f"state: {title}"), on_actions(actions, outwards)
    if actions.any():
        found.append(Repair(culprit=code, title=f"{title} (actions)", advice=advice, answer=answer))
    if state.any():
        found.append(Repair(culprit=code, title=f"{title} (state)", advice=advice, change=change))
    if state.any() and actions.any():
        title = f"{title} (state and actions)"
        found.append(Repair(culprit=code, title=title, advice=advice, change=change, answer=answer))
    return found


def _are(dimensions: tuple[Dimension, ...], kinds: tuple[str, ...]) -> np.ndarray:
    return np.array([dimension.kind in kinds for dimension in dimensions])


def _turning(dimensions: tuple[Dimension, ...]) -> np.ndarray:
    """Return which actions are angles or speeds of turning, and not already shares of something."""
    angles = _are(dimensions, ROTATION_KINDS)
    return angles | np.array([dimension.unit.startswith(("rad", "deg")) for dimension in dimensions])


def _exchange(first: str, second: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    other = {first: second, second: first}
    return lambda images: {other.get(name, name): picture for name, picture in images.items()}


def _on_pictures(name: str, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Change:
    return Change(
        name=name,
        observe=lambda observation: replace(observation, images=change(dict(observation.images))),
    )


def _one_minus(numbers: np.ndarray) -> np.ndarray:
    return 1.0 - numbers


def _to_unit(numbers: np.ndarray) -> np.ndarray:
    return (numbers + 1.0) / 2.0


def _from_unit(numbers: np.ndarray) -> np.ndarray:
    return 2.0 * numbers - 1.0
