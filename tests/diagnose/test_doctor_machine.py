"""The machine's checks: requirements against versions, threads, codecs, and a renderer that fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pizero.diagnose.doctor import machine as doctor_machine
from pizero.diagnose.doctor.findings import Findings
from pizero.diagnose.doctor.machine import check_packages, check_threads, examine_machine, version_of

REQUIRED = ["numpy>=1.26", "Typing_Extensions>=4 ; extra == 'dev'", "jaxtyping >=0.3", "ruamel.yaml>=0.18"]
INSTALLED = {
    "numpy": "2.1.0",
    "jaxtyping": "0.3.2",
    "ruamel-yaml": "0.18.6",
    "torch": "2.7.0+cpu",
    "tensorstore": "0.1.86",
    "zstandard": "0.22",
    "metaworld": "3.1.1",
    "mujoco": "3.3.0",
}


def told(installed: dict[str, str]) -> list[tuple[str, str]]:
    findings = Findings()
    check_packages(installed, findings, required=REQUIRED)
    return [(one.code, one.place) for one in findings.found]


def test_what_is_required_and_there_is_not_told() -> None:
    assert told(INSTALLED) == []


def test_missing_and_old_packages_are_told() -> None:
    rest = {name: version for name, version in INSTALLED.items() if name != "ruamel-yaml"}
    assert told(rest) == [("package-missing", "ruamel-yaml")]
    assert told(INSTALLED | {"numpy": "1.9.5"}) == [("package-too-old", "numpy")]


def test_a_version_is_compared_by_its_numbers() -> None:
    assert version_of("2.13.0+cpu") > version_of("2.9")
    assert version_of("1.26.4") < version_of("2.0.0rc1")


def test_packages_that_do_not_work_together_are_told() -> None:
    assert told(INSTALLED | {"torch": "2.2.1"}) == [("package-combination", "numpy 2.1.0, torch 2.2.1")]
    assert told(INSTALLED | {"mujoco": "3.3.2"}) == [("package-combination", "metaworld 3.1.1, mujoco 3.3.2")]


def test_an_extra_that_is_not_there_is_a_note() -> None:
    rest = {name: version for name, version in INSTALLED.items() if name != "tensorstore"}
    findings = Findings()
    check_packages(rest, findings, required=REQUIRED)
    (one,) = findings.found
    assert (one.code, one.severity, one.place) == ("extra-missing", "note", "orbax")


def test_more_threads_than_cores_are_told() -> None:
    findings = Findings()
    check_threads(
        {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "many"}, 2, findings
    )
    assert [(one.code, one.place) for one in findings.found] == [
        ("threads-oversubscribed", "OMP_NUM_THREADS")
    ]


def test_this_machine_writes_and_reads_both_codecs(tmp_path: Path) -> None:
    codes = {one.code for one in examine_machine(tmp_path, drawing=False)}
    assert not codes & {"codec-broken", "codec-missing", "package-missing", "package-too-old"}
    assert "machine" in codes


def test_a_codec_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no encoder of that name")

    monkeypatch.setattr(doctor_machine, "encode_video", refuse)
    codes = {one.code: one.what for one in examine_machine(tmp_path, drawing=False)}
    assert codes["codec-broken"] == codes["codec-missing"] == "no encoder of that name"


def test_a_codec_that_changes_colours_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        doctor_machine, "decode_video", lambda path: (255 - frame for frame in decode_again(path))
    )
    decode_again = sys.modules["pizero.data.video"].decode_video
    assert "codec-broken" in {one.code for one in examine_machine(tmp_path, drawing=False)}


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (torch.full((64, 64), 1.0), "machine"),
        (torch.full((64, 64), 0.5), "gpu-unusable"),
        (RuntimeError("no kernel image is available\nfor execution"), "gpu-unusable"),
    ],
    ids=["works", "computes-wrongly", "refuses"],
)
def test_a_gpu_must_compute(
    monkeypatch: pytest.MonkeyPatch, result: torch.Tensor | RuntimeError, code: str
) -> None:
    """PyTorch's answers about a GPU are played; whether one computes is seen by a product."""

    def ones(*_: object, **__: object) -> torch.Tensor:
        if isinstance(result, RuntimeError):
            raise result
        return result

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (3 << 30, 8 << 30))
    monkeypatch.setattr(torch, "ones", ones)
    findings = Findings()
    doctor_machine._check_gpu(findings)
    (one,) = findings.found
    assert (one.code, one.place) == (code, "cuda:0")
    assert one.what.startswith("Some GPU")
    assert "for execution" not in one.what


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit(0)", None),
        ("raise SystemExit('the picture is of one colour')", "the picture is of one colour"),
        ("raise ImportError('Cannot initialize a EGL device display')", "Cannot initialize a EGL"),
        ("import os; os.abort()", "exit status -6"),
        ("import time; time.sleep(60)", "no picture after"),
    ],
    ids=["works", "one-colour", "no-display", "crashes", "hangs"],
)
def test_a_renderer_is_tried_in_another_process(
    monkeypatch: pytest.MonkeyPatch, script: str, reason: str | None
) -> None:
    monkeypatch.setattr(doctor_machine, "DRAWING", script)
    monkeypatch.setattr(doctor_machine, "DRAWING_SECONDS", 1 if "sleep" in script else 60)
    findings = Findings()
    doctor_machine._check_drawing(findings)
    if reason is None:
        assert findings.found == []
    else:
        (one,) = findings.found
        assert one.code == "rendering-broken"
        assert reason in one.what


def test_the_drawing_script_is_python() -> None:
    compile(doctor_machine.DRAWING, "drawing", "exec")
