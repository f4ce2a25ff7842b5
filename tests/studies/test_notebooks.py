"""The notebooks are valid, hold no outputs, and their code runs as it stands."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "studies" / "notebooks").glob("*.ipynb"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Undo what a notebook changes for its whole process."""
    threads, places = torch.get_num_threads(), list(sys.path)
    yield
    torch.set_num_threads(threads)
    sys.path[:] = places


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_format_4_5_and_no_outputs(path: Path) -> None:
    """Required keys of nbformat's schema, version 4.5."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert cell["metadata"] == {}
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert not cell["source"][-1].endswith("\n")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            assert set(cell) == {"cell_type", "id", "metadata", "source"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files(path: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "markdown")
    places = [part.split(")")[0] for part in text.split("](")[1:]]
    assert places
    for place in places:
        assert (path.parent / place).resolve().exists(), place


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one script: cells share a namespace, and a last expression is only evaluated."""
    for code in code_of(path):
        ast.parse(code)
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(code_of(path)), encoding="utf-8")
    monkeypatch.chdir(path.parent)
    found = runpy.run_path(str(script))
    assert isinstance(found["figure"], Figure)
    assert capsys.readouterr().out
