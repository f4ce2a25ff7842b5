"""What `pizero doctor` finds: one record a finding, and the table of all codes with what each one means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from pizero.data.faults import DatasetError

Severity = Literal["error", "warning", "note"]
COPY = "copy this file again from where the dataset came from"
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How grave a code is, and what it means in one line."""

    severity: Severity
    meaning: str


def _rules(severity: Severity, meanings: dict[str, str]) -> dict[str, Rule]:
    return {code: Rule(severity=severity, meaning=meaning) for code, meaning in meanings.items()}


READER_RULES = _rules(
    "error",
    {
        "not-a-dataset": "no info.json, or a dataset that was never finished",
        "info-damaged": "info.json cannot be read, or lacks what a reader needs",
        "version-unknown": "a version of the format that is not read",
        "path-escapes": "a template or a link leads out of the dataset's folder",
        "tasks-missing": "the table of tasks is not there",
        "tasks-damaged": "the table of tasks cannot be read, has holes, or lacks a task that a frame names",
        "episodes-missing": "the table of episodes is not there",
        "episodes-damaged": "the table of episodes cannot be read, or its episodes do not follow one another",
        "data-missing": "a file of columns is not there",
        "data-damaged": "a file of columns cannot be read to its end, or has empty cells",
        "schema-drift": "files of columns, or info.json and they, disagree about names, types or shapes",
        "column-missing": "a feature of info.json has no column",
        "count-mismatch": "info.json, episodes and columns count frames or episodes differently",
        "timestamps-damaged": "times of an episode do not begin at 0, run back or leave a gap",
        "rate-mismatch": "times or a video run at another rate than info.json says",
        "not-finite": "a number is NaN or infinite",
        "image-damaged": "a picture in the columns cannot be decoded, or is of another size",
        "video-missing": "a video is not there",
        "video-damaged": "a video cannot be opened, is cut off, or cannot be decoded",
        "video-too-short": "a video ends before its episodes do",
    },
)
"""The codes under which the reader refuses a dataset (`pizero.data.faults`)."""

DATASET_RULES = (
    _rules(
        "error",
        {
            "frame-index-broken": "frame_index does not count 0, 1, 2 … in each episode",
            "resolution-mismatch": "a video's pictures are of another size than info.json says",
        },
    )
    | _rules(
        "warning",
        {
            "action-is-state": "the actions are the states of the same or of an earlier moment",
            "action-late": "the actions follow the states instead of leading them",
            "action-lag": "the states follow the actions by more than half a second",
            "action-offset": "the actions and the states that they lead to differ by a constant",
            "action-reversed": "a dimension of the actions runs against the same dimension of the states",
            "blank-frames": "pictures of one colour",
            "cameras-equal": "two cameras have the same pictures",
            "cameras-swapped": "two cameras change places between episodes",
            "constant-dimension": "a number that never changes",
            "episode-duplicate": "two episodes have the same states and actions",
            "episode-short": "an episode of a single frame",
            "frozen-frames": "a picture stands still while the robot moves",
            "gripper-reversed": "a gripper opens in some episodes where it closes in the others",
            "gripper-still": "a gripper that never moves",
            "narrow-quantiles": "a number whose 1 % and 99 % quantiles are equal, but which does change",
            "outlier": "single values far outside of all others",
            "task-duplicate": "two tasks with one text",
            "task-empty": "a task without a text",
            "task-similar": "two tasks whose texts differ by case, spaces, punctuation or a slip of the pen",
            "timestamps-uneven": "times that are more than a millisecond away from their frames'",
            "unit-mixed": "episodes or vectors whose numbers are in another unit than the others'",
            "unit-suspect": "numbers far beyond the robot's limits, which another unit would explain",
            "video-too-long": "a video has more frames than its episodes",
        },
    )
    | _rules(
        "note",
        {
            "action-is-next-state": "the actions are the states one frame later",
            "file-left-over": "a file that nothing refers to, or that was never finished",
            "limits-exceeded": "numbers outside of the limits that the catalog gives for the robot",
            "pictures-not-checked": "pictures that were not looked at",
            "statistics-stale": "the dataset's own statistics do not fit its columns",
            "task-unused": "a task that no frame has",
            "unit-unsure": "joint angles that look like degrees, of a robot that is not in the catalog",
            "video-slow": "key frames far apart, so that random access is slow",
        },
    )
)

POLICY_RULES = (
    _rules(
        "error",
        {
            "not-a-policy": "files of a policy folder are missing",
            "policy-file-damaged": "a file does not have the hash that the manifest gives",
            "policy-record-damaged": "the config, the contract or the manifest cannot be read",
            "policy-mismatch": "config, contract and weights do not fit one another",
            "policy-statistics": "normalisation that divides by nothing, or by what is not finite",
            "policy-weights-not-finite": "weights that are NaN or infinite",
            "checkpoint-damaged": "a checkpoint that is not whole; a run passes over it",
            "tokenizer-differs": "a tokenizer's file is missing or is not the one of the contract",
        },
    )
    | _rules(
        "warning",
        {
            "robot-differs": "the contract's robot has the name of one in the catalog, but differs from it",
            "dimension-not-normalised": "a dimension with next to no spread, which normalisation blows up",
            "loss-not-finite": "a run's log has losses that are not finite",
        },
    )
    | _rules(
        "note",
        {
            "robot-unknown": "the contract's robot is not in the catalog",
            "partial-left-over": "something half-written of a run that was interrupted",
            "policy-unlisted-file": "a file that the manifest does not list",
            "run-unfinished": "a run that has no policy yet",
        },
    )
)

MACHINE_RULES = (
    _rules(
        "error",
        {
            "package-missing": "a package that pizero needs is not installed",
            "package-too-old": "a package is older than pizero needs",
            "codec-broken": "a video cannot be written and read back",
        },
    )
    | _rules(
        "warning",
        {
            "disk-full": "little free space where this command runs",
            "gpu-unusable": "a GPU that PyTorch sees but cannot compute on",
            "memory-low": "little memory",
            "package-combination": "packages that do not work together",
            "rendering-broken": "a simulator is installed, but cannot draw without a screen",
            "threads-oversubscribed": "more threads are asked for than there are cores",
        },
    )
    | _rules(
        "note",
        {
            "machine": "what this machine is",
            "codec-missing": "a codec that some datasets are in is not there",
            "extra-missing": "an extra that is not installed",
            "no-bfloat16": "a processor without bfloat16 instructions",
            "packages-not-checked": "pizero is not installed, so what it needs is not known",
            "no-gpu": "no GPU that this PyTorch can use",
        },
    )
)

RULES: dict[str, Rule] = READER_RULES | DATASET_RULES | POLICY_RULES | MACHINE_RULES
"""Every code, with its severity and its meaning."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found: where, what is there, and what to do."""

    code: str
    severity: Severity
    place: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity} [{self.code}] {self.place}: {self.what}. {self.advice}"


def finding(code: str, place: object, what: str, advice: str) -> Finding:
    """Return a finding with the severity that its code has."""
    return Finding(code=code, severity=RULES[code].severity, place=str(place), what=what, advice=advice)


def refusal(error: DatasetError, advice: str = COPY) -> Finding:
    """Return what the reader refused, under its own code, with its own advice if it gives any."""
    text = str(error).removesuffix(f" [{error.code}]").removeprefix(str(error.place)).lstrip(": ")
    what, separator, own = text.rpartition("; ")
    return finding(error.code, error.place, what if separator else text, own if separator else advice)


@dataclass
class Findings:
    """Collects findings on the way through a check."""

    found: list[Finding] = field(default_factory=list)

    def add(self, code: str, place: object, what: str, advice: str) -> None:
        """Add one."""
        self.found.append(finding(code, place, what, advice))

    def refused(self, error: DatasetError, advice: str = COPY) -> None:
        """Add what the reader refused."""
        self.found.append(refusal(error, advice))

    def has(self, *codes: str) -> bool:
        """Return whether one of some codes was found."""
        return any(one.code in codes for one in self.found)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings without repetitions, the gravest first."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda found: SEVERITIES.index(found.severity)))


def exit_status(findings: Iterable[Finding], *, strict: bool) -> int:
    """Return 2 if there is an error, 1 if there is a warning and `strict` asks for it, else 0."""
    severities = {found.severity for found in findings}
    if "error" in severities:
        return 2
    return int(strict and "warning" in severities)


def several(items: Iterable[object], *, shown: int = 5) -> str:
    """Return the first items, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more
