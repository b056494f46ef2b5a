"""Between HTTP and the Hub's own functions: routing by the undecoded path, tokens, bodies and errors.

Handlers are plain functions from a :class:`Call` to a response. They run in a thread each, because they sync files.
"""

import base64
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.repositories import Kind, Repositories, Repository

MAX_BODY = 512 * 1024 * 1024
log = logging.getLogger("askline.local_cloud.hub")


class RepoConvertor(Convertor[str]):
    """A repository id in a path: ``name`` or ``owner/name``."""

    regex = "[^/]+(?:/[^/]+)?"

    def convert(self, value: str) -> str:
        """Return the id as it stands in the URL."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id as it stands in the URL."""
        return value


register_url_convertor("repo", RepoConvertor())


def given_token(authorization: str) -> str:
    """Return the token of an Authorization header: a bearer token, or the password that a browser was given."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value).decode().partition(":")[2]
    return ""


class UndecodedPath:
    """Route by the path as it was sent: ``refs%2Fpr%2F1`` is one part of it, not three."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with the path as it was sent."""
        if scope["type"] == "http" and scope.get("raw_path"):
            scope = {**scope, "path": scope["raw_path"].split(b"?")[0].decode("ascii")}
        await self.app(scope, receive, send)


@dataclass
class Call:
    """A request with what a handler needs beside it."""

    request: Request
    repositories: Repositories
    body: bytes = b""

    @property
    def base(self) -> str:
        """The address that the client uses for this Hub."""
        return str(self.request.base_url).rstrip("/")

    @property
    def has_token(self) -> bool:
        """Whether the caller is the local user. Where the Hub has a token of its own, others do not come this far."""
        return bool(given_token(self.request.headers.get("authorization", "")))

    def param(self, name: str) -> str:
        """Return a part of the path, decoded."""
        return unquote(self.request.path_params[name])

    def flag(self, name: str) -> bool:
        """Return whether a query option is on."""
        return self.request.query_params.get(name, "").lower() in {"1", "true"}

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises
        ------
        RefusedError
            400 if it is not one.
        """
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RefusedError(400, "the body is not a JSON object")
        return value

    def need_token(self) -> None:
        """Raise 401 if the caller has no token."""
        if not self.has_token:
            raise RefusedError(401, "Invalid username or password. Writing needs a token; this Hub takes any.")

    def repository(self, kind: Kind, *, write: bool = False, browser: bool = False) -> Repository:
        """Return the repository that the path names.

        Parameters
        ----------
        write
            The call changes it, so a token is needed.
        browser
            A person looks at a page on this machine: private repositories are shown without a token.

        Raises
        ------
        RefusedError
            RepoNotFound where there is none, or it is private and there is no token; 401 without a token, else 404.
        """
        repo_id = self.param("repo")
        repo = self.repositories.find(kind, repo_id)
        if repo is None or (repo.private and not self.has_token and not browser):
            status, hint = (404, "") if self.has_token else (401, " that can be seen without a token")
            raise RefusedError(status, f"there is no repository {repo_id!r} among the {kind}{hint}", "RepoNotFound")
        if write:
            self.need_token()
        return repo


Handler = Callable[[Call], Response]


def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Turn a handler into what Starlette routes to."""

    async def answer(request: Request) -> Response:
        try:
            body = await read_body(request)
            call = Call(request, request.app.state.repositories, body)
            return await run_in_threadpool(handler, call)
        except RefusedError as refusal:
            return refused(refusal)
        except ClientDisconnect:
            return refused(RefusedError(400, "the request ended before its last byte"))
        except FileNotFoundError:
            return refused(RefusedError(404, "it has been deleted meanwhile", "RepoNotFound"))
        except OSError as error:
            log.exception("a file could not be read or written")
            return refused(RefusedError(507, f"the Hub could not read or write its state: {error.strerror}"))

    return answer


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises
    ------
    RefusedError
        413 above 512 MiB: large files go through LFS, which streams them to the disk.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise RefusedError(413, f"the body is larger than {MAX_BODY} bytes; upload large files through LFS")
        chunks.append(chunk)
    return b"".join(chunks)


def refused(refusal: RefusedError) -> Response:
    """Say no in the form that the official clients read."""
    headers = {"X-Error-Message": " ".join(refusal.message.split()).encode("ascii", "replace").decode()}
    if refusal.code is not None:
        headers["X-Error-Code"] = refusal.code
    if refusal.commit is not None:
        headers["X-Repo-Commit"] = refusal.commit
    return JSONResponse({"error": refusal.message}, status_code=refusal.status, headers=headers)
