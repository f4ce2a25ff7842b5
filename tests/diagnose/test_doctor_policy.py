"""Every fault planted in a policy, a checkpoint or a run is told under its code, and whole ones pass."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.contract import FieldStatistics, TokenFile
from pizero.diagnose.doctor.doctor import examine, subject_of
from pizero.diagnose.doctor.findings import Finding
from pizero.models.build import build
from pizero.records import write_record
from pizero.robots import NAVIGATION2D
from pizero.training.checkpoint import Progress, save_checkpoint
from pizero.training.state import make_state
from pizero.weights.folder import CONFIG, CONTRACT, MANIFEST, WEIGHTS, seal, write_policy
from tests.examples import TINY_PI0, contract
from tests.small import small_config

Harm = Callable[[Path], object]


def told(findings: tuple[Finding, ...], *severities: str) -> set[str]:
    return {one.code for one in findings if one.severity in (severities or ("error", "warning"))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "policy"
    tensors = {name: tensor.clone() for name, tensor in build(TINY_PI0, seed=3).state_dict().items()}
    write_policy(folder, config=TINY_PI0, contract=contract(), tensors=tensors)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "policy"))


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Harm:
    """Return a harm: a record changed by hand, its hash brought up to date."""

    def harm(folder: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")
        seal(folder)

    return harm


def with_contract(**changes: Any) -> Harm:
    def harm(folder: Path) -> None:
        write_record(folder / CONTRACT, dataclasses.replace(contract(), **changes))
        seal(folder)

    return harm


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    def harm(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        seal(folder)

    return harm


def byte_changed(name: str) -> Harm:
    def harm(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-5] ^= 1
        (folder / name).write_bytes(bytes(data))

    return harm


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    first = sorted(tensors)[0]
    tensors[first].view(-1)[0] = float("nan")


def with_state(change: Callable[[FieldStatistics], FieldStatistics]) -> Harm:
    whole = contract().statistics
    return with_contract(statistics=dataclasses.replace(whole, state=change(whole.state)))


def flat(field: FieldStatistics) -> FieldStatistics:
    return dataclasses.replace(field, std=(0.0, *field.std[1:]))


def negative(field: FieldStatistics) -> FieldStatistics:
    return dataclasses.replace(field, std=(-1.0, *field.std[1:]))


def infinite(data: dict[str, Any]) -> None:
    data["statistics"]["state"]["std"][0] = float("inf")


def other_rate() -> Harm:
    return with_contract(embodiment=dataclasses.replace(NAVIGATION2D, rate=7.0))


HARMS: list[tuple[str, Harm, set[str]]] = [
    ("weights-missing", lambda f: (f / WEIGHTS).unlink(), {"not-a-policy"}),
    ("contract-missing", lambda f: (f / CONTRACT).unlink(), {"not-a-policy"}),
    ("manifest-missing", lambda f: (f / MANIFEST).unlink(), {"not-a-policy"}),
    ("config-byte-changed", byte_changed(CONFIG), {"policy-file-damaged", "policy-record-damaged"}),
    ("weights-byte-changed", byte_changed(WEIGHTS), {"policy-file-damaged"}),
    ("weights-cut", cut, {"policy-file-damaged"}),
    ("manifest-cut", lambda f: (f / MANIFEST).write_text('{"files": {'), {"policy-record-damaged"}),
    ("config-unknown-field", edit(CONFIG, lambda d: d.update(colour=3)), {"policy-record-damaged"}),
    (
        "contract-not-utf8",
        lambda f: ((f / CONTRACT).write_bytes(b"\xff"), seal(f)),
        {"policy-record-damaged"},
    ),
    ("horizon-differs", edit(CONFIG, lambda d: d.update(horizon=4)), {"policy-mismatch"}),
    ("image-size-differs", with_contract(image_size=24), {"policy-mismatch"}),
    ("state-width-differs", edit(CONFIG, lambda d: d.update(state_dim=5)), {"policy-mismatch"}),
    ("tensor-missing", with_tensors(lambda t: t.pop(sorted(t)[0])), {"policy-mismatch"}),
    ("tensor-unknown", with_tensors(lambda t: t.update(extra=torch.zeros(3))), {"policy-mismatch"}),
    ("tensor-not-finite", with_tensors(not_finite), {"policy-weights-not-finite"}),
    ("statistics-flat", with_state(flat), {"dimension-not-normalised"}),
    ("statistics-negative", with_state(negative), {"policy-statistics"}),
    ("statistics-infinite", edit(CONTRACT, infinite), {"policy-statistics"}),
    (
        "tokenizer-missing",
        with_contract(tokenizer=TokenFile(name="tokenizer.model", sha256="0" * 64)),
        {"tokenizer-differs"},
    ),
    (
        "tokenizer-of-another-model",
        lambda f: (
            (f / "tokenizer.model").write_bytes(b"other"),
            with_contract(tokenizer=TokenFile(name="tokenizer.model", sha256="0" * 64))(f),
        ),
        {"tokenizer-differs"},
    ),
    ("robot-differs", other_rate(), {"robot-differs"}),
]


def test_a_whole_policy_has_no_finding_at_all(written: Path) -> None:
    assert examine(written) == ()


@pytest.mark.parametrize(("harm", "codes"), [case[1:] for case in HARMS], ids=[case[0] for case in HARMS])
def test_a_harmed_policy_is_told_and_nothing_else(folder: Path, harm: Harm, codes: set[str]) -> None:
    harm(folder)
    findings = examine(folder)
    assert told(findings) == codes, "\n".join(map(str, findings))


def test_all_faults_are_told_at_once(folder: Path) -> None:
    with_tensors(not_finite)(folder)
    with_state(flat)(folder)
    byte_changed(WEIGHTS)(folder)
    assert told(examine(folder)) == {
        "policy-weights-not-finite",
        "dimension-not-normalised",
        "policy-file-damaged",
    }


def test_an_unknown_robot_and_an_extra_file_are_notes(folder: Path) -> None:
    with_contract(embodiment=dataclasses.replace(NAVIGATION2D, name="my_robot"))(folder)
    (folder / "notes.txt").write_text("mine")
    findings = examine(folder)
    assert told(findings, "note") == {"robot-unknown", "policy-unlisted-file"}
    assert told(findings) == set()


def test_quick_reads_no_weights_but_their_names(folder: Path) -> None:
    with_tensors(not_finite)(folder)
    assert examine(folder, quick=True) == ()
    with_tensors(lambda t: t.update(extra=torch.zeros(3)))(folder)
    assert told(examine(folder, quick=True)) == {"policy-mismatch"}


@pytest.fixture(scope="module")
def finished(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "training"
    folder.mkdir()
    write_record(folder / "config.json", small_config(num_steps=10))
    write_record(folder / "contract.json", contract())
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.5}\n{"step": 2, "loss": 1.25}\n')
    state = make_state(replace(small_config(num_steps=10), model=TINY_PI0, seed=3), start=None)
    for step in (5, 10):
        progress = Progress(step=step, fingerprint="0")
        save_checkpoint(folder / "checkpoints", progress, state)
    shutil.copytree(written, folder / "policy")
    return folder


RUN_HARMS: list[tuple[str, Harm, set[str]]] = [
    ("config-missing", lambda f: (f / "config.json").unlink(), {"policy-record-damaged"}),
    (
        "checkpoint-cut",
        lambda f: (f / "checkpoints/step-00000010/state-00001-of-00001.safetensors").write_bytes(b"x"),
        {"checkpoint-damaged"},
    ),
    (
        "checkpoint-renamed",
        lambda f: (f / "checkpoints/step-00000005").rename(f / "checkpoints/step-00000007"),
        {"checkpoint-damaged"},
    ),
    (
        "loss-not-finite",
        lambda f: (f / "metrics.jsonl").write_text('{"step": 3, "loss": null}\n'),
        {"loss-not-finite"},
    ),
    (
        "contract-of-another-run",
        lambda f: write_record(f / "contract.json", dataclasses.replace(contract(), instruction="other")),
        {"policy-mismatch"},
    ),
]


def test_a_finished_run_has_no_finding_at_all(finished: Path) -> None:
    assert examine(finished) == ()
    assert examine(finished / "checkpoints" / "step-00000010") == ()


@pytest.mark.parametrize(
    ("harm", "codes"), [case[1:] for case in RUN_HARMS], ids=[case[0] for case in RUN_HARMS]
)
def test_a_harmed_run_is_told_and_nothing_else(
    finished: Path, tmp_path: Path, harm: Harm, codes: set[str]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    harm(folder)
    findings = examine(folder)
    assert told(findings) == codes, "\n".join(map(str, findings))


def test_what_an_interrupted_run_leaves_are_notes(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(folder / "policy")
    (folder / "checkpoints" / "step-00000011.partial").mkdir()
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')
    findings = examine(folder)
    assert told(findings) == set()
    assert told(findings, "note") == {"run-unfinished", "partial-left-over"}


def test_a_folder_is_recognised_by_its_files(finished: Path, tmp_path: Path) -> None:
    assert subject_of(finished) == "run"
    assert subject_of(finished / "policy") == "policy"
    assert subject_of(finished / "checkpoints" / "step-00000010") == "checkpoint"
    assert subject_of(None) == "machine"
    with pytest.raises(ValueError, match="there are training: name one of them"):
        subject_of(finished.parent)
    with pytest.raises(ValueError, match="found nothing at"):
        subject_of(tmp_path / "none")


def test_a_manifest_that_leads_out_is_told(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_text("secret")
    data = json.loads((folder / MANIFEST).read_text())
    data["files"]["../outside"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(data))
    findings = examine(folder)
    assert told(findings) == {"policy-record-damaged"}
