"""The page on flow matching on a robot against the studies' own files: numbers, figures, commands, links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.studies.quotes import QUOTE, Studies, prose

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "flow-matching-on-a-robot.md"
STUDIES = Studies(ROOT / "docs" / "images" / "robot")
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_quoted_number_is_the_study_s() -> None:
    quotes = list(QUOTE.finditer(TEXT))
    assert len(quotes) >= 15
    assert [line for quote in quotes for line in STUDIES.wrong(quote)] == []
    assert TEXT.count("<!--") == len(quotes), "a comment without a number"


@pytest.mark.parametrize("text", ["0.81", "0.82 (0.73–0.90)", "−0.82"])
def test_a_wrong_number_is_found(text: str) -> None:
    """One Euler step solved 0.82 (0.733 to 0.883)."""
    (quote,) = QUOTE.finditer(f"{text}<!--solvers/closed_loop/euler-1-->")
    assert STUDIES.wrong(quote)
    (right,) = QUOTE.finditer("0.82 (0.73–0.88)<!--solvers/closed_loop/euler-1-->")
    assert not STUDIES.wrong(right)


def test_every_measured_number_names_its_source() -> None:
    """Whatever has a decimal point in the prose is a measurement, and measurements are quoted."""
    assert re.findall(r"\d+\.\d+[^\n]{0,30}|\d+ ?[%×][^\n]{0,30}", prose(TEXT)) == []


@pytest.mark.parametrize("path", sorted(STUDIES.folder.glob("*.json")), ids=lambda path: path.stem)
def test_every_figure_is_shown_with_its_command_and_was_made_in_full(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["quick"] is False
    study = path.stem.partition("_metaworld")[0].partition("_navigation2d")[0]
    shown = TEXT.index(f"](images/robot/{path.stem}.png)")
    assert TEXT.index(f"python -m studies.robot.{study} ", shown) > 0
    assert (ROOT / "studies" / "robot" / f"{study}.py").exists()
    assert path.with_suffix(".svg").exists()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for target in links:
        assert target.startswith("http") or (PAGE.parent / target).exists(), target
