"""Names are folders first; a repository's name, and nothing else, asks the hub."""

from pathlib import Path
from typing import Any

import pytest

from pizero.data.hub import find_dataset, open_dataset

FIXTURE = Path(__file__).parents[1] / "fixtures" / "lerobot" / "v3_0"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stand in for the hub: what is asked is kept, and a fixture is the answer."""
    hub = pytest.importorskip("huggingface_hub")
    requests: list[tuple[Any, ...]] = []

    def download(repository: str, *, repo_type: str, revision: str | None) -> str:
        requests.append((repository, repo_type, revision))
        return str(FIXTURE)

    monkeypatch.setattr(hub, "snapshot_download", download)
    return requests


def test_a_folder_of_that_name_is_taken(
    tmp_path: Path, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_dataset("owner/name") == Path("owner/name")
    assert asked == []


def test_a_misspelt_folder_is_no_repository(
    tmp_path: Path, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="runs/dmeo is not a LeRobot dataset"):
        open_dataset("runs/dmeo")
    assert asked == []


@pytest.mark.parametrize("name", ["data", "/data/set", "../owner/name", "a/b/c", "owner/na me"])
def test_other_names_never_reach_out(name: str, asked: list[tuple[Any, ...]]) -> None:
    assert find_dataset(name) == Path(name)
    assert asked == []


def test_a_repository_is_downloaded_and_opened(asked: list[tuple[Any, ...]]) -> None:
    assert open_dataset("owner/name").num_frames == 219
    assert open_dataset(Path("owner/name@v2.1")).num_frames == 219
    assert asked == [("owner/name", "dataset", None), ("owner/name", "dataset", "v2.1")]


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(
        ValueError, match=r"no folder owner/name, and the hub did not give .*no route to host"
    ):
        find_dataset("owner/name")
