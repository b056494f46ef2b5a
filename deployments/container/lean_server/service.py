"""``GET /ping`` and ``POST /invocations`` over an archive's handlers, as one ASGI application."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from .handlers import JSON_TYPE, Handler, ModelLoadError
from .machine import describe_cpu, peak_mb, process_seconds

log = logging.getLogger("container")

#: Echoed, so that a caller can tell its calls apart.
CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"

_METHODS = {"/ping": ("GET", "HEAD"), "/invocations": ("POST",)}
_RETRY = (b"retry-after", b"1")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Limits(NamedTuple):
    """What is taken, beyond which a request is refused."""

    body_bytes: int = 6 * 1024**2
    """Of one request: the most that InvokeEndpoint takes. For a serverless endpoint SageMaker stops at 4 MB."""
    calls: int = 200
    """At once, waiting ones included: the largest MaxConcurrency of a serverless endpoint."""
    held_bytes: int = 64 * 1024**2
    """Of the bodies of these calls together."""
    body_seconds: float = 20.0
    """For a body to arrive; SageMaker gives the whole call 60."""


class Reply(NamedTuple):
    """What goes back to the caller."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RefusedError(Exception):
    """A request that is answered without the archive's functions."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.reply = _error(status, message, *headers)


class CallerLeftError(Exception):
    """Nobody waits for the answer any more."""


class Service:
    """The ASGI application; :meth:`load` loads the model, in one of the worker's threads.

    Parameters
    ----------
    model_dir
        The unpacked archive.
    workers
        Calls of the archive's functions at a time.
    limits
        Beyond which a request is refused.
    """

    def __init__(self, model_dir: Path, workers: int = 1, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self.model_dir = model_dir
        self.handler: Handler | None = None
        # One thread unless told otherwise: handlers need not be thread-safe (a fast tokenizer that two threads use at
        # once raises "Already borrowed"), and some libraries tie state to the thread that loaded them.
        self.worker = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="handler")
        self._workers = workers
        self._limits = limits
        self._failed = False
        self._answered = False
        self._calls = 0
        self._held_bytes = 0

    def load(self) -> bool:
        """Load the model; where it cannot be, log why, the reason last, and return False."""
        try:
            self.handler = Handler(self.model_dir)
        except BaseException as error:
            self._failed = True
            if not isinstance(error, ModelLoadError):
                log.error("model_fn or the import of code/inference.py failed", exc_info=error)
            reason = str(error) if isinstance(error, ModelLoadError) else f"{type(error).__name__}: {error}"
            log.error("the model could not be loaded: %s", _one_line(reason))
            return False
        log.info(
            "cold start: model loaded %.2f s after the process started (import %.2f s, model_fn %.2f s), %.0f MB; %s",
            process_seconds(),
            self.handler.import_seconds,
            self.handler.load_seconds,
            peak_mb(),
            describe_cpu(),
        )
        return True

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request; the arguments are those of the ASGI specification."""
        try:
            reply = await self._route(scope, receive)
        except RefusedError as refused:
            reply = refused.reply
        except CallerLeftError:
            return
        except asyncio.CancelledError:  # the time to drain is over
            reply = _error(503, "the server was stopped before the answer was ready", _RETRY)
        headers = [
            (b"content-type", reply.content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(reply.body)),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": [*headers, *reply.headers]})
        await send({"type": "http.response.body", "body": reply.body})

    async def _route(self, scope: dict[str, Any], receive: Receive) -> Reply:
        path, method = scope["path"], scope["method"]
        allowed = _METHODS.get(path)
        if allowed is None:
            raise RefusedError(404, "there are GET /ping and POST /invocations")
        if method not in allowed:
            raise RefusedError(405, f"{path} takes {allowed[0]}", (b"allow", ", ".join(allowed).encode()))
        if self._failed:
            raise RefusedError(500, "the model could not be loaded; the log has the reason")
        if self.handler is None:
            raise RefusedError(503, "the model is being loaded", _RETRY)
        if path == "/ping":
            return Reply(200)
        return await self._invoke(self.handler, dict(scope["headers"]), receive)

    async def _invoke(self, handler: Handler, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        """Hand one request to the archive's functions, within the limits.

        Where it is refused unread, the server drops the body as it comes in, so that the caller sees the refusal.
        """
        announced = int(headers.get(b"content-length", self._limits.body_bytes))
        if announced > self._limits.body_bytes:
            raise RefusedError(413, f"the body has {announced:,} bytes: at most {self._limits.body_bytes:,} are taken")
        if self._calls >= self._limits.calls or self._held_bytes + announced > self._limits.held_bytes:
            raise RefusedError(503, f"{self._calls} calls are waiting: try again later", _RETRY)
        self._calls += 1
        self._held_bytes += announced
        try:
            body = await self._read(receive)
            return await self._wait(self._start(handler, body, headers), receive)
        finally:
            self._calls -= 1
            self._held_bytes -= announced

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CallerLeftError
                    body += message.get("body", b"")
                    if len(body) > self._limits.body_bytes:
                        raise RefusedError(413, f"the body is larger than {self._limits.body_bytes:,} bytes")
                    more = message.get("more_body", False)
        except TimeoutError:
            reason = f"the body did not arrive within {self._limits.body_seconds:g} seconds"
            raise RefusedError(408, reason, (b"connection", b"close")) from None
        return bytes(body)

    def _start(self, handler: Handler, body: bytes, headers: dict[bytes, bytes]) -> asyncio.Future[Reply]:
        content_type = headers.get(b"content-type", b"").decode("latin-1") or JSON_TYPE
        accept = headers.get(b"accept", b"").decode("latin-1") or JSON_TYPE
        if accept == "*/*":
            accept = JSON_TYPE
        echo = tuple((name, value) for name, value in headers.items() if name == CUSTOM_ATTRIBUTES)
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self.worker, self._call, handler, body, content_type, accept, echo)

    async def _wait(self, answer: asyncio.Future[Reply], receive: Receive) -> Reply:
        if self._calls <= self._workers:  # it has begun
            return await answer
        # After the body, receive() returns when the caller has gone. What nobody waits for is then not begun.
        gone = asyncio.ensure_future(receive())
        try:
            waiting: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if not answer.done():
            answer.cancel()
            log.warning("a caller left before its answer")
            raise CallerLeftError
        return answer.result()

    def _call(
        self, handler: Handler, body: bytes, content_type: str, accept: str, headers: tuple[tuple[bytes, bytes], ...]
    ) -> Reply:
        # In the worker's thread every error is caught: some, such as StopIteration, a future cannot carry.
        start = time.monotonic()
        try:
            reply = Reply(200, handler(body, content_type, accept), accept, headers)
        except ValueError as error:
            log.warning("refused a request: %s", _one_line(str(error)))
            return _error(400, str(error), *headers)
        except BaseException as error:
            log.error("the handler failed", exc_info=error)
            message = f"the handler failed with {type(error).__name__}; the log has the traceback"
            return _error(500, message, *headers)
        if not self._answered:
            self._answered = True
            log.info(
                "cold start: first answer %.2f s after the process started (%.2f s in the handler), peak %.0f MB",
                process_seconds(),
                time.monotonic() - start,
                peak_mb(),
            )
        return reply


def _error(status: int, message: str, *headers: tuple[bytes, bytes]) -> Reply:
    """Return an error as the JSON that the Hugging Face containers give."""
    body = json.dumps({"code": status, "message": message}, ensure_ascii=False)
    return Reply(status, body.encode("utf-8", "backslashreplace"), JSON_TYPE, headers)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
