"""An instruction as a policy may be given it: one short line of text that can be shown anywhere."""

from __future__ import annotations

import unicodedata

MAX_CHARACTERS = 200
"""Of an instruction; those of robot datasets have ten words or so."""


def one_line(text: str, *, max_characters: int = MAX_CHARACTERS) -> str:
    """Return a text without control, formatting and unassigned characters, its spaces single.

    ValueError if nothing is left, or more than `max_characters`: half an instruction may say the opposite.
    """
    if len(text) > 16 * max_characters:
        raise ValueError(f"expected an instruction of at most {max_characters} characters, found {len(text)}")
    spaced = "".join(" " if character.isspace() else character for character in text)
    printable = "".join(character for character in spaced if unicodedata.category(character)[0] != "C")
    found = " ".join(unicodedata.normalize("NFC", printable).split())
    if not found:
        raise ValueError("expected an instruction, found a text with nothing to read in it")
    if len(found) > max_characters:
        raise ValueError(
            f"expected an instruction of at most {max_characters} characters, found {len(found)}: "
            f"{found[:40]!r} …"
        )
    return found


def brief(error: BaseException, *, max_characters: int = MAX_CHARACTERS) -> str:
    """Return an error as one short line: its name, and the beginning of what it says."""
    words = str(error)[: 4 * max_characters]
    try:
        said = one_line(words, max_characters=4 * max_characters)[:max_characters]
    except ValueError:
        said = "without words"
    return f"{type(error).__name__}: {said}"
