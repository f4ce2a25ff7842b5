"""What data, checkpoint and robot must agree on: one record, hashed, carried inside every policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pizero.records import differences, fingerprint, to_data
from pizero.robots import Embodiment

Normalization = Literal["zscore", "quantile"]
ActionForm = Literal["recorded", "displacement", "relative"]
PromptFormat = Literal["pi0", "pi05", "pi0_fast"]
Convention = Literal["native", "aloha"]


@dataclass(frozen=True, kw_only=True)
class FieldStatistics:
    """Per-dimension statistics of a state or an action, over `count` frames.

    What a foreign checkpoint does not tell stays empty, and a count of 0 says that the number of frames is
    not known. Normalisation never divides by less than what `floor` says of a dimension's q99 - q01, or by a
    quarter of it for the standard deviation: a joint that hardly moved must not blow up when it does.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    q01: tuple[float, ...] = ()
    q99: tuple[float, ...] = ()
    floor: tuple[float, ...] = ()
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of what a robot shows and of what it is told to do, both written in `convention`.

    Those of the actions are over all steps of all chunks of `horizon` actions, written in `action_form`, but
    for the dimensions named in `absolute`, which stay as recorded.
    """

    state: FieldStatistics
    actions: FieldStatistics
    convention: Convention = "native"
    action_form: ActionForm = "recorded"
    absolute: tuple[str, ...] = ()
    horizon: int = 1


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """A tokenizer's file inside the policy folder, and the sha256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ActionTokens:
    """How π0-FAST writes actions as tokens: FAST token i has the id `first_id - i` in the text vocabulary.

    `relaxed` decoding cuts or fills a sequence of the wrong length; the strict one refuses it.
    """

    file: TokenFile
    scale: float
    min_token: int
    first_id: int
    decoding: Literal["strict", "relaxed"] = "strict"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything between robot units and model units that must not change silently.

    State and actions are written in `convention`, normalised with `epsilon` beside the spread, and padded
    with zeros to `width` numbers (0: not padded). `slots` names the camera of each picture that the model
    reads, in its order, and "" for a picture that this robot never has; without it, the embodiment's cameras
    in their order. Pictures are resized with padding to `image_size` pixels squared; `absent_valid` says
    whether the model sees a missing one as black (π0-FAST) or not at all.

    The instruction, `instruction` if the robot gives none, becomes at most `max_tokens` tokens in the form
    `prompt`, by bytes unless `tokenizer` names a SentencePiece file; with `padded_prompt_state` the state in
    it is padded too (LeRobot's π0.5). A chunk has `horizon` actions at the embodiment's rate, in the form
    that its statistics are of, as numbers or as `action_tokens`.
    """

    embodiment: Embodiment
    convention: Convention = "native"
    slots: tuple[str, ...] = ()
    absent_valid: bool = False
    image_size: int
    prompt: PromptFormat = "pi0"
    padded_prompt_state: bool = False
    instruction: str = ""
    tokenizer: TokenFile | None = None
    max_tokens: int
    horizon: int
    width: int = 0
    action_tokens: ActionTokens | None = None
    normalization: Normalization
    epsilon: float = 1e-6
    statistics: Statistics

    def __post_init__(self) -> None:
        if self.statistics.action_form == "displacement" and self.statistics.horizon != self.horizon:
            raise ValueError(
                f"the statistics are of displacements over {self.statistics.horizon} actions, expected "
                f"{self.horizon}: compute them anew with `pizero stats`"
            )
        if self.statistics.convention != self.convention:
            raise ValueError(
                f"the statistics are of numbers in the convention {self.statistics.convention!r}, expected "
                f"{self.convention!r}: compute them anew with `pizero stats`"
            )
        widths = (self.embodiment.state_dim, self.embodiment.action_dim)
        if self.convention == "aloha" and widths != (14, 14):
            raise ValueError(
                f"the convention 'aloha' is of 14 numbers, {self.embodiment.name} has {widths[0]} and "
                f"{widths[1]}; other robots' is 'native'"
            )
        unknown = [slot for slot in self.slots if slot and slot not in self.embodiment.camera_names]
        if unknown:
            raise ValueError(
                f"expected slots among the cameras {', '.join(self.embodiment.camera_names)}, "
                f"found {', '.join(unknown)}"
            )
        for label, field, expected in (
            ("state", self.statistics.state, self.embodiment.state_dim),
            ("actions", self.statistics.actions, self.embodiment.action_dim),
        ):
            names = ("mean", "std") if self.normalization == "zscore" else ("q01", "q99")
            found = {name: len(getattr(field, name)) for name in names}
            if set(found.values()) != {expected}:
                raise ValueError(
                    f"{self.normalization} normalisation of the {label} of {self.embodiment.name} needs "
                    f"{' and '.join(names)} of {expected} numbers, found {found}"
                )
            if self.width and self.width < expected:
                raise ValueError(f"a {label} of {expected} numbers does not fit a width of {self.width}")

    @property
    def sha256(self) -> str:
        """Return the hash of the whole record."""
        return fingerprint(self)

    def diff(self, other: Contract) -> list[str]:
        """Return one line for each value in which two contracts differ; empty if they are equal."""
        return differences(to_data(self), to_data(other))
