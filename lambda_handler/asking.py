"""Reading questions out of a request, strictly: what is not a valid MLKey and a valid question goes no further."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lambda_handler import fields as members
from lambda_handler.body import json_object
from lambda_handler.fields import CONTROLS
from lambda_handler.problem import Problem

#: Code points of a question as it is sent, before any tidying.
MAX_QUESTION_CHARACTERS = 1_000
#: The model answers a batch in one call, which must end within the gateway's 29 s.
MAX_QUESTIONS = 16

#: White space, soft hyphens, marks of direction and everything else that shows nothing: alone they ask nothing.
_INVISIBLE = (
    r"\u0009-\u000d\u0020\u00a0\u00ad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufe00-\ufe0f\ufeff"
)
#: No control characters but tab and line breaks, and something to see. The same in Python and in JSON Schema.
QUESTION = re.compile(f"^[^{CONTROLS}]*[^{CONTROLS}{_INVISIBLE}][^{CONTROLS}]*$")


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
    mlkey = members.mlkey(fields)
    if "questions" not in fields:
        return Asked(mlkey, (_question(members.string(fields, "question"), "question"),), is_batch=False)
    if "question" in fields:
        raise Problem("invalid-request", "Send either question, a string, or questions, a list; not both.")
    questions = fields["questions"]
    if not isinstance(questions, list) or not 1 <= len(questions) <= MAX_QUESTIONS:
        raise Problem("invalid-request", f"questions must be a list of 1 to {MAX_QUESTIONS} strings.")
    texts = []
    for number, question in enumerate(questions):
        if not isinstance(question, str):
            raise Problem("invalid-request", f"questions[{number}] must be a string.")
        texts.append(_question(question, f"questions[{number}]"))
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
    return from_fields(
        json_object(
            body,
            is_base64=is_base64,
            content_type=content_type,
            missing="MLKey and question are missing: "
            'send ?MLKey=…&question=… or a JSON body with "MLKey" and "question".',
            example='{"MLKey": "…", "question": "…"}',
        )
    )


def _question(value: str, name: str) -> str:
    text = members.tidy(value, name, limit=MAX_QUESTION_CHARACTERS)
    if QUESTION.match(value) is None:
        raise Problem("invalid-request", f"{name} is blank.")
    return text
