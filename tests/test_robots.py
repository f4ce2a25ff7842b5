"""The catalog: every robot is what public sources say, and goes to model units and back."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pizero.contract import ActionForm, Contract, Normalization, Statistics
from pizero.data.processor import Processor
from pizero.data.statistics import field_statistics
from pizero.embodiment import Dimension, DimensionKind, Embodiment
from pizero.records import fingerprint, from_data, to_data, write_record
from pizero.robots import ALOHA, CATALOG, DROID, METAWORLD, find_embodiment
from pizero.types import Example, Observation
from pizero.weights.folder import read_policy
from tests.examples import observation

PUBLISHED = {
    "ur5e": (7, 7, 2, 20.0),
    "dual_ur5e": (14, 14, 3, 20.0),
    "franka": (8, 8, 2, 20.0),
    "aloha": (14, 14, 3, 50.0),
    "arx": (14, 14, 3, 50.0),
    "mobile_aloha": (14, 16, 3, 50.0),
    "mobile_arx": (14, 16, 3, 50.0),
    "mobile_fibocom": (14, 17, 3, 50.0),
    "droid": (8, 8, 2, 15.0),
    "droid_joint_position": (8, 8, 2, 15.0),
    "libero": (8, 7, 2, 20.0),
}
"""Numbers of a state, of an action, cameras and Hz: π0 §V-C, and openpi's `norm_stats.md` for the rates."""

DEGREES = {
    "ur5e": [(-360, 360), (-360, 360), (-180, 180), (-360, 360), (-360, 360), (-360, 360)],
    "aloha": [(-180, 180), (-106, 72), (-101, 92), (-180, 180), (-107, 128), (-180, 180)],
    "droid": [(-166, 166), (-101, 101), (-166, 166), (-176, -4), (-166, 166), (-1, 215), (-166, 166)],
}
"""The joints' ranges as their makers' data sheets print them, in whole degrees."""

HASHES = {
    "metaworld_positions": "bca66357ea7f57d394fc293387af206ba44343f18f4d4300df45ae8118805921",
    "metaworld": "399675c6ad2cd8221e95c17cc6466822d38f3c0690cec75ccad1f3d59f23123e",
    "navigation2d": "b1bec5554acc8525906430e831934a33629c39efa1a5a3ed1c14262a912d5971",
    "aloha": "e51977083a6de8e9e64a7977c2b567a902b6a3314fe1eca8b162df8c0b9002ed",
    "mobile_aloha": "a9734893da79d4cd13b791330f584fddab2048cdd726cf4ed324ac356f5bb0bd",
    "arx": "91aa23ddef83bebba2f928a53c0afacd7b4dd893bd5946658c6b92f814c5def8",
    "mobile_arx": "d0638d8c1511fbd6493178eda680fbcd7d8632b3e639476633c453f0bdd252c0",
    "mobile_fibocom": "78dd8d5094a8914dc8dfe69849ac3783222ed6bd9dccdb7b8fdcb7cf04a820db",
    "ur5e": "a7affaee61df207655b26bd4df5345b87f8c3ec7b2de5587afb61dded0ab360d",
    "dual_ur5e": "a026ae8e7533dad4879c45daaef12568efa3818dbc4c42a847fe5765335e1440",
    "franka": "f66ad6decb0d5fef263fc19fd58907ed7bbbb7f8e61506ccbd69d13f83bc891b",
    "droid": "cce04f74d5548c85c294b7c77f4ffe6751c1e5368388947892d6c7d5018f8f4a",
    "droid_joint_position": "b289e12c7df24d32325304e7ccb46855e4f4202d982340d8b292022e03571840",
    "libero": "76f004f03360ab377076b230fa04b736089a6a573d691bb2196ddbfa7019eee6",
}
"""Written out, because policies carry them: a robot that changes is another contract."""

HORIZON = 5


@pytest.mark.parametrize("name", CATALOG)
def test_a_robot_is_found_and_survives_json(name: str) -> None:
    embodiment = find_embodiment(name)
    assert embodiment.name == name
    again = from_data(Embodiment, json.loads(json.dumps(to_data(embodiment))))
    assert again == embodiment
    assert fingerprint(again) == fingerprint(embodiment)
    assert all(dimension.unit for dimension in (*embodiment.state, *embodiment.actions))
    assert any(camera.required for camera in embodiment.cameras)


def test_hashes_are_these() -> None:
    assert {name: fingerprint(embodiment) for name, embodiment in CATALOG.items()} == HASHES


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_rates_are_the_published_ones(name: str) -> None:
    embodiment = find_embodiment(name)
    found = (embodiment.state_dim, embodiment.action_dim, len(embodiment.cameras), embodiment.rate)
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("name", DEGREES)
def test_joint_limits_are_those_of_the_data_sheet(name: str) -> None:
    joints = [dimension for dimension in find_embodiment(name).state if dimension.kind == "joint"]
    limits = np.degrees([(joint.low, joint.high) for joint in joints])
    np.testing.assert_allclose(limits[: len(DEGREES[name])], DEGREES[name], atol=0.51)


@pytest.mark.parametrize("name", PUBLISHED)
def test_arms_are_in_the_order_of_openpi_s_base_checkpoints(name: str) -> None:
    """Six or seven joints and a gripper for each arm, left first; a base's velocities last."""
    kinds = "".join(dimension.kind[0] for dimension in find_embodiment(name).actions)
    expected = {
        7: "jjjjjjg",
        8: "jjjjjjjg",
        14: "jjjjjjg" * 2,
        16: "jjjjjjg" * 2 + "vv",
        17: "jjjjjjg" * 2 + "vvv",
    }
    increments = {"droid": "vvvvvvvg", "libero": "vvvvvvg"}
    assert kinds == increments.get(name, expected[len(kinds)])


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"droid", "libero"}))
def test_numbers_that_a_relative_action_is_taken_of_mean_the_same(name: str) -> None:
    """Dimension i of an arm's actions is where dimension i of its state is; a base has no state."""
    embodiment = find_embodiment(name)
    assert embodiment.actions[: embodiment.state_dim] == embodiment.state
    rest = embodiment.actions[embodiment.state_dim :]
    assert all(dimension.kind == "velocity" and dimension.name.startswith("base_") for dimension in rest)


@pytest.mark.parametrize("name", ["dual_ur5e", "arx", "aloha"])
def test_both_arms_are_the_same_arm(name: str) -> None:
    state = find_embodiment(name).state
    left, right = state[: len(state) // 2], state[len(state) // 2 :]
    assert all(dimension.name.startswith("left_") for dimension in left)
    assert [replace(one, name=one.name.replace("left", "right", 1)) for one in left] == list(right)


def test_optional_cameras_are_aloha_s_wrists() -> None:
    optional = {
        (name, camera.name)
        for name, embodiment in CATALOG.items()
        for camera in embodiment.cameras
        if not camera.required
    }
    wrists = ("cam_left_wrist", "cam_right_wrist")
    assert optional == {(name, camera) for name in ("aloha", "mobile_aloha") for camera in wrists}


def drawn(dimensions: tuple[Dimension, ...], count: int, seed: int) -> np.ndarray:
    """Return numbers within the limits of a robot, `float32 [count, dimension]`."""
    low, high = np.array([(dimension.low, dimension.high) for dimension in dimensions]).T
    return np.random.default_rng(seed).uniform(low, high, size=(count, len(low))).astype(np.float32)


def statistics_of(embodiment: Embodiment, form: ActionForm) -> Statistics:
    """Return statistics of drawn numbers; what a state does not have, a base's velocities, stays absolute."""
    rest = embodiment.actions[embodiment.state_dim :] if form == "relative" else ()
    return Statistics(
        state=field_statistics(drawn(embodiment.state, 200, seed=1)),
        actions=field_statistics(drawn(embodiment.actions, 200, seed=2)),
        action_form=form,
        absolute=tuple(dimension.name for dimension in rest),
        horizon=HORIZON,
    )


@pytest.mark.parametrize("normalization", get_args(Normalization))
@pytest.mark.parametrize("form", get_args(ActionForm))
@pytest.mark.parametrize("name", CATALOG)
def test_actions_come_back_from_model_units(
    name: str, form: ActionForm, normalization: Normalization
) -> None:
    embodiment = find_embodiment(name)
    contract = Contract(
        embodiment=embodiment,
        image_size=16,
        max_tokens=48,
        horizon=HORIZON,
        width=32,
        normalization=normalization,
        statistics=statistics_of(embodiment, form),
    )
    assert from_data(Contract, json.loads(json.dumps(to_data(contract)))).sha256 == contract.sha256
    processor = Processor(contract)
    state, actions = drawn(embodiment.state, 1, seed=3)[0], drawn(embodiment.actions, HORIZON, seed=4)
    shown: Observation = replace(observation(embodiment), state=state)
    example = Example(observation=shown, actions=actions, valid=np.ones(HORIZON, dtype=bool))
    batch = processor.encode_example(example)
    assert batch.actions.shape == (HORIZON, 32)
    assert len(batch.inputs.images) == len(embodiment.cameras)
    np.testing.assert_allclose(processor.state.decode(batch.inputs.state[: len(state)]), state, atol=1e-5)
    np.testing.assert_allclose(processor.decode(batch.actions, shown), actions, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("drod", "droid"), ("ur5", "ur5e"), ("mobile_alhoa", "mobile_aloha"), ("Aloha", "aloha")],
)
def test_an_unknown_robot_is_refused_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"unknown embodiment '{name}': did you mean '{meant}'.* in .json"):
        find_embodiment(name)


def test_a_robot_of_one_s_own_is_found_by_its_file(tmp_path: Path) -> None:
    own = replace(ALOHA, name="my_arms", rate=30.0)
    write_record(tmp_path / "my_arms.json", own)
    assert find_embodiment(str(tmp_path / "my_arms.json")) == own


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the file .*my_arms\.json, found none"):
        find_embodiment(str(tmp_path / "my_arms.json"))


def test_a_file_may_hold_a_robot_of_the_catalog_but_not_take_its_name(tmp_path: Path) -> None:
    path = tmp_path / "robot.json"
    write_record(path, DROID)
    assert find_embodiment(str(path)) == DROID
    write_record(path, replace(METAWORLD, rate=80.0))
    with pytest.raises(ValueError, match=r"'metaworld' is the name of another robot.*rate: 80\.0 ≠ 20\.0"):
        find_embodiment(str(path))


PAGE = (Path(__file__).parents[1] / "docs" / "adding-a-robot.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_page_on_adding_a_robot_leads_to_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page as it stands, but for the number of steps; the statistics are those of plain numpy."""
    monkeypatch.chdir(tmp_path)
    (described,) = blocks("json")
    Path("my_arm.json").write_text(described, encoding="utf-8")
    program = "\n".join(blocks("python"))
    assert program.count("num_steps=1_200") == 1
    Path("page.py").write_text(program.replace("num_steps=1_200", "num_steps=1"), encoding="utf-8")
    names = runpy.run_path("page.py")
    contract = read_policy(tmp_path / "run" / "policy").contract
    assert contract == names["contract"]
    assert contract.embodiment == find_embodiment("my_arm.json")
    dataset = names["dataset"]
    assert dataset.state_names == ("shoulder", "elbow", "wrist", "gripper")
    gaps = [
        dataset.actions[min(frame + step, episode.end - 1)] - dataset.states[frame]
        for episode in dataset.episodes
        for frame in range(episode.start, episode.end)
        for step in range(min(contract.horizon, episode.end - frame))
    ]
    np.testing.assert_allclose(contract.statistics.actions.std[:3], np.std(gaps, axis=0)[:3], rtol=1e-5)
    np.testing.assert_allclose(contract.statistics.state.mean, dataset.states.mean(axis=0), rtol=1e-5)


def test_the_page_s_mistake_is_told_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (described,), (sentence,) = blocks("json"), blocks("text")
    wrong = described.replace('"low": 0.0, "high": 2.6', '"low": 2.6, "high": 0.0', 1).replace("96", "95", 1)
    Path("my_arm.json").write_text(wrong, encoding="utf-8")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        find_embodiment("my_arm.json")
    assert str(caught.value) == sentence.strip()


def test_the_page_names_every_kind() -> None:
    kinds = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE)))
    assert kinds == list(get_args(DimensionKind))
