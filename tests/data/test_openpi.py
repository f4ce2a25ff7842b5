"""What openpi's clients send and its files hold, in our words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.data.openpi import fit_statistics, observation_from_openpi, read_norm_stats
from pizero.robots import CATALOG
from tests.golden_weights import GOLDEN, arrays

TRANSFORMS = "preprocessing/transforms.npz"
CASES = {
    "aloha_adapt0_1cam": "aloha",
    "aloha_adapt0_4cam": "aloha",
    "droid_pi0": "droid",
    "droid_pi05": "droid",
    "droid_pi0_fast": "droid",
    "libero_pi0": "libero",
    "libero_pi05": "libero",
    "libero_pi0_fast": "libero",
}
SLOTS: dict[str, dict[str, str]] = {
    "aloha": {
        "cam_high": "base_0_rgb",
        "cam_left_wrist": "left_wrist_0_rgb",
        "cam_right_wrist": "right_wrist_0_rgb",
    },
    "droid": {"exterior_image_1_left": "base_0_rgb", "wrist_image_left": "left_wrist_0_rgb"},
    "libero": {"image": "base_0_rgb", "wrist_image": "left_wrist_0_rgb"},
}


def request_of(case: str) -> dict[str, Any]:
    """Return the request of a golden case, nested as a client sends it."""
    request: dict[str, Any] = {}
    for name, array in arrays(TRANSFORMS).items():
        key = name.removeprefix(f"{case}/in/")
        if key == name or key == "actions":
            continue
        value = array.item() if array.dtype.kind in "US" else array
        if key.startswith("images/"):
            request.setdefault("images", {})[key.removeprefix("images/")] = value
        else:
            request[key] = value
    return request


@pytest.mark.parametrize("case", CASES)
def test_pictures_state_and_prompt_are_those_that_openpi_makes(case: str) -> None:
    robot, golden = CASES[case], arrays(TRANSFORMS)
    observation = observation_from_openpi(robot, request_of(case))
    np.testing.assert_allclose(observation.state, golden[f"{case}/out/state"], atol=1e-6)
    assert observation.instruction == str(golden[f"{case}/out/prompt"])
    assert observation.state.shape == (CATALOG[robot].state_dim,)
    slots = dict(SLOTS[robot])
    if case == "droid_pi0_fast":
        slots["wrist_image_left"] = "wrist_0_rgb"
    for camera, slot in slots.items():
        valid = bool(golden[f"{case}/out/image_mask/{slot}"])
        if camera in observation.images:
            assert np.array_equal(observation.images[camera], golden[f"{case}/out/image/{slot}"])
            assert valid
        else:
            assert not valid
            assert not golden[f"{case}/out/image/{slot}"].any()
    assert set(observation.images) <= set(CATALOG[robot].camera_names)


@pytest.mark.parametrize(
    ("robot", "change", "message"),
    [
        ("libero", {"observation/state": None}, "'observation/state' is missing"),
        ("libero", {"observation/imag": np.zeros(1)}, "'observation/imag' is unknown.*'observation/image'"),
        ("libero", {"observation/image": np.zeros((4, 4))}, "observation/image: expected a picture"),
        ("droid", {"observation/wrist_image_left": None}, "'observation/wrist_image_left' is missing"),
        ("aloha", {"images": {"cam_low": np.zeros((3, 2, 2), np.uint8)}}, "'images/cam_high' is missing"),
        ("alhoa", {}, "not known for 'alhoa': did you mean 'aloha'"),
    ],
)
def test_another_request_is_refused(robot: str, change: dict[str, Any], message: str) -> None:
    case = next((case for case, of in CASES.items() if of == robot), "libero_pi0")
    request = {**request_of(case), **change}
    with pytest.raises(ValueError, match=message):
        observation_from_openpi(robot, {key: value for key, value in request.items() if value is not None})


def test_statistics_are_read_and_cut_to_the_robot() -> None:
    path = GOLDEN / "policy" / "pi0_aloha" / "norm_stats.json"
    golden = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
    state, actions = read_norm_stats(path)
    assert list(state.mean) == golden["state"]["mean"]
    assert list(actions.q99) == golden["actions"]["q99"]
    assert state.count == 0
    assert state.minimum == ()
    assert fit_statistics(state, 5).std == state.std[:5]
    with pytest.raises(ValueError, match=r"expected statistics of 99 dimensions.*of another robot"):
        fit_statistics(state, 99)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "norm_stats of state and actions"),
        ("[]", "norm_stats of state and actions"),
        ('{"norm_stats": {"state": {}}}', "norm_stats of state and actions"),
        ('{"norm_stats": {"state": {}, "actions": {}}}', "state: expected mean as a list"),
        (
            '{"norm_stats": {"state": {"mean": [0], "std": [1, 2]}, "actions": {}}}',
            "state: expected lists of one length",
        ),
        (
            '{"norm_stats": {"state": {"mean": [NaN], "std": [1]}, "actions": {}}}',
            "state: expected mean as a list of finite numbers",
        ),
    ],
)
def test_statistics_that_are_none_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "norm_stats.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_norm_stats(tmp_path / "norm_stats.json")


def test_quantiles_may_be_absent(tmp_path: Path) -> None:
    entry = {"mean": [0.0], "std": [1.0], "q01": None}
    (tmp_path / "s.json").write_text(json.dumps({"norm_stats": {"actions": entry, "state": entry}}), "utf-8")
    state, _ = read_norm_stats(tmp_path / "s.json")
    assert state.q01 == state.q99 == ()
