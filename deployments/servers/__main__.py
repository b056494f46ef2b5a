"""One Prefect server in several processes on this machine: PostgreSQL, Redis, two APIs, one background service.

::

    python -m deployments.servers                          # http://127.0.0.1:4200/api and 4201, until Ctrl-C
    python -m deployments.servers --folder /srv/prefect --port 5200 --apis 3

The data stays in the folder; the same command goes on with it. On several machines each part is a service of its own,
with the same settings: docs/more-machines.md.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

from askline.errors import AsklineError, ConfigError
from deployments.servers.settings import server_settings
from deployments.servers.stores import ServerError, postgresql, process, redis, wait_until

_START_SECONDS = 240


class Running(NamedTuple):
    """A server that is up: the URLs of its APIs, and its processes by name."""

    apis: list[str]
    processes: dict[str, subprocess.Popen[bytes]]


@contextmanager
def servers(folder: Path, ports: Sequence[int]) -> Iterator[Running]:
    """Run a Prefect server with an API on each of ``ports`` for as long as the block lasts.

    Raises
    ------
    ConfigError
        If PostgreSQL, Redis or the extra ``cloud-scale`` is not installed.
    ServerError
        If a part of it does not start.
    """
    if find_spec("prefect_redis") is None:
        raise ConfigError("prefect-redis is not installed: pip install -e '.[cloud-scale]'")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    apis = [f"http://127.0.0.1:{port}/api" for port in ports]
    prefect = [sys.executable, "-m", "prefect", "server"]
    with ExitStack() as stack:
        stores = server_settings(stack.enter_context(postgresql(folder)), stack.enter_context(redis(folder)))

        def settings(name: str, api: str) -> dict[str, str]:
            own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            home = {"PREFECT_HOME": str(folder / name), "PREFECT_API_URL": api, "PREFECT_SERVER_UI_API_URL": api}
            return own | stores | home

        done = subprocess.run(
            [*prefect, "database", "upgrade", "-y"],
            env=settings("database", apis[0]),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"the database could not be set up: {(done.stderr or done.stdout).strip()[-2000:]}")
        processes = {}
        for number, (port, api) in enumerate(zip(ports, apis, strict=True), start=1):
            command = [*prefect, "start", "--no-services", "--host", "127.0.0.1", "--port", str(port)]
            name = f"api-{number}"
            registers = {"PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "true" if number == 1 else "false"}
            started = process(name, command, folder, stop_with=signal.SIGTERM, env=settings(name, api) | registers)
            processes[name] = stack.enter_context(started)
        command = [*prefect, "services", "start"]
        started = process("services", command, folder, stop_with=signal.SIGTERM, env=settings("services", apis[0]))
        processes["services"] = stack.enter_context(started)
        for number, api in enumerate(apis, start=1):
            name = f"api-{number}"
            wait_until(lambda api=api: _answers(api), name, processes[name], folder, _START_SECONDS)  # type: ignore[misc]
        yield Running(apis, processes)


def _answers(api: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(opener.open(f"{api}/health", timeout=5).status == 200)
    except (OSError, urllib.error.URLError):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.servers", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--folder", type=Path, default=Path(".askline/servers"), help="data and logs (%(default)s)")
    parser.add_argument("--port", type=int, default=4200, help="of the first API; the others follow (%(default)s)")
    parser.add_argument("--apis", type=int, default=2, choices=range(1, 10), metavar="1-9", help="API servers (2)")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with servers(given.folder, range(given.port, given.port + given.apis)) as running:
            for api in running.apis:
                print(f"PREFECT_API_URL={api}", flush=True)  # noqa: T201 - the program's answer
            while True:
                _look_after(running, given.folder)
                time.sleep(1)
    except AsklineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the program's one message
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 0


def _look_after(running: Running, folder: Path) -> None:
    for name, each in running.processes.items():
        if each.poll() is not None:
            raise ServerError(f"{name} has ended with {each.returncode}; see {folder / name}.log. All is stopped")


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
