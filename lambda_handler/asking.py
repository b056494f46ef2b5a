"""Reading a question out of a request, strictly: what is not a valid MLKey and a valid question goes no further."""

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message

from lambda_handler.problem import Problem

#: The names that callers may use. With the prefix of the endpoint names it keeps within SageMaker's 63 characters.
MLKEY = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
MAX_MLKEY_CHARACTERS = 46
MAX_QUESTION_CHARACTERS = 1_000
#: Far above 1,000 characters in any encoding, far below what JSON parsing could choke on.
MAX_BODY_BYTES = 64 * 1024

_LINE_BREAK_OR_TAB = re.compile(r"\r\n|[\r\n\t]")


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asked, and which model."""

    mlkey: str
    text: str


def from_fields(fields: Mapping[str, object]) -> Question:
    """Return the question that ``fields`` (``MLKey`` and ``question``; others are ignored) ask.

    The question is put into Unicode's composed form (NFC) and stripped; a line break or tab inside it counts as a
    space.

    Raises
    ------
    Problem
        ``invalid-request`` if one is missing, no string, blank, too long, or holds characters that cannot be meant.
    """
    return Question(mlkey=_mlkey(_string(fields, "MLKey")), text=_text(_string(fields, "question")))


def from_query(query: Mapping[str, Sequence[str]]) -> Question:
    """Return the question that a query string asks.

    Raises
    ------
    Problem
        ``invalid-request`` as in :func:`from_fields`, and if a name is given twice: gateways disagree on which of the
        two values counts.
    """
    for name in ("MLKey", "question"):
        if len(query.get(name, ())) > 1:
            raise Problem("invalid-request", f"{name} is given more than once in the query string; give it once.")
    return from_fields({name: values[0] for name, values in query.items() if values})


def from_body(body: str | None, *, is_base64: bool, content_type: str | None) -> Question:
    """Return the question that a request body asks: one JSON object with ``MLKey`` and ``question``.

    Raises
    ------
    Problem
        ``too-large``, ``unsupported-media-type``, or ``invalid-request`` if the body is no such object.
    """
    raw = _bytes(body or "", is_base64=is_base64)
    if len(raw) > MAX_BODY_BYTES:
        raise Problem("too-large", f"The body has {len(raw):,} bytes; at most {MAX_BODY_BYTES:,} are read.")
    if raw.strip():
        _expect_json(content_type)
    else:
        raise Problem(
            "invalid-request",
            'MLKey and question are missing: send ?MLKey=…&question=… or a JSON body with "MLKey" and "question".',
        )
    try:
        # RecursionError: thousands of nested brackets fit into the limit.
        fields = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Problem("invalid-request", "The body is not JSON in UTF-8.") from None
    if not isinstance(fields, dict):
        raise Problem("invalid-request", 'The body must be one JSON object: {"MLKey": "…", "question": "…"}.')
    return from_fields(fields)


def _bytes(body: str, *, is_base64: bool) -> bytes:
    if not is_base64:
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Problem("invalid-request", "The body is marked as base64 but is not.") from None


def _expect_json(content_type: str | None) -> None:
    """Refuse a body that says that it is something else than JSON in UTF-8; one that says nothing is taken as JSON."""
    if content_type is None or not content_type.strip():
        return
    message = Message()
    message["content-type"] = content_type
    kind = message.get_content_type()
    charset = str(message.get_content_charset("utf-8"))
    if (kind == "application/json" or kind.endswith("+json")) and charset in ("utf-8", "utf8", "us-ascii"):
        return
    raise Problem("unsupported-media-type", "Send the body with the header Content-Type: application/json, in UTF-8.")


def _string(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise Problem("invalid-request", f"{name} is missing.")
    if not isinstance(value, str):
        raise Problem("invalid-request", f"{name} must be a string.")
    return value


def _mlkey(value: str) -> str:
    if len(value) > MAX_MLKEY_CHARACTERS or MLKEY.fullmatch(value) is None:
        raise Problem(
            "invalid-request",
            f"MLKey must be 1 to {MAX_MLKEY_CHARACTERS} letters, digits and hyphens, a letter or digit at each end.",
        )
    return value


def _text(value: str) -> str:
    text = _LINE_BREAK_OR_TAB.sub(" ", unicodedata.normalize("NFC", value)).strip()
    categories = {unicodedata.category(character) for character in text}
    if categories & {"Cc", "Cs"}:
        raise Problem(
            "invalid-request", "question holds control characters or halves of surrogate pairs; leave them out."
        )
    # Separators and invisible format characters alone ask nothing.
    if not any(category[0] not in "ZC" for category in categories):
        raise Problem("invalid-request", "question is blank.")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise Problem(
            "invalid-request", f"question has {len(text):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are read."
        )
    return text
