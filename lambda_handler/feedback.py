"""Reading a verdict on an answer out of a request, as strictly as a question is read."""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from lambda_handler import asking
from lambda_handler.problem import Problem

Verdict = Literal["up", "down"]

#: What gateways and Lambda write: visible ASCII, no space.
REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
#: Code points as they are sent, before any tidying; the OpenAPI document states the same limits.
MAX_COMMENT_CHARACTERS: Final = 1_000
MAX_ANSWER_CHARACTERS: Final = 1_000
EXAMPLE: Final = '{"request_id": "…", "MLKey": "…", "verdict": "up"}'

#: As in a question: tab and line breaks are fine, other control characters are not.
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff]")
_LINE_BREAK_OR_TAB = re.compile(r"\r\n|[\r\n\t]")


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a person thinks of one answer."""

    request_id: str
    """The ``request_id`` that came with the answer."""
    mlkey: str
    verdict: Verdict
    comment: str | None = None
    answer: str | None = None
    """What the answer should have been."""


def feedback_from_fields(fields: Mapping[str, object]) -> Feedback:
    """Return the feedback in ``fields``.

    They are ``request_id``, ``MLKey`` and ``verdict``, and perhaps ``comment`` and ``answer``; others are ignored.
    A comment or an answer that is null or blank counts as absent.

    Raises
    ------
    Problem
        ``invalid-request`` if one is missing, of another type, too long, or holds characters that cannot be meant.
    """
    request_id = asking._string(fields, "request_id")
    if REQUEST_ID.fullmatch(request_id) is None:
        raise Problem("invalid-request", "request_id must be the one that came with the answer.")
    verdict = asking._string(fields, "verdict")
    if verdict not in ("up", "down"):
        raise Problem("invalid-request", 'verdict must be "up" or "down".')
    return Feedback(
        request_id=request_id,
        mlkey=asking._mlkey(asking._string(fields, "MLKey")),
        verdict=cast(Verdict, verdict),
        comment=_optional_text(fields, "comment", MAX_COMMENT_CHARACTERS),
        answer=_optional_text(fields, "answer", MAX_ANSWER_CHARACTERS),
    )


def feedback_from_body(body: str | None, *, is_base64: bool, content_type: str | None) -> Feedback:
    """Return the feedback that a request body gives: one JSON object.

    Raises
    ------
    Problem
        ``too-large``, ``unsupported-media-type``, or ``invalid-request`` if the body is no such object.
    """
    raw = asking._bytes(body or "", is_base64=is_base64)
    if len(raw) > asking.MAX_BODY_BYTES:
        raise Problem("too-large", f"The body has {len(raw):,} bytes; at most {asking.MAX_BODY_BYTES:,} are read.")
    if not raw.strip():
        raise Problem("invalid-request", f"The body is missing: send {EXAMPLE}.")
    asking._expect_json(content_type)
    try:
        # RecursionError: thousands of nested brackets fit into the limit.
        fields = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Problem("invalid-request", "The body is not JSON in UTF-8.") from None
    if not isinstance(fields, dict):
        raise Problem("invalid-request", f"The body must be one JSON object: {EXAMPLE}.")
    return feedback_from_fields(fields)


def _optional_text(fields: Mapping[str, object], name: str, limit: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Problem("invalid-request", f"{name} must be a string.")
    if len(value) > limit:
        raise Problem("invalid-request", f"{name} has {len(value):,} characters; at most {limit:,} are read.")
    if _CONTROL.search(value):
        raise Problem(
            "invalid-request", f"{name} holds control characters or halves of surrogate pairs; leave them out."
        )
    return _LINE_BREAK_OR_TAB.sub(" ", unicodedata.normalize("NFC", value)).strip() or None
