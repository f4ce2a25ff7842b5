"""The page on flow matching on a robot against the studies' own files: numbers, figures, commands and links.

A number that it quotes is followed by a comment with the place where it comes from, as in the guide
(`tests/studies/test_guide.py`): a study's JSON file, then keys. Brackets hold the interval.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "flow-matching-on-a-robot.md"
FIGURES = ROOT / "docs" / "images" / "robot"
TEXT = PAGE.read_text(encoding="utf-8")

NUMBER = r"[−-]?\d+(?:\.\d+)?"
QUOTE = re.compile(
    rf"(?P<value>{NUMBER})(?: \((?P<low>{NUMBER})–(?P<high>{NUMBER})\))?<!--(?P<place>[^>]*)-->"
)


def look_up(place: str) -> Any:
    study, *keys = place.split("/")
    value: Any = json.loads((FIGURES / f"{study}.json").read_text(encoding="utf-8"))
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def agrees(text: str, value: float) -> bool:
    """Tell whether a number is the value, rounded as it is written."""
    written = text.replace("−", "-")
    return abs(float(written) - value) <= 0.5 * 10.0 ** -len(written.partition(".")[2]) * (1 + 1e-6)


def wrong(quote: re.Match[str]) -> list[str]:
    """Return what a quote says otherwise than its source."""
    found = look_up(quote["place"])
    if not isinstance(found, dict):
        found = {"mean": found}
    pairs = [(quote["value"], found["success"] if "success" in found else found["mean"])]
    if quote["low"] is not None:
        pairs += list(zip((quote["low"], quote["high"]), found["interval"], strict=True))
    return [f"{text} is {value} in {quote['place']}" for text, value in pairs if not agrees(text, value)]


def test_every_quoted_number_is_the_study_s() -> None:
    quotes = list(QUOTE.finditer(TEXT))
    assert len(quotes) >= 15
    assert [line for quote in quotes for line in wrong(quote)] == []
    assert TEXT.count("<!--") == len(quotes), "a comment without a number"


@pytest.mark.parametrize("text", ["0.81", "0.82 (0.73–0.90)", "−0.82"])
def test_a_wrong_number_is_found(text: str) -> None:
    """One Euler step solved 0.82 (0.733 to 0.883)."""
    (quote,) = QUOTE.finditer(f"{text}<!--solvers/closed_loop/euler-1-->")
    assert wrong(quote)
    (right,) = QUOTE.finditer("0.82 (0.73–0.88)<!--solvers/closed_loop/euler-1-->")
    assert not wrong(right)


def test_every_measured_number_names_its_source() -> None:
    """Whatever has a decimal point in the prose is a measurement, and measurements are quoted."""
    text = QUOTE.sub("", TEXT)
    for left_out in (r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"arXiv \d{4}\.\d{5}|π0\.5"):
        text = re.sub(left_out, "", text, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+[^\n]{0,30}", text) == []


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.json")), ids=lambda path: path.stem)
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
