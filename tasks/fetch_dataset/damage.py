"""Letters that were damaged before the file came here: told with what they probably were, never mended in silence."""

import re

REPLACEMENT = "\ufffd"
"""Stands where a program could not read a letter; what it was is lost."""
# UTF-8 that was read as a Western code page and written as UTF-8 again begins with one of these, and goes on so.
_SUSPECT = re.compile(
    "[\u00c2-\u00f4\u0102\u0103\u0139\u00d0\u00d1\u0420\u0421][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)


def damage(text: str) -> str | None:
    """Say what is damaged in a text; None where nothing is.

    Letters that were encoded twice ("geÃ¶ffnet") are found by ftfy, which says what they were.
    """
    if REPLACEMENT in text:
        at = text.index(REPLACEMENT)
        return f"{_around(text, at)!r} holds U+FFFD, where a letter was lost"
    suspect = _SUSPECT.search(text)
    if suspect is None:
        return None
    import ftfy

    mended = ftfy.fix_encoding(text)
    if mended == text:
        return None
    at = next((n for n, (a, b) in enumerate(zip(text, mended, strict=False)) if a != b), 0)
    return f"{_around(text, at)!r} seems encoded twice; it was probably {_around(mended, at)!r}"


def _around(text: str, at: int) -> str:
    start = text.rfind(" ", 0, at) + 1
    end = text.find(" ", at)
    return text[max(start, at - 30) : min(end if end >= 0 else len(text), at + 30)]
