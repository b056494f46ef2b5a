"""Reading questions out of a request, strictly: what is not a valid MLKey and a valid question goes no further.

The limits stand in ``openapi.json`` too, to the letter: what that document allows is answered, the rest is refused.
"""

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
#: Code points of a question as it is sent, before any tidying.
MAX_QUESTION_CHARACTERS = 1_000
#: The model answers a batch in one call, which must end within the gateway's 29 s.
MAX_QUESTIONS = 16
#: 16 questions of 1,000 characters, each written as two six-byte escapes, and room to spare.
MAX_BODY_BYTES = 256 * 1024

_CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"
#: White space, soft hyphens, marks of direction and everything else that shows nothing: alone they ask nothing.
_INVISIBLE = (
    r"\u0009-\u000d\u0020\u00a0\u00ad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufe00-\ufe0f\ufeff"
)
#: No control characters but tab and line breaks, and something to see. The same in Python and in JSON Schema.
QUESTION = re.compile(f"^[^{_CONTROLS}]*[^{_CONTROLS}{_INVISIBLE}][^{_CONTROLS}]*$")

#: A text that may be empty. The same in Python and in JSON Schema, which has no word for halves of surrogate pairs.
TEXT = re.compile(f"^[^{_CONTROLS}]*$")

_CONTROL = re.compile(f"[{_CONTROLS}\ud800-\udfff]")
_LINE_BREAK_OR_TAB = re.compile(r"\r\n|[\r\n\t]")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asked, and which model."""

    mlkey: str
    questions: tuple[str, ...]
    is_batch: bool
    """Whether the caller sent a list, and gets one back."""


def from_fields(fields: Mapping[str, object]) -> Asked:
    """Return what ``fields`` ask: ``MLKey`` with ``question``, a string, or ``questions``, a list; others are ignored.

    A question is put into Unicode's composed form (NFC) and stripped; a line break or tab inside it counts as a space.

    Raises
    ------
    Problem
        ``invalid-request`` if one is missing, of another type, blank, too long, or holds characters that cannot be
        meant.
    """
    mlkey = _mlkey(_string(fields, "MLKey"))
    if "questions" not in fields:
        return Asked(mlkey, (_text(_string(fields, "question"), "question"),), is_batch=False)
    if "question" in fields:
        raise Problem("invalid-request", "Send either question, a string, or questions, a list; not both.")
    questions = fields["questions"]
    if not isinstance(questions, list) or not 1 <= len(questions) <= MAX_QUESTIONS:
        raise Problem("invalid-request", f"questions must be a list of 1 to {MAX_QUESTIONS} strings.")
    texts = []
    for number, question in enumerate(questions):
        if not isinstance(question, str):
            raise Problem("invalid-request", f"questions[{number}] must be a string.")
        texts.append(_text(question, f"questions[{number}]"))
    return Asked(mlkey, tuple(texts), is_batch=True)


def from_query(query: Mapping[str, Sequence[str]]) -> Asked:
    """Return what a query string asks: one question.

    Raises
    ------
    Problem
        ``invalid-request`` as in :func:`from_fields`, and if a name is given twice: gateways disagree on which of the
        two values counts.
    """
    for name in ("MLKey", "question"):
        if len(query.get(name, ())) > 1:
            raise Problem("invalid-request", f"{name} is given more than once in the query string; give it once.")
    return from_fields({name: query[name][0] for name in ("MLKey", "question") if query.get(name)})


def from_body(body: str | None, *, is_base64: bool, content_type: str | None) -> Asked:
    """Return what a request body asks: one JSON object with ``MLKey`` and ``question`` or ``questions``.

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


def _text(value: str, name: str) -> str:
    if len(value) > MAX_QUESTION_CHARACTERS:
        raise Problem(
            "invalid-request", f"{name} has {len(value):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are read."
        )
    if _CONTROL.search(value):
        raise Problem(
            "invalid-request", f"{name} holds control characters or halves of surrogate pairs; leave them out."
        )
    if QUESTION.match(value) is None:
        raise Problem("invalid-request", f"{name} is blank.")
    return _LINE_BREAK_OR_TAB.sub(" ", unicodedata.normalize("NFC", value)).strip()
