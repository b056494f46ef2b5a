"""The outermost process of a training container: everything inside ends with it, and it ends with the server.

::

    python -I -S keeper.py PARENT_PID COMMAND ARGUMENT ...

What a launcher starts may leave its process group (torchrun gives each of its processes a session), so that a signal
to the group would not reach it. On Linux this process therefore adopts whatever its own children leave behind, and
kills all of it when the server dies, when it is told to (SIGHUP), or when the command has ended.

SIGTERM is passed to those processes that handle it, and to no other: a container's first process is not ended by a
signal that it does not handle, and the shells in between would take the rest with them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def main() -> None:
    """Run the command, and exit as it does: with its exit code, or 128 and the number of the signal that ended it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    if os.getppid() != parent:  # it died before the call above took effect
        sys.exit(129)
    child = subprocess.Popen(command, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: _pass_on(child.pid))
    try:
        code = child.wait()
        # The command's own children may still be writing what they save.
        deadline = time.monotonic() + 120
        while _descendants() and time.monotonic() < deadline and code < 0:
            time.sleep(0.05)
    finally:
        _kill_all(child.pid)
    sys.exit(code if code >= 0 else 128 - code)


def _pass_on(group: int) -> None:
    if sys.platform != "linux":
        os.killpg(group, signal.SIGTERM)
        return
    for pid in _descendants():
        if _handles_sigterm(pid):
            _send(pid, signal.SIGTERM)


def _handles_sigterm(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) & _SIGTERM_BIT)


def _kill_all(group: int) -> None:
    """Kill everything inside; again until there is nothing left, because it may start something meanwhile."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    for _ in range(50):
        found = _descendants()
        if not found:
            return
        for pid in found:
            _send(pid, signal.SIGKILL)
        time.sleep(0.02)
        _reap()


def _descendants() -> list[int]:
    """Return the live processes below this one; Linux only, elsewhere none are known."""
    if sys.platform != "linux":
        return []
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # pid (command, which may hold anything) state parent …
            state, parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(folder.name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    main()
