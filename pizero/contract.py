"""What data, checkpoint and robot must agree on: one record, hashed, carried inside every policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pizero.records import differences, fingerprint, to_data
from pizero.robots import Embodiment

Normalization = Literal["zscore", "quantile"]
ActionForm = Literal["recorded", "displacement"]


@dataclass(frozen=True, kw_only=True)
class FieldStatistics:
    """Per-dimension statistics of a state or an action, over `count` frames, in robot units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    count: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of what a robot shows and of what it is told to do.

    Those of the actions are over all steps of all chunks of `horizon` actions, written in `action_form`.
    """

    state: FieldStatistics
    actions: FieldStatistics
    action_form: ActionForm = "recorded"
    horizon: int = 1


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything between robot units and model units that must not change silently.

    Pictures are resized with padding to `image_size` pixels squared, in the embodiment's camera order; the
    instruction becomes at most `max_tokens` tokens; a chunk has `horizon` actions at the embodiment's rate,
    in the form that its statistics are of.
    """

    embodiment: Embodiment
    image_size: int
    tokenizer: Literal["bytes"] = "bytes"
    max_tokens: int
    horizon: int
    normalization: Normalization
    statistics: Statistics

    def __post_init__(self) -> None:
        if self.statistics.action_form == "displacement" and self.statistics.horizon != self.horizon:
            raise ValueError(
                f"the statistics are of displacements over {self.statistics.horizon} actions, expected "
                f"{self.horizon}: compute them anew with `pizero stats`"
            )

    @property
    def sha256(self) -> str:
        """Return the hash of the whole record."""
        return fingerprint(self)

    def diff(self, other: Contract) -> list[str]:
        """Return one line for each value in which two contracts differ; empty if they are equal."""
        return differences(to_data(self), to_data(other))
