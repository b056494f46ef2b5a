"""Reading a verdict on an answer out of a request, as strictly as a question is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from lambda_handler import fields as members
from lambda_handler.asking import MAX_QUESTIONS
from lambda_handler.body import json_object
from lambda_handler.problem import Problem

Verdict = Literal["up", "down"]

#: What gateways and Lambda write: visible ASCII, no space.
REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
#: Code points as they are sent, before any tidying; the OpenAPI document states the same limits.
MAX_COMMENT_CHARACTERS: Final = 1_000
MAX_ANSWER_CHARACTERS: Final = 1_000
EXAMPLE: Final = '{"request_id": "…", "MLKey": "…", "verdict": "up"}'


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
    index: int | None = None
    """Which question of a list is meant, from 0."""


def feedback_from_fields(fields: Mapping[str, object]) -> Feedback:
    """Return the feedback in ``fields``.

    They are ``request_id``, ``MLKey`` and ``verdict``, and perhaps ``index``, ``comment`` and ``answer``; others are
    ignored. A comment or an answer that is null or blank counts as absent, and so does an index that is null.

    Raises
    ------
    Problem
        ``invalid-request`` if one is missing, of another type, out of its range, too long, or holds characters that
        cannot be meant.
    """
    request_id = members.string(fields, "request_id")
    if REQUEST_ID.fullmatch(request_id) is None:
        raise Problem("invalid-request", "request_id must be the one that came with the answer.")
    verdict = members.string(fields, "verdict")
    if verdict not in ("up", "down"):
        raise Problem("invalid-request", 'verdict must be "up" or "down".')
    return Feedback(
        request_id=request_id,
        mlkey=members.mlkey(fields),
        verdict=cast(Verdict, verdict),
        comment=_optional_text(fields, "comment", MAX_COMMENT_CHARACTERS),
        answer=_optional_text(fields, "answer", MAX_ANSWER_CHARACTERS),
        index=_index(fields.get("index")),
    )


def feedback_from_body(body: str | None, *, is_base64: bool, content_type: str | None) -> Feedback:
    """Return the feedback that a request body gives: one JSON object.

    Raises
    ------
    Problem
        ``too-large``, ``unsupported-media-type``, or ``invalid-request`` if the body is no such object.
    """
    return feedback_from_fields(
        json_object(
            body,
            is_base64=is_base64,
            content_type=content_type,
            missing=f"The body is missing: send {EXAMPLE}.",
            example=EXAMPLE,
        )
    )


def _optional_text(fields: Mapping[str, object], name: str, limit: int) -> str | None:
    if fields.get(name) is None:
        return None
    return members.tidy(members.string(fields, name), name, limit=limit) or None


def _index(value: object) -> int | None:
    if value is None:
        return None
    # JSON Schema, and so the OpenAPI document, counts 1.0 among the whole numbers, and true not.
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(MAX_QUESTIONS):
        raise Problem("invalid-request", f"index must be a whole number from 0 to {MAX_QUESTIONS - 1}.")
    return int(value)
