"""Which hypothesis explains why a policy's answers are wrong, if they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from pizero.diagnose.explain.repairs import Repair
from pizero.diagnose.explain.replay import AS_RECORDED, Errors, Replay, Ruler

SIGNIFICANCE = 0.01
"""How often chance alone may blame a healthy policy; it is divided among all hypotheses that are tried."""

MATERIAL = 0.8
"""A repair must leave less than this share of the error, and a policy less than this share of the mean's.

What removes less than a fifth of an error may be real, but is not why a robot does nonsense.
"""

REARRANGED = 0.95
"""The same for a repair that only rearranges what is shown: a policy is best at what it was trained on; if it
is better at another arrangement, and not by chance, then it was trained on that one.
"""

NUM_SCREENED, SCREEN = 8, 0.95
"""A repair that leaves more than this share of the first samples' error is not tried on the others: it would
have to do far better on them than on these.
"""

MIN_SAMPLES = 16
"""Twelve that all agree are the fewest that reach the significance for forty hypotheses (2⁻¹² < 0.01 / 40);
some may disagree.
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Errors of the same samples before and after: the ratio of their means, and how likely by chance.

    The test is Wilcoxon's signed-rank test of the logarithms, one-sided: a few samples with huge errors do
    not decide it.
    """

    before: float
    after: float
    p_value: float

    @property
    def ratio(self) -> float:
        """Return the share of the error that is left; 1 if there was none to begin with."""
        return self.after / self.before if self.before > 0.0 else 1.0

    def is_decisive(self, num_tests: int = 1, *, material: float = MATERIAL) -> bool:
        """Return whether the error falls materially, and not by chance."""
        return self.ratio <= material and self.p_value <= SIGNIFICANCE / num_tests


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A hypothesis and what its repair did to the errors; `screened` if only the first samples were tried.

    It `helps` if the errors fall decisively, and `explains` if what is left is also decisively less than the
    mean of the data would cost: a repair may help by making wild answers harmless.
    """

    repair: Repair
    comparison: Comparison
    screened: bool
    helps: bool
    explains: bool


def compare(before: Errors, after: Errors) -> Comparison:
    """Return how errors of the same samples compare."""
    tiny = np.finfo(np.float64).tiny
    change = np.log(np.maximum(before, tiny)) - np.log(np.maximum(after, tiny))
    p_value = 1.0 if not change.any() else float(np.asarray(wilcoxon(change, alternative="greater"))[1])
    return Comparison(before=float(np.mean(before)), after=float(np.mean(after)), p_value=p_value)


class Court:
    """Where hypotheses are tried: errors as recorded and of the mean's baseline, and how many there are."""

    def __init__(self, replay: Replay, ruler: Ruler, num_tests: int) -> None:
        self.replay, self.ruler, self.num_tests = replay, ruler, num_tests
        self.base = ruler.errors(replay.act(AS_RECORDED))
        self.mean = ruler.errors(ruler.mean())

    def try_one(self, repair: Repair, errors_of: Callable[[int], Errors]) -> Trial:
        """Return what a repair explains; `errors_of` returns the first samples' errors under it."""
        first = compare(self.base[:NUM_SCREENED], errors_of(NUM_SCREENED))
        if first.ratio > SCREEN and not repair.rearranges:
            return Trial(repair=repair, comparison=first, screened=True, helps=False, explains=False)
        after = errors_of(len(self.base))
        comparison = compare(self.base, after)
        material = REARRANGED if repair.rearranges else MATERIAL
        helps = comparison.is_decisive(self.num_tests, material=material)
        return Trial(
            repair=repair,
            comparison=comparison,
            screened=False,
            helps=helps,
            explains=helps and compare(self.mean, after).is_decisive(),
        )

    def try_repair(self, repair: Repair) -> Trial:
        """Return what a repair of what goes in and out explains."""

        def errors_of(count: int) -> Errors:
            chunks = self.replay.act(repair.change, count=count)
            pairs = zip(chunks, self.replay.samples, strict=False)
            answers = [repair.answer(chunk, sample.observation) for chunk, sample in pairs]
            return self.ruler.errors(np.stack(answers))

        return self.try_one(repair, errors_of)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return those that explain, then those that help, then the others, each with the least error first.

    But of those that explain about as much as the best (less than 1 / MATERIAL of its error), the one that
    takes the fewest numbers from the dataset is the first.
    """

    def rank(trial: Trial) -> tuple[bool, bool, bool, int, float]:
        as_good = explains_as_much(trial, trials)
        fitted = trial.repair.num_fitted if as_good else 0
        return not trial.explains, not trial.helps, not as_good, fitted, trial.comparison.ratio

    return sorted(trials, key=rank)


def explains_as_much(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Return whether a trial leaves about as little error as the best of those that explain."""
    best = min((other.comparison.after for other in trials if other.explains), default=0.0)
    return trial.explains and trial.comparison.after <= best / MATERIAL
