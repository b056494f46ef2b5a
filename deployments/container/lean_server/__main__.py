"""Serve until a signal ends it: ``python -m lean_server serve --model-dir DIR --port 8080``."""

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from .machine import count_cpus
from .service import Limits, Service

#: For calls in flight to end after SIGTERM; SageMaker kills after 30.
DRAIN_SECONDS = 25
#: For a connection without a call; longer than the 60 after which the load balancers of AWS let go.
KEEP_ALIVE_SECONDS = 75
#: Variables that say how many threads an engine may use: OpenMP's and this project's.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "ASKLINE_TORCH_THREADS")


class Lifetime:
    """Ends the server at a signal, or when the model cannot be loaded; both may come before there is a server."""

    def __init__(self) -> None:
        self.status = 0
        self._ending = False
        self._server: Any = None
        # Not left to the default: as a container's first process it would ignore SIGTERM.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end(0))

    def end(self, status: int) -> None:
        """Let the server finish what it has taken, and end with this status."""
        self.status = self.status or status
        self._ending = True
        if self._server is not None:
            self._server.should_exit = True

    def run(self, server: Any, listener: socket.socket) -> None:
        """Run a server until it is to end."""
        self._server = server
        if not self._ending:
            server.run(sockets=[listener])


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; what it leaves out comes from the environment, then from SageMaker's own defaults."""
    parser = argparse.ArgumentParser(prog="serve.py", description="A lean server for one unpacked SageMaker archive.")
    parser.add_argument(
        "command", nargs="?", choices=["serve"], default="serve", help="what SageMaker runs images with"
    )
    parser.add_argument("--model-dir", type=Path, default=Path("/opt/ml/model"), help="folder with the archive's files")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0 inside a container)")
    port, workers = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"), os.environ.get("ASKLINE_WORKERS", "1")
    parser.add_argument("--port", type=int, default=port, help="default: SAGEMAKER_BIND_TO_PORT, or 8080")
    parser.add_argument("--fd", type=int, help="file descriptor of a listening socket, instead of --host and --port")
    parser.add_argument("--workers", type=int, default=workers, help="calls at a time; default: ASKLINE_WORKERS, or 1")
    parser.add_argument("--drain-seconds", type=int, default=DRAIN_SECONDS, help="for calls in flight after SIGTERM")
    limits = Limits()
    body_mb = os.environ.get("ASKLINE_MAX_BODY_MB", str(limits.body_bytes / 2**20))
    parser.add_argument("--max-body-mb", type=float, default=body_mb, help="default: ASKLINE_MAX_BODY_MB, or 6")
    parser.add_argument("--body-seconds", type=float, default=limits.body_seconds, help="for a body to arrive")
    options = parser.parse_args(argv)
    if not options.model_dir.is_dir():
        parser.error(f"--model-dir {options.model_dir}: there is no such folder")
    if options.workers < 1:
        parser.error(f"--workers (or ASKLINE_WORKERS) is {options.workers}: expected 1 or more")
    return options


def listen(host: str, port: int, descriptor: int | None = None) -> socket.socket:
    """Return a listening socket, taken over or new, whose connections send what they have at once.

    asyncio sees to that only where a socket names its protocol, which one from ``socket.create_server`` does not: an
    answer's second packet then waits for the caller's delayed acknowledgement of the first, 40 ms on Linux.
    """
    listener = socket.create_server((host, port)) if descriptor is None else socket.socket(fileno=descriptor)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


def main(argv: list[str] | None = None) -> None:
    """Serve; ends the process, with 0 after a signal, 1 where the model could not be loaded or the port is taken."""
    options = read_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    lifetime = Lifetime()
    try:
        listener = listen(options.host, options.port, options.fd)
    except (OSError, OverflowError) as error:
        sys.exit(f"serve.py: error: cannot listen on {options.host}:{options.port}: {error}")
    # Before any engine is imported: OpenMP reads its variable once.
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(max(1, count_cpus() // options.workers)))
    limits = Limits(body_bytes=int(options.max_body_mb * 2**20), body_seconds=options.body_seconds)
    service = Service(options.model_dir.resolve(), options.workers, limits)

    def load() -> None:
        if not service.load():
            lifetime.end(1)

    # The model loads while the server's own library is imported; callers wait in the listening socket's queue.
    service.worker.submit(load)
    import uvicorn

    config = uvicorn.Config(
        service,  # type: ignore[arg-type]
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=options.drain_seconds,
    )
    lifetime.run(uvicorn.Server(config), listener)
    # Not a plain return: a handler that never returns would keep the interpreter from ending.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(lifetime.status)


if __name__ == "__main__":
    main()
