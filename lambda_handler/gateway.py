"""API Gateway's proxy events and responses, as plain dictionaries of the types that they should have."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aws_lambda_powertools.event_handler import Response

JSON: Final = "application/json; charset=utf-8"
PROBLEM_JSON: Final = "application/problem+json; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE)


def request_in(event: Any, *, fallback_request_id: str) -> dict[str, Any] | None:
    """Return what the routes read of a REST API's proxy event, each part of the type it should have.

    Gateways send ``null`` for what is absent and differ in the case of header names; an event typed by hand may
    hold anything. None if the event is not from a gateway at all.
    """
    if not isinstance(event, dict):
        return None
    method, path = event.get("httpMethod"), event.get("path")
    if not isinstance(method, str) or not isinstance(path, str):
        return None
    context = _mapping(event.get("requestContext"))
    request_id = context.get("requestId")
    body = event.get("body")
    query = {name: [value] for name, value in _mapping(event.get("queryStringParameters")).items()}
    query.update(_mapping(event.get("multiValueQueryStringParameters")))
    return {
        "version": "1.0",
        "resource": path,
        "path": path or "/",
        "httpMethod": method.upper(),
        "headers": {
            name.lower(): value for name, value in _mapping(event.get("headers")).items() if isinstance(value, str)
        },
        "multiValueHeaders": {},
        "queryStringParameters": {},
        "multiValueQueryStringParameters": {
            name: [value for value in values if isinstance(value, str)]
            for name, values in query.items()
            if isinstance(values, list)
        },
        "requestContext": {
            "requestId": request_id if _is_plain(request_id) else fallback_request_id,
            "path": context.get("path"),
        },
        "body": body if isinstance(body, str) else None,
        "isBase64Encoded": event.get("isBase64Encoded") is True,
    }


def prefers_html(accept: str | None) -> bool:
    """Say whether an ``Accept`` header asks for a page rather than for JSON: browsers' do, curl's ``*/*`` does not.

    The most specific range that covers a type decides how much it is wanted (RFC 9110, section 12.5.1).
    """
    ranges: dict[str, float] = {}
    for part in (accept or "").lower().split(","):
        name, *parameters = part.split(";")
        found = (_QUALITY.fullmatch(parameter) for parameter in parameters)
        ranges[name.strip()] = next((float(quality[1]) for quality in found if quality), 1.0)

    def wanted(kind: str) -> float:
        covering = (kind, kind.split("/")[0] + "/*", "*/*")
        return next((ranges[name] for name in covering if name in ranges), 0.0)

    return wanted("text/html") > wanted("application/json")


def json_response(
    status: int, body: Mapping[str, object], content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response[Any]:
    """Return a response for Powertools to send, with ``body`` encoded once."""
    return Response(
        status_code=status,
        content_type=content_type,
        body=json.dumps(body, ensure_ascii=False, allow_nan=False),
        headers={**HEADERS, **(headers or {})},
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 128 and value.isascii() and value.isprintable()


def _mapping(value: Any) -> dict[str, Any]:
    return {key: item for key, item in value.items() if isinstance(key, str)} if isinstance(value, dict) else {}
