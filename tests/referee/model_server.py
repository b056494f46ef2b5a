"""AWS's model server: Java in front, the official handler service behind, on loopback."""

import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from referee.toolkit import Answer, Request, container_environment

SECONDS = 180


class ModelServer:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        """All that it has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def ping(self) -> int:
        """Return the status of ``GET /ping``."""
        status: int = self._call("GET", "/ping").status
        return status

    def ask(self, request: Request) -> Answer:
        """Put one request."""
        headers = {"Content-Type": request.content_type, "Accept": request.accept}
        return self._call("POST", "/invocations", request.body.encode("utf-8", "surrogateescape"), headers)

    def _call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode(), answer.getheader("content-type"))


@contextlib.contextmanager
def running(python: Path, model: Path, folder: Path) -> Iterator[ModelServer]:
    """Serve an unpacked archive as the container's entry point does, and end every process of it afterwards.

    The settings are those that the toolkit writes, but for the addresses: its own are open to the network.
    """
    if shutil.which("java") is None:
        pytest.skip("no model server: there is no java on this machine")
    folder.mkdir(parents=True)
    # Its sockets lie in the temporary folder, and a socket's path may have about 100 characters.
    with (
        tempfile.TemporaryDirectory(prefix="mms-") as short,
        _running(python, model, folder, Path(short)) as server,
    ):
        yield server


@contextlib.contextmanager
def _running(python: Path, model: Path, folder: Path, short: Path) -> Iterator[ModelServer]:
    port, management = _free_ports()
    settings = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{management}",
        "default_service_handler": "sagemaker_huggingface_inference_toolkit.handler_service",
        "default_workers_per_model": "1",
        "decode_input_request": "false",
        "number_of_netty_threads": "2",
        "vmargs": "-Xmx128m -XX:-UseContainerSupport -XX:TieredStopAtLevel=1",
    }
    config = folder / "config.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    command: list[str | Path] = [python, "-m", "mms.model_server", "--start", "--foreground", "--model-store", "/"]
    command += ["--mms-config", config, "--models", f"model={model}"]
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=container_environment(short) | {"PYTHONPATH": f"{model / 'code'}:"},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    server = ModelServer(process, port, log)
    try:
        _wait(server)
        yield server
    finally:
        # The group holds the starter, Java, and Java's Python workers.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _wait(server: ModelServer) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log
        with contextlib.suppress(OSError, http.client.HTTPException):
            if server.ping() == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"the model server gave no healthy /ping in {SECONDS} s:\n{server.log}")


def _free_ports() -> list[int]:
    """Return two free ports that the server accepts: it takes none above 32766."""
    found: list[int] = []
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == 2:
            return found
    raise AssertionError("no two free ports between 20000 and 32000")
