"""All checks of a policy folder: hashes, records, what they say of one another, statistics and weights."""

from __future__ import annotations

import math
import types
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pizero.contract import Contract, FieldStatistics, Normalization, TokenFile
from pizero.data.text import ByteTokenizer
from pizero.diagnose.doctor.findings import COPY, Finding, Findings, in_order, several
from pizero.models.build import ModelConfig, skeleton
from pizero.models.pi0 import Pi0Config
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.progress import Counter, counting
from pizero.records import Record, read_record
from pizero.robots import CATALOG
from pizero.weights.folder import CONFIG, CONTRACT, MANIFEST, WEIGHTS, Manifest, sha256_of

FLAT = 1e-4
"""A spread below this, beside a unit of one, turns noise of a sensor into large numbers."""


def examine_policy(folder: Path, *, weights: bool = True) -> tuple[Finding, ...]:
    """Return all that is found about a policy folder, the gravest first; nothing is changed.

    Without `weights` the weights' numbers and hash are not read, only their names and shapes.
    """
    findings = Findings()
    names = (WEIGHTS, CONFIG, CONTRACT)
    if check_manifest(folder, names, findings, skip=() if weights else (WEIGHTS,)):
        config = _record(folder / CONFIG, ModelConfig, findings)
        contract = _record(folder / CONTRACT, Contract, findings)
        if contract is not None:
            check_contract(folder, contract, findings)
        if config is not None and contract is not None:
            _check_fit(folder, config, contract, findings)
        shapes = tensor_shapes(folder / WEIGHTS, findings)
        if config is not None and shapes is not None:
            _check_names(folder, config, shapes, findings)
        if weights and shapes is not None:
            with counting("weights", len(shapes), "tensors") as counter:
                check_finite(folder / WEIGHTS, findings, counter)
    return in_order(findings.found)


def check_manifest(
    folder: Path, expected: tuple[str, ...], findings: Findings, *, skip: tuple[str, ...] = ()
) -> bool:
    """Compare every file with its hash; return whether the expected files are there to be read."""
    missing = [name for name in (*expected, MANIFEST) if not (folder / name).is_file()]
    if missing:
        findings.add("not-a-policy", folder, f"missing {several(missing)}", "copy the whole folder again")
    manifest = _record(folder / MANIFEST, Manifest, findings) if MANIFEST not in missing else None
    listed = manifest.files if manifest is not None else {}
    for name, digest in listed.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            findings.add(
                "policy-record-damaged", folder / MANIFEST, f"{name!r} leads out of the folder", COPY
            )
        elif not path.is_file() and name not in missing:
            findings.add("policy-file-damaged", path, "the manifest lists it, and it is not there", COPY)
        elif path.is_file() and name not in skip and sha256_of(path) != digest:
            findings.add("policy-file-damaged", path, "its sha256 is not the one in the manifest", COPY)
    if manifest is not None:
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        unlisted = sorted(name for name in files if name != MANIFEST and name not in listed)
        if unlisted:
            findings.add(
                "policy-unlisted-file", folder, f"not in the manifest: {several(unlisted)}", "no harm is done"
            )
        unsealed = [name for name in expected if name not in listed and name not in missing]
        if unsealed:
            findings.add(
                "policy-file-damaged", folder, f"the manifest has no hash of {several(unsealed)}", COPY
            )
    return not [name for name in missing if name != MANIFEST]


def _record(path: Path, kind: type[Record] | types.UnionType, findings: Findings) -> Record | None:
    try:
        return read_record(kind, path)
    except ValueError as error:
        findings.add("policy-record-damaged", path, str(error), "copy this file again, or train anew")
        return None


def check_contract(folder: Path, contract: Contract, findings: Findings) -> None:
    """Look at the statistics, the tokenizers' files and the robot of a contract."""
    place = folder / CONTRACT
    robot = contract.embodiment
    for label, field, dimensions in (
        ("state", contract.statistics.state, robot.state),
        ("actions", contract.statistics.actions, robot.actions),
    ):
        names = [dimension.name for dimension in dimensions]
        _check_statistics(place, label, field, names, contract.normalization, findings)
    files = [contract.tokenizer, contract.action_tokens.file if contract.action_tokens else None]
    for file in files:
        if file is not None:
            _check_token_file(folder, file, findings)
    known = CATALOG.get(robot.name)
    if known is None:
        findings.add(
            "robot-unknown",
            place,
            f"the robot {robot.name!r} is not in the catalog",
            "the contract describes it",
        )
    elif known != robot:
        findings.add(
            "robot-differs",
            place,
            f"{robot.name!r} differs from the catalog's (contract ≠ catalog): "
            f"{several(robot.diff(known), shown=3)}",
            "see that the robot you run is the one that the contract describes; give it a name of its own",
        )


def _check_statistics(
    place: Path, label: str, field: FieldStatistics, names: list[str], form: Normalization, findings: Findings
) -> None:
    is_zscore = form == "zscore"
    used = {"mean": field.mean, "std": field.std} if is_zscore else {"q01": field.q01, "q99": field.q99}
    if not all(math.isfinite(value) for values in used.values() for value in values):
        findings.add(
            "policy-statistics", place, f"{' or '.join(used)} of the {label} is not finite", "train anew"
        )
        return
    spreads = field.std if is_zscore else [high - low for low, high in zip(field.q01, field.q99, strict=True)]
    negative = [name for name, spread in zip(names, spreads, strict=True) if spread < 0]
    if negative:
        findings.add(
            "policy-statistics", place, f"the spread of {several(negative)} of the {label} is negative", COPY
        )
    flat = [name for name, spread in zip(names, spreads, strict=True) if 0 <= spread < FLAT]
    if flat:
        findings.add(
            "dimension-not-normalised",
            place,
            f"{several(flat)} of the {label} hardly moved in training (spread below {FLAT:g})",
            "a robot that moves it leaves what the model knows; leave it out, or record it moving",
        )


def _check_token_file(folder: Path, file: TokenFile, findings: Findings) -> None:
    path = folder / file.name
    if not path.is_file():
        findings.add("tokenizer-differs", path, "the contract names this file, and it is not there", COPY)
    elif sha256_of(path) != file.sha256:
        findings.add("tokenizer-differs", path, "its sha256 is not the one in the contract", COPY)


def _check_fit(folder: Path, config: ModelConfig, contract: Contract, findings: Findings) -> None:
    robot = contract.embodiment
    pairs = [
        ("action_dim", config.action_dim, contract.width or robot.action_dim),
        ("horizon", config.horizon, contract.horizon),
        ("image_size", config.backbone.vision.image_size, contract.image_size),
    ]
    if isinstance(config, Pi0Config):
        pairs.append(("state_dim", config.state_dim, contract.width or robot.state_dim))
    wrong = [
        f"{name}: the model's {ours}, the contract's {theirs}"
        for name, ours, theirs in pairs
        if ours != theirs
    ]
    if contract.tokenizer is None and config.backbone.vocab_size < ByteTokenizer.vocab_size:
        wrong.append(f"vocab_size: {config.backbone.vocab_size}, bytes need {ByteTokenizer.vocab_size}")
    if isinstance(config, Pi0FASTConfig) and contract.action_tokens is None:
        wrong.append("the model writes action tokens, and the contract does not say how")
    if wrong:
        findings.add(
            "policy-mismatch", folder, "; ".join(wrong), "config.json and contract.json are of two policies"
        )


def tensor_shapes(path: Path, findings: Findings) -> dict[str, list[int]] | None:
    """Return the shape of each tensor of a file; None if it is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        findings.add("policy-file-damaged", path, f"not a whole safetensors file ({error})", COPY)
        return None


def _check_names(folder: Path, config: ModelConfig, shapes: dict[str, list[int]], findings: Findings) -> None:
    own = {name: list(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}
    wrong = [f"{name} is missing" for name in own if name not in shapes]
    wrong += [f"{name} is not known" for name in shapes if name not in own]
    wrong += [
        f"{name} is {shapes[name]} instead of {shape}"
        for name, shape in own.items()
        if name in shapes and shapes[name] != shape
    ]
    if wrong:
        findings.add(
            "policy-mismatch",
            folder / WEIGHTS,
            f"the weights do not fit the model of config.json: {several(wrong, shown=3)}",
            "config.json and the weights are of two models",
        )


def check_finite(path: Path, findings: Findings, counter: Counter) -> None:
    """Read the tensors of a safetensors file one by one, and name those that are not finite."""
    bad: list[str] = []
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad.append(name)
            counter.advance()
    if bad:
        findings.add(
            "policy-weights-not-finite",
            path,
            f"{len(bad)} tensors have NaN or infinite numbers: {several(bad, shown=3)}",
            "take an earlier checkpoint",
        )
