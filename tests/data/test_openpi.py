"""What openpi's clients send and its files hold, in our words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.data.conventions import find_convention
from pizero.data.openpi import fit_statistics, observation_from_openpi, read_norm_stats
from pizero.robots import CATALOG
from tests.golden_weights import GOLDEN, arrays

TRANSFORMS = "preprocessing/transforms.npz"
CASES = {
    "aloha_adapt0_1cam": "aloha",
    "aloha_adapt0_4cam": "aloha",
    "aloha_adapt1_1cam": "aloha",
    "aloha_adapt1_4cam": "aloha",
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
    convention = find_convention("aloha" if "adapt1" in case else "native")
    state = convention.encode_state(observation.state)
    np.testing.assert_allclose(state, golden[f"{case}/out/state"], atol=1e-6)  # requests are read in float32
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
        ("aloha", {"state": np.zeros(13)}, r"state: expected 14 numbers, found float64 of shape \[13\]"),
        ("droid", {"observation/gripper_position": np.zeros(2)}, "gripper_position: expected 1 numbers"),
        ("libero", {"observation/state": np.zeros((2, 4))}, r"expected 8 numbers.*\[2, 4\]"),
        ("libero", {"observation/state": "eight"}, "expected 8 numbers, found <U5"),
        ("libero", {"observation/state": [[1, 2], [3]]}, "expected 8 numbers, found object"),
        ("libero", {"observation/image": np.full((3, 4, 4), 255.0)}, "expected floats in .*send uint8"),
        ("libero", {"observation/image": np.full((3, 4, 4), np.nan)}, "expected floats in"),
        ("libero", {"observation/image": {"deep": {"er": 1}}}, "'observation/image' is missing"),
        ("libero", {"prompt": 3}, "prompt: expected a text"),
        ("libero", {"prompt": b"\xff"}, "prompt: expected a text"),
        ("libero", {"prompt": np.array(["two", "texts"])}, "prompt: expected a text"),
    ],
)
def test_another_request_is_refused(robot: str, change: dict[str, Any], message: str) -> None:
    case = next((case for case, of in CASES.items() if of == robot), "libero_pi0")
    request = {**request_of(case), **change}
    with pytest.raises(ValueError, match=message):
        observation_from_openpi(robot, {key: value for key, value in request.items() if value is not None})


def test_an_instruction_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt: expected a text"):
        observation_from_openpi("libero", {**request_of("libero_pi0"), "prompt": None})


@pytest.mark.parametrize("prompt", ["pick up", b"pick up", np.str_("pick up"), np.array("pick up")])
def test_an_instruction_may_be_text_or_bytes(prompt: Any) -> None:
    request = {**request_of("libero_pi0"), "prompt": prompt}
    assert observation_from_openpi("libero", request).instruction == "pick up"
    del request["prompt"]
    assert observation_from_openpi("libero", request).instruction == ""


def test_floats_become_bytes_as_openpi_makes_them() -> None:
    """Truncated, not rounded; a resized picture may leave [0, 1] by less than one step."""
    values = np.array([0.0, 0.999 / 255, 1.0 / 255, 0.5, 1.0, 255.9 / 255, -0.9 / 255])
    picture = np.broadcast_to(values, (3, 2, 7))
    found = observation_from_openpi("libero", {**request_of("libero_pi0"), "observation/image": picture})
    assert found.images["image"].shape == (2, 7, 3)
    assert found.images["image"][0, :, 0].tolist() == [0, 0, 1, 127, 255, 255, 0]


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
        (
            '{"norm_stats": {"state": {"mean": [], "std": [1]}, "actions": {}}}',
            "state: expected lists of one length",
        ),
        (
            '{"norm_stats": {"state": {"mean": [], "std": []}, "actions": {}}}',
            "state: expected lists of one length",
        ),
        (
            '{"norm_stats": {"state": {"mean": [true], "std": [1]}, "actions": {}}}',
            "state: expected mean as a list of finite numbers",
        ),
        (
            '{"norm_stats": {"state": {"mean": [1' + "0" * 400 + '], "std": [1]}, "actions": {}}}',
            "state: expected mean as a list of finite numbers",
        ),
        ("[" * 100_000, "norm_stats of state and actions"),
    ],
    ids=str.__len__,
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
