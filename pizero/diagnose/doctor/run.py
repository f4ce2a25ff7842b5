"""All checks of a training run's folder: its records, its log, its checkpoints and its policy."""

from __future__ import annotations

import json
import math
from pathlib import Path

from pizero.contract import Contract
from pizero.diagnose.doctor.findings import Finding, Findings, finding, in_order, several
from pizero.diagnose.doctor.policy import (
    check_contract,
    check_finite,
    check_manifest,
    examine_policy,
    tensor_shapes,
)
from pizero.progress import counting
from pizero.records import read_record
from pizero.training.checkpoint import PROGRESS, Progress, part_name
from pizero.training.config import TrainConfig

METRICS = "metrics.jsonl"


def examine_run(folder: Path, *, weights: bool = True) -> tuple[Finding, ...]:
    """Return all that is found about a training run, the gravest first; nothing is changed."""
    findings = Findings()
    contract: Contract | None = None
    for name, kind in (("config.json", TrainConfig), ("contract.json", Contract)):
        try:
            record = read_record(kind, folder / name)
        except ValueError as error:
            findings.add(
                "policy-record-damaged", folder / name, str(error), "the run cannot go on without it"
            )
        else:
            contract = record if isinstance(record, Contract) else contract
    _check_log(folder / METRICS, findings)
    for path in sorted((folder / "checkpoints").glob("step-????????")):
        findings.found += examine_checkpoint(path, weights=weights)
    left = [path.name for path in [*folder.glob("*.partial*"), *folder.glob("checkpoints/*.partial*")]]
    if left:
        findings.add(
            "partial-left-over",
            folder,
            f"half-written: {several(sorted(left))}",
            "remove it if no run is going on",
        )
    if (folder / "policy").is_dir():
        findings.found += examine_policy(folder / "policy", weights=weights)
        _check_same(folder, contract, findings)
    else:
        if contract is not None:
            check_contract(folder, contract, findings)
        findings.add(
            "run-unfinished",
            folder,
            "there is no policy yet",
            "the command that began the run goes on with it",
        )
    return in_order(findings.found)


def examine_checkpoint(folder: Path, *, weights: bool = True) -> tuple[Finding, ...]:
    """Return all that is found about one checkpoint, under `checkpoint-damaged` if it is not whole."""
    findings = Findings()
    try:
        progress = read_record(Progress, folder / PROGRESS)
    except ValueError as error:
        findings.add("policy-record-damaged", folder / PROGRESS, str(error), "")
        progress = Progress(step=0, fingerprint="", parts=0)
    else:
        if folder.name != f"step-{progress.step:08d}":
            findings.add("policy-mismatch", folder, f"it is of step {progress.step}", "")
    parts = tuple(part_name(part, progress.parts) for part in range(progress.parts))
    if check_manifest(folder, (*parts, PROGRESS), findings, skip=() if weights else parts):
        for part in parts:
            shapes = tensor_shapes(folder / part, findings)
            if shapes is not None and weights and not findings.found:
                with counting(folder.name, len(shapes), "tensors") as counter:
                    check_finite(folder / part, findings, counter)
    kept = {"policy-weights-not-finite", "policy-unlisted-file"}
    damage = [one for one in findings.found if one.code not in kept]
    told = [one for one in findings.found if one.code in kept]
    if damage:
        what = several(dict.fromkeys(one.what for one in damage), shown=3)
        advice = "remove this checkpoint; the run goes on from the one before"
        told.append(finding("checkpoint-damaged", folder, what, advice))
    return tuple(told)


def _check_log(path: Path, findings: Findings) -> None:
    """Find steps whose loss is not finite, and lines that were cut off."""
    if not path.is_file():
        return
    bad: list[object] = []
    broken = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                broken += 1
                continue
            values = row.values() if isinstance(row, dict) else ()
            if any(
                value is None or (isinstance(value, float) and not math.isfinite(value)) for value in values
            ):
                bad.append(row.get("step", "?"))
    if bad:
        findings.add(
            "loss-not-finite",
            path,
            f"numbers of {len(bad)} steps are not finite, first of step {bad[0]}",
            "lower the learning rate, and look at the data with `pizero doctor DATASET`",
        )
    if broken:
        findings.add("partial-left-over", path, f"{broken} lines are not JSON", "no harm is done")


def _check_same(folder: Path, contract: Contract | None, findings: Findings) -> None:
    path = folder / "policy" / "contract.json"
    if contract is None or not path.is_file() or findings.has("policy-record-damaged"):
        return
    lines = read_record(Contract, path).diff(contract)
    if lines:
        findings.add(
            "policy-mismatch",
            folder,
            f"the policy's contract is not the run's (policy ≠ run): {several(lines, shown=3)}",
            "the policy was written by another run, or changed by hand",
        )
