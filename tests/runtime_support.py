"""A SageMaker runtime of a few lines behind the embedded cloud's gateway, for tests of the API itself."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from askline.clients import aws_client
from askline.records import Target
from tasks import registry

#: Status, headers and body.
Reply = tuple[int, dict[str, str], bytes]


def answering(*answers: str) -> Reply:
    """Return the reply of a package's endpoint."""
    body = {"answers": [{"answer": text, "confidence": 0.5} for text in answers], "model_version": "m-1"}
    return 200, {}, json.dumps(body).encode()


@contextlib.contextmanager
def runtime_behind(
    cloud: Target, *mlkeys: str, bucket: str, reply: Callable[[str, dict[str, Any]], Reply]
) -> Iterator[Target]:
    """Yield the cloud with a bucket and MLKeys whose endpoints reply as ``reply(mlkey, request)`` says."""

    class Runtime(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            mlkey = self.path.removeprefix("/endpoints/serv-hf-endpoint-").removesuffix("/invocations")
            status, headers, body = reply(mlkey, request)
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Runtime)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoints = {**cloud.endpoints, "sagemaker-runtime": f"http://127.0.0.1:{server.server_port}"}
        target = cloud.model_copy(update={"endpoints": endpoints})
        aws_client(target, "s3").create_bucket(Bucket=bucket)
        for mlkey in mlkeys:
            registry.promote(
                mlkey,
                endpoint=f"serv-hf-endpoint-{mlkey}",
                model_version="m-0",
                archive_sha256="0" * 64,
                dataset="d",
                exact_match=0.5,
                run_id="r",
                target=target,
            )
        yield target
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
