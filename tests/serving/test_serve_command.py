"""`pizero serve` as a user runs it: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pizero.serving.client import ConnectionLostError, RemotePolicy
from pizero.weights.folder import write_policy
from tests.cli.test_cli import run
from tests.examples import TINY_PI0, observation
from tests.serving.served import PATIENCE, QUICK, tiny_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = tiny_policy()
    path = tmp_path_factory.mktemp("serve") / "policy"
    write_policy(path, config=TINY_PI0, contract=policy.contract, tensors=policy.model.state_dict())
    return path


def test_a_dry_run_says_what_would_be_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    assert run(monkeypatch, "serve", folder, "--dry-run", "--host", "0.0.0.0", "--token-file", token) == 0
    text = capsys.readouterr().out
    assert "would serve at ws://0.0.0.0:8000, with a token" in text
    assert "a-token-of-some-length" not in text
    assert run(monkeypatch, "serve", folder, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["robot"] == "navigation2d"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--key", "{none}"), "--key needs the --certificate"),
        (("--certificate", "{none}"), "expected a certificate and its key in PEM form"),
        (("--token-file", "{none}"), "expected a token in the file"),
        (("--token-file", "{short}"), "expected a token of at least 16 letters"),
        (("--dashboard", "--host", "0.0.0.0", "--insecure"), "the dashboard is for this machine alone"),
        (("--port", "70000"), "expected a port from 0 to 65535"),
        (("--batch", "99"), "expected batches of 1 to 32"),
        (("--clients", "0"), "expected the limit clients above 0"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: tuple[str, ...],
    expected: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "short").write_text("short")
    places = {"none": tmp_path / "none", "short": tmp_path / "short"}
    given = [option.format(**places) for option in options]
    assert run(monkeypatch, "serve", folder, "--dry-run", *given) == 2
    assert expected in capsys.readouterr().err


def test_f17_it_ends_with_status_0_when_it_is_told_to(folder: Path) -> None:
    command = [sys.executable, "-m", "pizero", "serve", str(folder), "--port", "0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        served = json.loads(process.stdout.readline())
        with RemotePolicy(served["url"], times=QUICK) as remote:
            assert remote.act(observation()).shape == (3, 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            with pytest.raises(ConnectionLostError):
                remote.act(observation())
        assert "answered what was asked" in process.stdout.read()
