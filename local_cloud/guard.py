"""In front of each service of the embedded cloud: who may call it from this machine.

Loopback keeps other machines out, and nothing else. A page that is open in a browser on this machine can send requests
to 127.0.0.1, under that name or under one of its own that points there, and every other user of the machine can, too.
So each request is held against three questions before the service sees it:

1. *Host.* Is it meant for this machine? A name of somebody else's, pointed at 127.0.0.1, is refused (DNS rebinding).
2. *Origin.* Does it come from a page of the service itself, or from no page at all? ``Origin`` and ``Sec-Fetch-Site``
   are set by the browser and cannot be set by a page. A link that is followed to here (a navigation) is let through.
3. *Key.* Does the caller know this cloud's secret? Each service has its own form of it: see who makes a :class:`Guard`.

Standard library only, and nothing of ours: ``ministack_server`` loads it by its path.
"""

import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """What a caller is told, with the HTTP status and further headers."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class Guard:
    """Lets requests through to an application, or answers them with a :class:`Refusal` in JSON.

    Parameters
    ----------
    application
        What is guarded (ASGI).
    check_key
        Raises a Refusal if the caller's key is not this cloud's; gets the headers by lower-case name, and the scope.
    is_public
        Says which requests anybody may make from anywhere: an API that somebody has deployed to be called.
    """

    def __init__(
        self,
        application: Application,
        check_key: Callable[[dict[str, str], Scope], None],
        *,
        is_public: Callable[[dict[str, str], Scope], bool] = lambda _headers, _scope: False,
    ) -> None:
        self._application = application
        self._check_key = check_key
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        headers = headers_of(scope)
        try:
            check_host(headers)
            if not self._is_public(headers, scope):
                check_origin(headers, scope)
                self._check_key(headers, scope)
        except Refusal as refusal:
            await _answer(refusal, scope, send)
            return
        await self._application(scope, receive, send)


def headers_of(scope: Scope) -> dict[str, str]:
    """Return a request's headers by lower-case name; of one that comes twice, all values."""
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        headers[name] = ", ".join(filter(None, [headers.get(name), value.decode("latin-1")]))
    return headers


def is_loopback(name: str) -> bool:
    """Say whether a host name means this machine; browsers resolve ``*.localhost`` themselves."""
    return name in LOOPBACK or name.endswith(".localhost")


def check_host(headers: dict[str, str]) -> None:
    """Refuse a request that is meant for another name than this machine's.

    Raises
    ------
    Refusal
        421 (Misdirected Request).
    """
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Refusal(421, f"{host or 'no host'} is not this machine's name: only 127.0.0.1 and localhost are answered")


def check_origin(headers: dict[str, str], scope: Scope) -> None:
    """Refuse a request that a page of another origin makes.

    Raises
    ------
    Refusal
        403.
    """
    navigates = (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    origin = headers.get("origin")
    if origin is None:
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin") or navigates:
            return
    elif _is_own(origin, headers["host"]):
        return
    raise Refusal(
        403, f"pages of other origins ({origin or headers['sec-fetch-site']}) may not call the embedded cloud"
    )


def _is_own(origin: str, host: str) -> bool:
    """Say whether an origin is this very server, under any of its names."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        same_port = (theirs.port or 80) == (ours.port or 80)
    except ValueError:
        return False
    return theirs.scheme == "http" and same_port and (theirs.hostname == ours.hostname or theirs.hostname in LOOPBACK)


def same(given: str, expected: str) -> bool:
    """Compare two secrets in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _body(message: str, headers: dict[str, str]) -> tuple[str, str]:
    """Return content type and text of a refusal in the form that the caller's client reads: XML of some of AWS's."""
    signed = _SERVICE.search(headers.get("authorization", ""))
    if signed is None or signed[1] in _JSON_SERVICES or "x-amz-target" in headers:
        said = {"__type": "AccessDeniedException", "message": message, "error": message}
        return "application/json", json.dumps(said)
    error = f"<Error><Code>InvalidAccessKeyId</Code><Message>{escape(message)}</Message></Error>"
    return "application/xml", error if signed[1] == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"


#: The service in a signature's scope.
_SERVICE = re.compile(r"Credential=[^/,\s]+/\d+/[^/,\s]+/([^/,\s]+)/aws4_request")
_JSON_SERVICES = ("lambda", "apigateway", "execute-api", "sagemaker")


async def _answer(refusal: Refusal, scope: Scope, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    kind, text = _body(str(refusal), headers_of(scope))
    body = text.encode()
    headers = {"content-type": kind, "content-length": str(len(body)), **refusal.headers}
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
