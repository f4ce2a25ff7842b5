"""Who may come in: one shared token, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

MIN_TOKEN = 16
"""Characters: shorter ones can be guessed."""


def read_token(path: Path) -> str:
    """Return the token in a file, without the white space around it; ValueError if it is not usable."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a token in the file {path}: {error}") from None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{path}: expected a token of at least {MIN_TOKEN} letters, digits and signs, no blanks; make "
            f'one with `python -c "import secrets; print(secrets.token_urlsafe(32))" > {path}`'
        )
    return token


def may_enter(token: str, authorization: str) -> bool:
    """Return whether an `Authorization` header holds the token; any, if there is none to hold.

    `Api-Key TOKEN` is what openpi's clients send, `Bearer TOKEN` is everybody's. Digests are compared, in
    constant time, so neither the time nor the length tells how much of a guess is right.
    """
    if not token:
        return True
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() not in ("api-key", "bearer"):
        given = ""
    return hmac.compare_digest(_digest(given.strip()), _digest(token))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).digest()
