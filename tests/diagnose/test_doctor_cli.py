"""What `pizero doctor` prints and returns, and the table of codes behind it."""

import json
from pathlib import Path

import pytest

from pizero.cli.doctor import doctor
from pizero.diagnose.doctor.findings import RULES, exit_status, finding, in_order, several
from tests.diagnose.clean_dataset import record, write_clean
from tests.diagnose.corruptions import edit_everywhere, edit_info, videos

ROOT = Path(__file__).parents[2]


def run(*arguments: object, **options: bool) -> int:
    try:
        doctor(*arguments, **options)  # type: ignore[arg-type]
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_clean(tmp_path / "dataset", "v2.1", record(0, num_episodes=6, length=30))


def test_a_clean_dataset_passes_and_the_next_command_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "dataset: nothing wrong was found" in out
    assert f"next: pizero train --dataset {folder}" in out


def test_an_error_is_status_2_and_names_file_code_and_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = videos(folder)[2]
    path.write_bytes(b"")
    assert run(folder) == 2
    out = capsys.readouterr().out
    assert "error [video-damaged]" in out
    assert str(path) in out
    assert "next:" not in out


def test_a_warning_is_status_0_and_with_strict_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_everywhere(folder, lambda values, owner: values[:, 5].fill(0.25))
    assert run(folder) == 0
    assert "warning [constant-dimension]" in capsys.readouterr().out
    assert run(folder, strict=True) == 1


def test_json_holds_every_finding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos(folder)[0].unlink()
    assert run(folder, as_json=True) == 2
    data = json.loads(capsys.readouterr().out)
    assert data["subject"] == "dataset"
    (found,) = [one for one in data["findings"] if one["severity"] == "error"]
    assert found["code"] == "video-missing"
    assert found["place"] == str(videos(folder)[0].with_name("episode_000000.mp4"))


def test_a_fault_of_every_file_does_not_fill_the_screen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_info(folder, fps=30)
    assert run(folder) == 2
    out = capsys.readouterr().out
    assert out.count("error [rate-mismatch]") == 5
    assert "… and 13 more [rate-mismatch]: --json lists all" in out
    assert "dataset: 18 errors" in out


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no dataset, policy or training run"):
        doctor(tmp_path)
    with pytest.raises(ValueError, match="--max-frames"):
        doctor(tmp_path, max_frames=-1)


def test_findings_are_ordered_and_counted() -> None:
    note, warning, error = (finding(c, "here", "a", "b") for c in ("no-gpu", "outlier", "data-missing"))
    assert in_order([note, warning, error, note]) == (error, warning, note)
    assert [exit_status(found, strict=False) for found in ([], [note], [warning], [error, warning])] == [
        0,
        0,
        0,
        2,
    ]
    assert [exit_status(found, strict=True) for found in ([], [note], [warning], [error, warning])] == [
        0,
        0,
        1,
        2,
    ]
    assert several(range(7)) == "0, 1, 2, 3, 4 and 2 more"


def test_the_page_explains_every_code() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    missing = [
        code for code, rule in RULES.items() if f"| `{code}` | {rule.severity} | {rule.meaning} |" not in page
    ]
    assert missing == []


def test_every_code_is_used_somewhere() -> None:
    files = [*(ROOT / "pizero/diagnose/doctor").glob("*.py"), *(ROOT / "pizero/data").glob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [code for code in RULES if f'"{code}"' not in source] == []
