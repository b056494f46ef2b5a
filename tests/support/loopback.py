"""Servers on loopback: the handler behind one that makes a REST API proxy's events, and one that replies as told."""

import base64
import contextlib
import http.server
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

#: What API Gateway adds in front of the path and takes away again.
STAGE = "/default"

#: Status, headers and body.
Reply = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def _running(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    # Each connection has its thread, or a client that keeps one open would keep all others waiting.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def replying(reply: Callable[[str, bytes], Reply]) -> Iterator[str]:
    """Serve on loopback what ``reply(path, body)`` says, and yield the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = reply(self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with _running(Handler) as url:
        yield url


@contextlib.contextmanager
def serving(handler: Callable[[Any], dict[str, Any]]) -> Iterator[str]:
    """Serve on loopback, one request after the other as one Lambda environment does, and yield the stage's URL."""

    class Gateway(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: otherwise the second waits 40 ms for the first one's acknowledgement.
        wbufsize = -1

        def answer(self) -> None:
            reply = handler(self.event())
            body = reply["body"].encode()
            self.send_response(reply["statusCode"])
            for name, values in reply["multiValueHeaders"].items():
                for value in values:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def event(self) -> dict[str, Any]:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True, errors="replace")
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                body, is_base64 = raw.decode(), False
            except UnicodeDecodeError:
                body, is_base64 = base64.b64encode(raw).decode(), True
            path = unquote(parts.path).removeprefix(STAGE) or "/"
            return {
                "resource": "/" if path == "/" else "/{proxy+}",
                "path": path,
                "httpMethod": self.command,
                "headers": dict(self.headers.items()) or None,
                "multiValueHeaders": {name: self.headers.get_all(name) for name in self.headers} or None,
                "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
                "multiValueQueryStringParameters": query or None,
                "pathParameters": None if path == "/" else {"proxy": path.strip("/")},
                "stageVariables": None,
                "requestContext": {"requestId": str(uuid.uuid4()), "stage": STAGE.strip("/")},
                "body": body or None,
                "isBase64Encoded": is_base64,
            }

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            pass

    with _running(Gateway) as url:
        yield f"{url}{STAGE}/"
