"""Child processes that do not outlive the embedded cloud.

Three things together see to that. Each part leads a session of its own, so that its whole group can be ended. On
Linux the kernel sends it SIGTERM when the supervisor dies. And each part carries a mark in its environment, which
its own children inherit: whoever clears up finds them by it, even those that left the group.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

#: In the environment of each part and of all its children: the folder of the embedded cloud they belong to.
MARK = "ASKLINE_CLOUD_FOLDER"
#: Beside it, the part's name.
PART_MARK = "ASKLINE_CLOUD_PART"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def start(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a part in a session of its own, its output appended to ``log``.

    Call it from the main thread only: Linux sends the death signal when the *thread* that started the child ends.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        os.umask(0o077)  # what it writes is for this user alone
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent died before the line above
                os._exit(1)

    with log.open("ab") as stream:
        return subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def started_at(pid: int) -> float | None:
    """Return when the process started (seconds since the epoch), or None where there is none that runs."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_same(pid: int, started: float) -> bool:
    """Say whether ``pid`` still is the process that started then, and not a later one with the same id."""
    now = started_at(pid)
    # create_time() counts from the boot time, which moves when the clock is set.
    return now is not None and abs(now - started) < 2


def marked(folder: Path, part: str | None = None) -> list[psutil.Process]:
    """Return the processes that carry the mark of this embedded cloud (and of this part of it)."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if environment.get(MARK) == str(folder) and (part is None or environment.get(PART_MARK) == part):
            found.append(process)
    return found


def end(processes: Iterable[psutil.Process], grace: float) -> list[int]:
    """End processes: ask, wait up to ``grace`` seconds, then kill. Return the ids of those that had to be killed."""
    waiting = list(processes)
    for process in waiting:
        _send(process, signal.SIGTERM)
    stubborn = _still_there(waiting, grace)
    for process in stubborn:
        _send(process, signal.SIGKILL)
    _still_there(stubborn, 5)
    return [process.pid for process in stubborn]


def _still_there(waiting: list[psutil.Process], patience: float) -> list[psutil.Process]:
    """Wait until the processes have ended and return those that have not.

    One that has ended but was not collected yet counts as ended: in a container the first process may never do so.
    """
    deadline = time.monotonic() + patience
    while (left := [process for process in waiting if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end_all_marked(folder: Path, grace: float, part: str | None = None) -> list[int]:
    """End all marked processes; again until there is none, because one may start another meanwhile.

    A part's own process is asked first and alone, so that it can stop its children in its own way.
    """
    killed: list[int] = []
    for attempt in range(5):
        found = marked(folder, part)
        if not found:
            break
        leaders = [process for process in found if _leads_session(process)] if attempt == 0 else []
        killed += end(leaders or found, grace if attempt == 0 else min(grace, 2))
    return killed


def _leads_session(process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == int(process.pid)
    except OSError:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)  # psutil checks the start time first


def parts_of(folder: Path) -> set[str]:
    """Return the names of the parts that still have a marked process."""
    names = set()
    for process in marked(folder):
        with contextlib.suppress(psutil.Error, OSError):
            names.add(process.environ().get(PART_MARK, ""))
    return names - {""}


def listening(pid: int) -> set[int]:
    """Return the TCP ports on which a process or its children listen."""
    ports: set[int] = set()
    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            ports |= {c.laddr.port for c in member.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    except psutil.Error:
        pass
    return ports
