"""From what was measured to a verdict, and the culprits by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pizero.contract import Contract
from pizero.diagnose.explain.ablations import OTHER_INSTRUCTION
from pizero.diagnose.explain.measured import Measured
from pizero.diagnose.explain.statistics import DimensionFit
from pizero.diagnose.explain.structure import Mismatch
from pizero.diagnose.explain.verdict import REARRANGED, Trial, explains_as_much

HEARD = 0.1
"""An input that changes answers by less than this share of their error cannot be what makes them right."""


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """Something that explains why answers are wrong: its name, how it is known, and what to do."""

    code: str
    title: str
    evidence: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The verdict with its culprits, the likeliest first, and all that it rests on.

    Without `measured`, the dataset's samples could not be shown to the policy at all.
    """

    healthy: bool
    reason: str
    culprits: tuple[Culprit, ...]
    remarks: tuple[str, ...]
    contract: Contract
    fits: tuple[DimensionFit, ...]
    measured: Measured | None


def judge(
    contract: Contract, measured: Measured, fits: tuple[DimensionFit, ...], differing: Sequence[Mismatch]
) -> Explanation:
    """Return the verdict: healthy is who beats the mean of the data, in each task, and has no culprit."""
    skill = measured.skill
    failing = [task.task for task in measured.tasks if task.fails]
    decisive = [trial for trial in measured.trials if explains_as_much(trial, measured.trials)]
    faults = [named(mismatch) for mismatch in differing if mismatch.weight == "fault"]
    suspicions = [mismatch for mismatch in differing if mismatch.weight == "suspicion"]
    skilled = skill.is_decisive() and not failing
    explained = [_explaining(trial, suspicions, fits) for trial in decisive]
    guessed: list[Culprit] = []
    if not skilled and not decisive:
        guessed = [*_unheard(measured), *(named(mismatch) for mismatch in suspicions)]
    culprits: dict[str, Culprit] = {}
    for culprit in (*explained, *faults, *guessed):
        culprits.setdefault(culprit.code, culprit)
    share = f"the error is {skill.ratio:.0%} of that of always answering the mean of the data"
    if skilled and not culprits:
        reason = share
    elif decisive:
        reason = f"{share}, and undoing the first culprit leaves {decisive[0].comparison.ratio:.1%} of it"
    elif not skill.is_decisive():
        reason = f"{share}: the policy does no better"
    elif failing:
        reason = f"the policy answers {', '.join(failing)} hardly better than the mean of the data does"
    else:
        reason = f"{share}, but the robot would not do what was recorded"
    if not skilled and not culprits:
        reason += ", and no known culprit explains it"
    return Explanation(
        healthy=skilled and not culprits,
        reason=reason,
        culprits=tuple(culprits.values()),
        remarks=tuple(_remarks(measured, fits, [m for m in suspicions if m.code not in culprits])),
        contract=contract,
        fits=fits,
        measured=measured,
    )


def named(mismatch: Mismatch) -> Culprit:
    """Return a difference between contract and dataset as a culprit."""
    return Culprit(
        code=mismatch.code,
        title=TITLES[mismatch.code],
        evidence=mismatch.evidence,
        advice=mismatch.advice,
    )


TITLES = {
    "another-robot": "the contract is another robot's",
    "camera-missing": "the cameras are not those of the contract",
    "contract-changed": "the policy's contract is not the one that it was trained under",
    "rate": "the dataset has another rate than the policy",
    "instruction-missing": "the policy is told nothing",
    "state-order": "the state has another order",
    "action-order": "the actions have another order",
}


def _explaining(trial: Trial, suspicions: Sequence[Mismatch], fits: Sequence[DimensionFit]) -> Culprit:
    repair, comparison = trial.repair, trial.comparison
    evidence = (
        f"undone, the error falls from {comparison.before:.3g} to {comparison.after:.3g} "
        f"(p = {comparison.p_value:.1g})"
    )
    for mismatch in suspicions:
        if mismatch.code == repair.culprit:
            evidence += f"; {mismatch.evidence}"
    if repair.culprit in ("statistics", "another-robot"):
        evidence += "; " + _worst_fits(fits)
    return Culprit(code=repair.culprit, title=repair.title, evidence=evidence, advice=repair.advice)


def _worst_fits(fits: Sequence[DimensionFit]) -> str:
    worst = sorted(fits, key=lambda fit: -max(abs(fit.shift), abs(np.log(fit.ratio)), fit.outside))[:3]
    lines = [
        f"{fit.field} {fit.name} lies {fit.shift:+.2g} spreads off, {fit.ratio:.2g} × as wide"
        for fit in worst
    ]
    return "the data's " + ", ".join(lines)


def _unheard(measured: Measured) -> list[Culprit]:
    """Return that the policy does not hear the instruction, if that may be why it is wrong."""
    changes = {ablation.name: ablation.change for ablation in measured.ablations}
    if OTHER_INSTRUCTION not in changes or len(measured.tasks) < 2:
        return []
    error = float(np.sqrt(measured.error))
    if changes[OTHER_INSTRUCTION] > HEARD * error:
        return []
    tasks = ", ".join(f"{task.task!r} {task.error:.2g}" for task in measured.tasks)
    return [
        Culprit(
            code="instruction-ignored",
            title="the policy does not hear the instruction",
            evidence=(
                f"another task's instruction changes its answers by {changes[OTHER_INSTRUCTION]:.2g} "
                f"spreads, while they are {error:.2g} off; error by task: {tasks}"
            ),
            advice="check that instructions reach the policy and vary, in training as in serving",
        )
    ]


def _remarks(measured: Measured, fits: Sequence[DimensionFit], suspicions: Sequence[Mismatch]) -> list[str]:
    remarks = [f"{TITLES[mismatch.code]}: {mismatch.evidence}" for mismatch in suspicions]
    remarks += [
        f"{fit.outside:.1%} of {fit.field} {fit.name} are out of range under the contract's statistics"
        for fit in fits
        if fit.outside > 0.01
    ]
    remarks += [
        f"{row.name}: answering the state as it is would be nearer ({row.hold:.3g}) than the policy "
        f"({row.error:.3g})"
        for row in measured.dimensions
        if row.hold is not None and row.hold < row.error
    ]
    remarks += [
        f"undoing this leaves {trial.comparison.ratio:.0%} of the error, but no working policy: "
        f"{trial.repair.title}"
        for trial in measured.trials
        if trial.helps and not trial.explains
    ]
    remarks += [
        f"perhaps {trial.repair.title}: undone, the error falls to {trial.comparison.ratio:.0%} "
        f"(p = {trial.comparison.p_value:.1g}), which is not enough to be sure; ask for more --samples"
        for trial in measured.trials
        if not trial.helps and trial.repair.rearranges and trial.comparison.is_decisive(material=REARRANGED)
    ]
    error = float(np.sqrt(measured.error))
    remarks += [
        f"{ablation.name}: changes answers by only {ablation.change:.2g} spreads; the policy hardly uses it"
        for ablation in measured.ablations[:-1]
        if ablation.change < HEARD * error
    ]
    return remarks
