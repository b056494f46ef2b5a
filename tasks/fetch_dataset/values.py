"""What a cell says, whatever it is: text, a number as it was written, a list of wordings, an object with its text."""

import ast
import datetime
import json
import math
from typing import Any

_TEXT_KEYS = ("text", "value", "content", "answer", "question", "speech", "title")
"""Under which an object of one cell keeps what it says, the likeliest first."""


class Written(float):
    """A number that remembers how it was written: 1.50 stays "1.50", and 1e3 "1e3"."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "Written":
        """Read a number from its text."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __deepcopy__(self, memo: Any) -> "Written":
        """Return itself, which nothing can change."""
        return self


def cell_text(value: Any, unanswerable: str) -> str:
    """Return what a cell says, as text; "" where it says nothing.

    A list gives its first entry and an object with ``text`` (or ``value``, ``content`` …) that entry, as in SQuAD's
    answers, where an empty list of texts means that there is no answer. A number read from text is what was written; a
    whole float of a binary format loses its ".0", which is what a column of years with gaps becomes in a data frame.

    Raises
    ------
    ValueError
        If it is none of these; the message says what was found.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Written):
        return value.text
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, list):
        return cell_text(value[0], unanswerable) if value else ""
    if isinstance(value, dict):
        key = next((key for key in _TEXT_KEYS if key in value), None)
        if key is not None:
            return unanswerable if value[key] == [] else cell_text(value[key], unanswerable)
        raise ValueError(f"an object with the keys {', '.join(map(repr, value)) or '(none)'}")
    raise ValueError(f"a value of type {type(value).__name__}")


def texts_of(value: Any) -> list[str]:
    """Return all that a cell says: one text of a plain cell, each of a list; blanks and objects without text left out.

    Parameters
    ----------
    value
        A text, a number, an object with its text, or a list of these.
    """
    items = value if isinstance(value, list) else [value]
    texts = []
    for item in items:
        try:
            text = cell_text(item, "")
        except (ValueError, RecursionError):
            continue
        if text.strip():
            texts.append(text)
    return texts


def is_text(value: Any) -> bool:
    """Say whether a value is text, an object with its text, or a list of these (and not a number or a container)."""
    if isinstance(value, list):
        return bool(value) and all(is_text(item) for item in value[:20] if not isinstance(item, list))
    if isinstance(value, dict):
        pair = "question" in value and "answer" in value
        return not pair and any(key in value and isinstance(value[key], (str, list)) for key in _TEXT_KEYS)
    return isinstance(value, str)


def listed(cell: Any) -> list[Any] | None:
    """Return the list that a text cell writes out, as JSON or as Python would; None where it is no list of texts."""
    if not isinstance(cell, str):
        return None
    text = cell.strip()
    if len(text) < 4 or text[0] != "[" or text[-1] != "]":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    good = isinstance(value, list) and value and all(isinstance(item, (str, int, float)) for item in value)
    return value if good and any(isinstance(item, str) for item in value) else None


def kind_of(value: Any) -> str:
    """Name a JSON value for messages."""
    if isinstance(value, list):
        return "an array"
    if isinstance(value, (bool, type(None))):
        return {None: "null", True: "true", False: "false"}[value]
    return "a number" if isinstance(value, (int, float)) else "a text" if isinstance(value, str) else "an object"
