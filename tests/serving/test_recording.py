"""What a server wrote down is what was asked and answered, and the same policy answers it the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pizero.diagnose.explain.served import replay_recording
from pizero.models.pi0 import Pi0
from pizero.serving.client import RemotePolicy, ServerError
from pizero.serving.recording import read_recording
from pizero.types import Continuation, Observation
from pizero.weights.folder import write_policy
from tests.cli.test_cli import run
from tests.examples import TINY_PI0, observation
from tests.serving.served import QUICK, Scripted, running, tiny_policy


def recorded(folder: Path) -> list[np.ndarray]:
    """Record three answers of the tiny policy, the last to a continuation."""
    planned = Continuation(actions=np.full((2, 2), 0.5, np.float32), delay=1, execution=1)
    with running(tiny_policy(), record=folder) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        remote.reset(seed=3)
        chunks = [remote.act(observation(seed=1)), remote.act(observation(seed=2), num_steps=3)]
        return [*chunks, remote.act(observation(seed=3), continuation=planned)]


def test_a_recording_is_what_was_asked_and_answered(tmp_path: Path) -> None:
    chunks = recorded(tmp_path / "recording")
    policy, requests = read_recording(tmp_path / "recording")
    assert policy.contract == tiny_policy().contract.sha256
    found = list(requests)
    assert [request.line.outcome for request in found] == ["OK"] * 3
    for seed, (request, chunk) in enumerate(zip(found, chunks, strict=True), start=1):
        assert request.actions is not None
        assert np.array_equal(request.actions, chunk)
        seen = observation(seed=seed)
        assert np.array_equal(request.observation.images["top"], seen.images["top"])
        assert np.array_equal(request.observation.state, seen.state)
        assert request.observation.instruction == seen.instruction
    assert found[1].line.num_steps == 3
    assert found[2].continuation is not None
    assert np.array_equal(found[2].continuation.actions, np.full((2, 2), 0.5))


def test_explain_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path / "recording")
    policy = tiny_policy()
    for name, factor in (("same", 1.0), ("other", 1.5)):
        tensors = {key: factor * tensor for key, tensor in policy.model.state_dict().items()}
        write_policy(tmp_path / name, config=TINY_PI0, contract=policy.contract, tensors=tensors)
    assert run(monkeypatch, "explain", tmp_path / "same", tmp_path / "recording", "--json") == 0
    same = json.loads(capsys.readouterr().out)
    assert same["largest"] == 0.0
    assert len(same["requests"]) == 3
    assert run(monkeypatch, "explain", tmp_path / "other", tmp_path / "recording") == 1
    assert "3 requests, largest difference" in capsys.readouterr().out


def test_a_recording_has_an_end(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    with running(record=folder, record_bytes=6000) as server, RemotePolicy(server.uri, times=QUICK) as remote:
        for _ in range(6):
            remote.act(observation())
        server.wait_for(
            lambda: server.figure("pizero_recorded_total") + server.figure("pizero_not_recorded_total") == 6,
            "each is written or counted",
        )
        assert server.figure("pizero_not_recorded_total") >= 3
    assert sum(path.stat().st_size for path in folder.iterdir()) < 14_000


def test_errors_of_the_model_are_recorded_too(tmp_path: Path, unchecked: None) -> None:
    policy = Scripted(lambda seen: np.full((3, 2), np.nan, dtype=np.float32))
    with (
        running(policy, record=tmp_path / "r") as server,
        RemotePolicy(server.uri, times=QUICK) as remote,
        pytest.raises(ServerError, match="BAD_OUTPUT"),
    ):
        remote.act(observation())
    _, requests = read_recording(tmp_path / "r")
    (request,) = requests
    assert (request.line.outcome, request.actions) == ("BAD_OUTPUT", None)


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    recorded(tmp_path / "recording")
    with (
        pytest.raises(ValueError, match="holds a recording already"),
        running(record=tmp_path / "recording"),
    ):
        pass


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    recorded(tmp_path / "recording")
    (tmp_path / "recording" / "000001.npz").write_bytes(b"no zip")
    _, requests = read_recording(tmp_path / "recording")
    with pytest.raises(ValueError, match="cannot be read"):
        list(requests)
    policy = tiny_policy()
    write_policy(
        tmp_path / "policy", config=TINY_PI0, contract=policy.contract, tensors=policy.model.state_dict()
    )
    with pytest.raises(ValueError, match="cannot be read"):
        replay_recording(policy, tmp_path / "policy", tmp_path / "recording")


def test_a_policy_that_refuses_now_is_as_far_off_as_can_be(tmp_path: Path) -> None:
    recorded(tmp_path / "recording")

    class Refusing(Scripted):
        def prepare(self, observation: Observation, **given: object) -> object:  # pyright: ignore
            raise ValueError("no")

    policy = tiny_policy()
    write_policy(
        tmp_path / "p", config=TINY_PI0, contract=policy.contract, tensors=Pi0(TINY_PI0).state_dict()
    )
    replay = replay_recording(Refusing(lambda seen: None), tmp_path / "p", tmp_path / "recording")
    assert replay.largest == float("inf")
    assert not replay.same_policy
