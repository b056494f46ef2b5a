"""PostgreSQL and Redis from Debian's packages, on loopback, each with its data in a folder of ours."""

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from askline.errors import AsklineError, ConfigError

_START_SECONDS = 60
_STOP_SECONDS = 30
_DEBIAN = Path("/usr/lib/postgresql")
_PROGRAMS = ("postgres", "initdb", "psql")


class ServerError(AsklineError):
    """A process of the server did not start, or ended while it was needed."""


@contextmanager
def process(
    name: str, command: Sequence[str], logs: Path, *, stop_with: int, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, with its output in ``logs``, for as long as the block lasts.

    Ctrl-C in the terminal does not reach it: what it depends on would be gone before it.
    """
    with (logs / f"{name}.log").open("ab") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)
    try:
        yield running
    finally:
        running.send_signal(stop_with)
        try:
            running.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_until(
    ready: Callable[[], bool], name: str, running: subprocess.Popen[bytes], logs: Path, seconds: float
) -> None:
    """Wait for a program to answer.

    Raises
    ------
    ServerError
        With the end of its log, if it ends instead, or does not answer in time.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if running.poll() is not None or time.monotonic() > deadline:
            said = (logs / f"{name}.log").read_text(errors="replace").splitlines()[-12:]
            how = f"was not there after {seconds:.0f} s" if running.poll() is None else "ended at once"
            raise ServerError(f"{name} {how}:\n" + "\n".join(said))
        time.sleep(0.2)


def free_port() -> int:
    """Return a loopback port on which nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgresql_programs() -> Path:
    """Return the folder of PostgreSQL's programs: the one on the PATH, or the newest of Debian's.

    Raises
    ------
    ConfigError
        If there is none, or only one that Prefect does not take.
    """
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(_DEBIAN.glob("*/bin"), key=lambda folder: int(folder.parts[-2]), reverse=True)
    found = next((folder for folder in folders if all((folder / name).exists() for name in _PROGRAMS)), None)
    if found is None:
        raise ConfigError("there is no PostgreSQL on this machine. Install it: apt-get install postgresql")
    said = subprocess.run([str(found / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if version < (14, 9):
        raise ConfigError(f"{found} is version {'.'.join(map(str, version))}; Prefect needs PostgreSQL 14.9 or newer")
    return found


def redis_program() -> str:
    """Return the Redis server's program.

    Raises
    ------
    ConfigError
        If there is none.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise ConfigError("there is no Redis on this machine. Install it: apt-get install redis-server")
    return found


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL with its data in ``folder/postgresql``; yield the URL of an empty or earlier database.

    It refuses to run as root; root's is run by Debian's user ``postgres``, who must be able to enter ``folder``.

    Raises
    ------
    ConfigError
        If PostgreSQL is not installed, or that user cannot enter the folder.
    ServerError
        If it does not start.
    """
    programs = postgresql_programs()
    data, password = folder / "postgresql", _password(folder / "postgresql.password")
    data.mkdir(mode=0o700, exist_ok=True)
    somebody = _somebody(data)
    if not (data / "PG_VERSION").exists():
        shown = data.parent / ".initial-password"
        shown.touch(mode=0o600)
        shown.write_text(password)
        if somebody:
            shutil.chown(shown, somebody["user"])
        try:
            made = subprocess.run(
                [
                    *(str(programs / "initdb"), "--pgdata", str(data), "--username", "askline", "--encoding", "UTF8"),
                    *("--locale", "C.UTF-8", "--auth", "scram-sha-256", "--pwfile", str(shown)),
                ],
                capture_output=True,
                text=True,
                check=False,
                cwd=data,
                **somebody,
            )
        finally:
            shown.unlink()
        if made.returncode:
            raise ServerError(f"initdb could not set up {data}: {made.stderr.strip()}")
    port = free_port()
    command = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    with process("postgresql", command, folder, stop_with=2, cwd=data, **somebody) as running:
        settings = {**os.environ, "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5"}
        reach = ["--host", "127.0.0.1", "--port", str(port), "--username", "askline"]

        def query(text: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(programs / "psql"), *reach, "--dbname", "postgres", "-Atc", text],
                env=settings,
                capture_output=True,
                text=True,
                check=False,
            )

        wait_until(lambda: query("SELECT 1").returncode == 0, "postgresql", running, folder, _START_SECONDS)
        if not query("SELECT 1 FROM pg_database WHERE datname = 'prefect'").stdout.strip():
            query("CREATE DATABASE prefect")
        yield f"postgresql+asyncpg://askline:{password}@127.0.0.1:{port}/prefect"


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run Redis with its data in ``folder/redis``; yield its URL.

    Raises
    ------
    ConfigError
        If Redis is not installed.
    ServerError
        If it does not start.
    """
    from redis import Redis, RedisError

    program = redis_program()
    data, password, port = folder / "redis", _password(folder / "redis.password"), free_port()
    data.mkdir(mode=0o700, exist_ok=True)
    # A file, since the password would stand in the list of processes.
    settings = data / "redis.conf"
    settings.touch(mode=0o600)
    settings.write_text(f'bind 127.0.0.1\nport {port}\ndir "{data}"\nappendonly yes\nrequirepass {password}\n')

    url = f"redis://default:{password}@127.0.0.1:{port}/0"

    def answers() -> bool:
        try:
            with closing(Redis.from_url(url, socket_timeout=5)) as client:
                return bool(client.ping())
        except RedisError:
            return False

    with process("redis", [program, str(settings)], folder, stop_with=15) as running:
        wait_until(answers, "redis", running, folder, _START_SECONDS)
        yield url


def _password(file: Path) -> str:
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16))
    return file.read_text().strip()


def _somebody(data: Path) -> dict[str, Any]:
    """Return as whom to run PostgreSQL: root hands it, and the data, to Debian's own user for it."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise ConfigError("PostgreSQL does not run as root, and there is no user postgres to run it") from None
    os.chown(data, user.pw_uid, user.pw_gid)
    somebody: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if subprocess.run(["test", "-w", str(data)], check=False, cwd="/", **somebody).returncode:
        raise ConfigError(
            f"the user postgres, who runs PostgreSQL for root, cannot enter {data}. Give a --folder that "
            "others may enter"
        )
    return somebody
