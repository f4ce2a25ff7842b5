"""The texts of the tasks: empty ones, ones that occur twice, and ones that differ by a slip of the pen."""

from __future__ import annotations

import unicodedata
from collections import Counter
from difflib import SequenceMatcher

from pizero.diagnose.doctor.columns import Numbers
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source

SIMILAR = 0.75
"""A pair of words is a slip of the pen if this share of their letters is the same, in order."""
MAX_PAIRS = 200_000
"""Pairs up to which spelling is compared; of more tasks, only case, spaces and punctuation are."""


def check_tasks(source: Source, numbers: Numbers, findings: Findings) -> None:
    """Look at the texts of the table, and at those that episodes name."""
    if source.tasks is None or findings.has("tasks-damaged"):
        return
    place = source.folder / "meta"
    texts = source.tasks
    empty = [number for number, text in texts.items() if not text.strip()]
    if empty:
        findings.add(
            "task-empty",
            place,
            f"tasks without a text: {several(empty)}",
            "say what was asked in these episodes",
        )
    twice = [repr(text) for text, count in Counter(texts.values()).items() if count > 1 and text.strip()]
    if twice:
        findings.add(
            "task-duplicate", place, f"texts of several tasks: {several(twice)}", "make one task of them"
        )
    pairs = similar(sorted({text for text in texts.values() if text.strip()}))
    if pairs:
        shown = several((f"{one!r} and {other!r}" for one, other in pairs), shown=3)
        findings.add(
            "task-similar", place, f"nearly the same: {shown}", "write one task in one way, if they are one"
        )
    unknown = sorted({text for episode in source.episodes for text in episode.tasks} - set(texts.values()))
    if unknown:
        findings.add(
            "tasks-damaged",
            place,
            f"episodes name tasks that are not in the table: {several(map(repr, unknown), shown=3)}",
            "add them to the table of tasks",
        )
    unused = [number for number in texts if number not in numbers.task_counts]
    if unused and numbers.task_counts:
        findings.add("task-unused", place, f"tasks of no frame: {several(unused)}", "no harm is done")


def similar(texts: list[str]) -> list[tuple[str, str]]:
    """Return pairs of texts that differ by case, spaces or punctuation, or by the spelling of one word.

    A word is misspelt if most of its letters stand in the same order and it is not a number, a short word or
    another text's word elsewhere: `left` and `right` are two words, `drawer` and `drawr` one.
    """
    words = {text: _words(text) for text in texts}
    found: list[tuple[str, str]] = []
    known = Counter(word for own in words.values() for word in set(own))
    buckets: dict[object, list[str]] = {}
    for text, own in words.items():
        buckets.setdefault(tuple(own), []).append(text)
        if len(texts) ** 2 <= MAX_PAIRS:
            for place in range(len(own)):
                buckets.setdefault((len(own), place, *own[:place], None, *own[place + 1 :]), []).append(text)
    for bucket in buckets.values():
        for index, one in enumerate(bucket):
            for other in bucket[index + 1 :]:
                differing = [(a, b) for a, b in zip(words[one], words[other], strict=True) if a != b]
                if (not differing or _misspelt(*differing[0], known)) and (one, other) not in found:
                    found.append((one, other))
    return found


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter if letter.isalnum() else " " for letter in plain).split()


def _misspelt(one: str, other: str, known: Counter[str]) -> bool:
    if min(len(one), len(other)) < 4 or any(letter.isdigit() for letter in one + other):
        return False
    short, long = sorted((one, other), key=len)
    if min(known[one], known[other]) > 1 or (long.endswith(short) and len(long) - len(short) > 1):
        return False  # words that are used elsewhere, and `unlock` beside `lock`
    return SequenceMatcher(None, one, other, autojunk=False).ratio() > SIMILAR
