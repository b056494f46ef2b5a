"""Which port each part listens on: the one it had before, else its usual one, else the next that is free."""

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from askline.errors import LocalCloudError

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # Without this a port counts as taken for a minute after its last server closed.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    # On macOS the bind succeeds beside a server on 0.0.0.0, which would then get the calls.
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.settimeout(0.5)
        return bool(probe.connect_ex((HOST, port)))


@contextlib.contextmanager
def claims() -> Iterator[Callable[[int], bool]]:
    """Give what takes a port for the length of the block, and says whether it could.

    A server listens seconds after its port was chosen. Two embedded clouds of one user that start at once look into
    this folder meanwhile, so that they choose different ones.
    """
    folder = Path(tempfile.gettempdir()) / f"askline-ports-{os.getuid()}"
    mine: set[int] = set()
    with contextlib.ExitStack() as held:

        def take(port: int) -> bool:
            if not is_free(port):
                return False
            if port in mine:
                return True
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                lock = held.enter_context((folder / str(port)).open("w"))
            except OSError:  # no such folder can be had: whoever listens first has the port
                return True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            mine.add(port)
            return True

        yield take


@dataclass(frozen=True)
class Choice:
    """The ports that were chosen, and where that was not the expected one, the line to say."""

    ports: dict[str, int]
    remarks: list[str] = field(default_factory=list)


def choose(
    wanted: Mapping[str, int],
    *,
    remembered: Mapping[str, int],
    forced: Mapping[str, int],
    avoid: frozenset[int] = frozenset(),
    take: Callable[[int], bool] = is_free,
) -> Choice:
    """Choose a free port for each part.

    Parameters
    ----------
    wanted
        Part to its usual port.
    remembered
        Part to the port it had before; preferred, so that URLs stay the same.
    forced
        Part to the port that a person asked for; taken as it is or not at all.
    avoid
        Ports not to take even if they look free, because a server just failed to get them.
    take
        Says whether a port is free, and may claim it: see :func:`claims`.

    Raises
    ------
    LocalCloudError
        If a forced port is taken or given twice, or no port is free.
    """
    remarks: list[str] = []
    ports: dict[str, int] = {}
    for part in wanted:
        if part in forced:
            port = forced[part]
            if port in ports.values() or port in avoid or not take(port):
                raise LocalCloudError(
                    f"port {port}, asked for {part}, is taken by another program (or given twice); "
                    f"stop that program, choose another with --port {part}=N, or leave the option out"
                )
            ports[part] = port
    # A port that another part had, or usually has, stays its own even while that part is left out.
    reserved = set(ports.values()) | set(remembered.values()) | set(avoid)
    for part, usual in wanted.items():
        if part in ports:
            continue
        first = remembered.get(part, usual)
        if first not in ports.values() and first not in avoid and take(first):
            ports[part] = first
            continue
        ports[part] = _next_free(first, reserved | set(ports.values()) | set(wanted.values()), take)
        remarks.append(f"port {first} is taken by another program: {part} uses {ports[part]} from now on")
    return Choice(ports, remarks)


def _next_free(after: int, not_these: set[int], take: Callable[[int], bool]) -> int:
    # Below 32768, where Linux starts to hand out ports to outgoing connections: those can be gone at the next start.
    candidates: list[int] = [*range(after + 1, min(after + 500, 65536)), *range(20000, 32000)]
    for port in candidates:
        if port not in not_these and take(port):
            return port
    raise LocalCloudError(f"no free port found from {after} on; stop some of the programs that listen on loopback")
