"""Run the embedded Hub: ``python -m local_cloud.hub --port 8900 --state .askline/hub``."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from askline.errors import AsklineError, LocalCloudError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address (port 0: any free one).

    Raises
    ------
    LocalCloudError
        If the port is taken or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named outright, because asyncio turns off Nagle's delay (40 ms an answer) only where it sees the protocol.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise LocalCloudError(
            f"the Hub cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}. "
            "Stop what uses the port, or choose another with --port."
        ) from error
    return sock


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local_cloud.hub", description="The embedded Hugging Face Hub.")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 takes a free one and logs it")
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps the repositories; made if missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--access-log", action="store_true", help="log every request")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log = logging.getLogger("askline.local_cloud.hub")
    try:
        import uvicorn

        from local_cloud.hub.app import make_app
        from local_cloud.hub.state import open_state

        sock = listen(options.host, options.port)
        with sock:
            repositories, lock = open_state(options.state)
            with lock:
                log.info(
                    "the Hub listens on http://%s:%s, state in %s", options.host, sock.getsockname()[1], options.state
                )
                config = uvicorn.Config(
                    make_app(repositories, token=os.environ.get("ASKLINE_HUB_TOKEN")),
                    log_config=None,
                    access_log=options.access_log,
                    lifespan="off",
                    timeout_graceful_shutdown=5,
                    # Longer than clients keep idle connections, so that none is closed while one is reused.
                    timeout_keep_alive=60,
                    server_header=False,
                )
                uvicorn.Server(config).run(sockets=[sock])
    except AsklineError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
