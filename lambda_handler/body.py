"""Reading the body of a request: one JSON object, of a size that is worth reading."""

import base64
import binascii
import json
from email.message import Message

from lambda_handler.problem import Problem

#: 16 questions of 1,000 characters, each written as two six-byte escapes, and room to spare.
MAX_BYTES = 256 * 1024


def json_object(
    body: str | None, *, is_base64: bool, content_type: str | None, missing: str, example: str
) -> dict[str, object]:
    """Return the JSON object that a request body is.

    Parameters
    ----------
    body, is_base64, content_type
        As the gateway gives them.
    missing, example
        What the caller of this route is told where there is no body, and where it is no object.

    Raises
    ------
    Problem
        ``too-large``, ``unsupported-media-type``, or ``invalid-request`` if the body is no such object.
    """
    raw = _bytes(body or "", is_base64=is_base64)
    if len(raw) > MAX_BYTES:
        raise Problem("too-large", f"The body has {len(raw):,} bytes; at most {MAX_BYTES:,} are read.")
    if not raw.strip():
        raise Problem("invalid-request", missing)
    _expect_json(content_type)
    try:
        # RecursionError: thousands of nested brackets fit into the limit.
        found = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Problem("invalid-request", "The body is not JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise Problem("invalid-request", f"The body must be one JSON object: {example}.")
    return found


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
