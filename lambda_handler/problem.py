"""Errors as callers see them: RFC 9457 problem documents, one kind for each thing that can go wrong.

A problem says what is wrong and what to do. It never carries a stack trace, an AWS message, an account id or an
endpoint's name; those go to the log.
"""

from typing import Final, Literal

Kind = Literal[
    "invalid-request",
    "unknown-mlkey",
    "unknown-path",
    "method-not-allowed",
    "too-large",
    "unsupported-media-type",
    "throttled",
    "internal",
    "model-failed",
    "not-ready",
    "model-timeout",
]

#: HTTP status and title of each kind.
KINDS: Final[dict[Kind, tuple[int, str]]] = {
    "invalid-request": (400, "The request is not valid"),
    "unknown-mlkey": (404, "There is no such MLKey"),
    "unknown-path": (404, "There is no such path"),
    "method-not-allowed": (405, "The path does not take this method"),
    "too-large": (413, "The request body is too large"),
    "unsupported-media-type": (415, "The request body must be JSON"),
    "throttled": (429, "The model is answering as many questions as it may"),
    "internal": (500, "Something is wrong on our side"),
    "model-failed": (502, "The model did not give a usable answer"),
    "not-ready": (503, "Not ready yet"),
    "model-timeout": (504, "The model took too long"),
}

#: Kinds that API Gateway answers with before, or instead of, this function, with their status: what its template
#: (``deployments/api.yaml``) says beside ``throttled`` and ``too-large``. "gateway" is whatever it has no word for.
GATEWAY: Final[dict[str, int | None]] = {
    "unauthorized": 401,
    "forbidden": 403,
    "quota-exceeded": 429,
    "timeout": 504,
    "gateway": None,
}


class Problem(Exception):  # noqa: N818 - named as RFC 9457 names it
    """A request that cannot be answered, and why.

    Parameters
    ----------
    kind
        Which problem it is; decides status and title.
    detail
        What is wrong with this request and what to do, for the person who sent it.
    headers
        Further response headers, such as ``Retry-After`` in seconds.
    """

    def __init__(self, kind: Kind, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.headers = headers or {}

    def document(self, request_id: str) -> dict[str, object]:
        """Return the members of the problem document."""
        return {
            "type": f"urn:askline:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
