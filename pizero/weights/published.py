"""The checkpoints that Physical Intelligence publishes: what their weights do not say about themselves.

Source: openpi's training configs (commit 15a9616) and its list of assets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pizero.contract import ActionForm, Convention, Normalization, PromptFormat
from pizero.names import nearest


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How one published checkpoint was trained; without a `robot` it is a base to fine-tune.

    `slots` are the robot's cameras in the order in which the model sees them, "" for one that it lacks;
    `asset` names the folder of its statistics under `assets/`.
    """

    model: Literal["Pi0", "Pi05", "Pi0FAST"]
    robot: str = ""
    asset: str = ""
    convention: Convention = "native"
    slots: tuple[str, ...] = ()
    absent_valid: bool = False
    prompt: PromptFormat
    instruction: str = ""
    max_tokens: int
    horizon: int
    normalization: Normalization
    action_form: ActionForm = "recorded"


ALOHA_SLOTS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
DROID_SLOTS = ("exterior_image_1_left", "wrist_image_left", "")
DROID_FAST_SLOTS = ("exterior_image_1_left", "", "wrist_image_left")
LIBERO_SLOTS = ("image", "wrist_image", "")


def _pi0(
    *,
    horizon: int = 50,
    max_tokens: int = 48,
    robot: str = "",
    asset: str = "",
    convention: Convention = "native",
    slots: tuple[str, ...] = (),
    instruction: str = "",
    action_form: ActionForm = "recorded",
) -> Preset:
    return Preset(
        model="Pi0",
        prompt="pi0",
        normalization="zscore",
        horizon=horizon,
        max_tokens=max_tokens,
        robot=robot,
        asset=asset,
        convention=convention,
        slots=slots,
        instruction=instruction,
        action_form=action_form,
    )


def _aloha(instruction: str = "", *, asset: str = "trossen", action_form: ActionForm = "relative") -> Preset:
    return _pi0(
        robot="aloha",
        asset=asset,
        convention="aloha",
        slots=ALOHA_SLOTS,
        instruction=instruction,
        action_form=action_form,
    )


def _pi0_fast(*, horizon: int, max_tokens: int, robot: str = "", asset: str = "") -> Preset:
    slots = {"droid": DROID_FAST_SLOTS, "libero": LIBERO_SLOTS, "": ()}[robot]
    return Preset(
        model="Pi0FAST",
        prompt="pi0_fast",
        normalization="quantile",
        absent_valid=True,
        horizon=horizon,
        max_tokens=max_tokens,
        robot=robot,
        asset=asset,
        slots=slots,
        action_form="relative" if robot == "libero" else "recorded",
    )


PRESETS: dict[str, Preset] = {
    "pi0_base": _pi0(),
    "pi0_droid": _pi0(horizon=10, robot="droid", asset="droid", slots=DROID_SLOTS),
    "pi0_aloha_sim": _aloha(
        "Transfer cube", asset="lerobot/aloha_sim_transfer_cube_human", action_form="recorded"
    ),
    "pi0_aloha_towel": _aloha("fold the towel"),
    "pi0_aloha_tupperware": _aloha("open the tupperware and put the food on the plate"),
    "pi0_aloha_pen_uncap": _aloha("uncap the pen"),
    "pi0_libero": _pi0(
        robot="libero",
        asset="physical-intelligence/libero",
        slots=LIBERO_SLOTS,
        action_form="relative",
    ),
    "pi05_base": Preset(model="Pi05", prompt="pi05", normalization="quantile", horizon=50, max_tokens=200),
    "pi05_droid": Preset(
        model="Pi05",
        prompt="pi05",
        normalization="quantile",
        horizon=15,
        max_tokens=200,
        robot="droid",
        asset="droid",
        slots=DROID_SLOTS,
    ),
    "pi05_libero": Preset(
        model="Pi05",
        prompt="pi0",
        normalization="quantile",
        horizon=10,
        max_tokens=200,
        robot="libero",
        asset="physical-intelligence/libero",
        slots=LIBERO_SLOTS,
    ),
    "pi0_fast_base": _pi0_fast(horizon=32, max_tokens=250),
    "pi0_fast_droid": _pi0_fast(horizon=10, max_tokens=250, robot="droid", asset="droid"),
    "pi0_fast_libero": _pi0_fast(
        horizon=10, max_tokens=180, robot="libero", asset="physical-intelligence/libero"
    ),
}


def layout_of(robot: str, *, fast: bool) -> dict[str, Any]:
    """Return convention, camera slots and statistics of a robot that the bases were trained on."""
    layouts: dict[str, dict[str, Any]] = {
        "aloha": {"convention": "aloha", "slots": ALOHA_SLOTS, "asset": "trossen"},
        "droid": {"slots": DROID_FAST_SLOTS if fast else DROID_SLOTS, "asset": "droid"},
        "libero": {"slots": LIBERO_SLOTS, "asset": ""},
    }
    return layouts.get(robot, {})


def find_preset(name: str) -> Preset:
    """Return the published checkpoint of that name; ValueError with the nearest name if there is none."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: {nearest(name, PRESETS)}")
    return PRESETS[name]
