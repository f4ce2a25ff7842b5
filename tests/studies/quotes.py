"""Numbers that a page quotes from the studies' own files, and what it says otherwise than they do.

A quoted number is followed by a comment with the place where it comes from, as in
`0.05 (0.04–0.06)<!--navigation/flow matching/distance-->`: a study's JSON file, then keys. Brackets hold the
interval; % stands for hundredths.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUMBER = r"[−-]?\d[\d,]*(?:\.\d+)?"
QUOTE = re.compile(
    rf"(?P<value>{NUMBER})(?P<percent> %)?"
    rf"(?: \((?P<low>{NUMBER})–(?P<high>{NUMBER})(?: %)?\))?<!--(?P<place>[^>]*)-->"
)
"""A quoted number, its interval if there is one, and where they come from."""

MIDDLES = ("success", "mean", "value")
"""Keys of which a row with an interval has one."""


@dataclass(frozen=True)
class Studies:
    """The folder of the studies' JSON files."""

    folder: Path

    def read(self, study: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{study}.json").read_text(encoding="utf-8"))

    def look_up(self, place: str) -> Any:
        study, *keys = place.split("/")
        value: Any = self.read(study)
        for key in keys:
            value = value[int(key)] if isinstance(value, list) else value[key]
        return value

    def wrong(self, quote: re.Match[str]) -> list[str]:
        """Return what a quote says otherwise than its source."""
        found, percent = self.look_up(quote["place"]), bool(quote["percent"])
        if not isinstance(found, dict):
            found = {"value": found}
        pairs = [(quote["value"], next(found[key] for key in MIDDLES if key in found))]
        if quote["low"] is not None:
            pairs += list(zip((quote["low"], quote["high"]), found["interval"], strict=True))
        return [
            f"{text} is {value} in {quote['place']}"
            for text, value in pairs
            if value is None or not agrees(text, value, percent=percent)
        ]


def agrees(text: str, value: float, *, percent: bool) -> bool:
    """Tell whether a number is the value, rounded as it is written."""
    written = text.replace("−", "-").replace(",", "")
    digits = len(written.partition(".")[2])
    exact = value * 100 if percent else value
    return abs(float(written) - exact) <= 0.5 * 10.0**-digits * (1 + 1e-6)


def prose(text: str) -> str:
    """Return a page without code, formulas, links' targets and quotes."""
    text = QUOTE.sub("", text)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"arXiv \d{4}\.\d{5}|π0\.5|95 % (?=interval|of resamples)", "", text)
