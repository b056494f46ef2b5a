"""Runs a command that ends when the process that started it ends, even by ``kill -9``.

::

    python -I -S leash.py PARENT_PID COMMAND ARGUMENT ...

Linux only: elsewhere it just runs the command, and what a killed server leaves behind is ended at its next start, by
its process file. A wrapper rather than a ``preexec_fn``, which is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across execve


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above took effect
        sys.exit(f"leash: the parent {parent} is gone")
    os.execv(command[0], command)  # noqa: S606 - becoming the command is the point


if __name__ == "__main__":
    main()
