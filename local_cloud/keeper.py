"""Clears up when the supervisor dies without doing so itself: ``python -m local_cloud.keeper FOLDER``.

The supervisor holds the other end of this process's standard input. When it closes, for whatever reason, all that
carries the mark of this embedded cloud is asked to stop, and killed if it does not. Meanwhile it holds the
supervisor's lock, so that a new ``up`` waits until the old parts are gone.
"""

import signal
import sys
from pathlib import Path

from local_cloud.processes import end_all_marked

GRACE_SECONDS = 15.0


def main() -> None:
    """Wait for the end of standard input, then end what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    end_all_marked(Path(sys.argv[1]), GRACE_SECONDS)


if __name__ == "__main__":
    main()
