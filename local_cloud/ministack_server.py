"""Runs MiniStack so that ``kill -9`` loses seconds of its control plane, not all since its last clean stop.

MiniStack writes functions, APIs, stacks, roles and parameters when it stops. A part that is killed, for instance when
memory runs out, would come back without the API. So they are written here a few seconds after each change, too, by
MiniStack's own code and in its own files, each under a temporary name that is then renamed.

Started as a script (``python -P ministack_server.py``): MiniStack hands its import path to the Lambda functions, which
must not find this project there.
"""

import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import ministack.app as server

log = logging.getLogger("askline.local_cloud")

#: How long after a change the state is written, and so how often at most.
SAVE_SECONDS = 3.0

_READS = re.compile(r"[A-Za-z0-9_]+\.(Get|List|Describe|Lookup|Filter|Test)")

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


def changes_something(scope: Scope) -> bool:
    """Say whether a request may change the control plane; questions to a deployed API do not."""
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    if scope["path"].startswith("/_ministack/") or "/_user_request_" in scope["path"]:
        return False
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    return ".execute-api." not in headers.get(b"host", "") and not _READS.match(headers.get(b"x-amz-target", ""))


class Saver:
    """Writes the state in the background after changes, and never while MiniStack itself writes it."""

    def __init__(self, state: Callable[[], Any], save: Callable[[Any], None]) -> None:
        self._state = state
        self._save = save
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Event()

    def save(self, state: Any) -> None:
        """Write the state; this is what MiniStack calls when it stops."""
        with self._one_at_a_time:
            self._save(state)

    def watching(self, application: Application) -> Application:
        """Return the application with an eye on its requests."""

        async def watched(scope: Scope, receive: Any, send: Any) -> None:
            try:
                await application(scope, receive, send)
            finally:
                if changes_something(scope):
                    self._changed.set()

        return watched

    def run(self) -> None:
        """Wait for changes and write them, for ever."""
        while True:
            self._changed.wait()
            time.sleep(SAVE_SECONDS)
            self._changed.clear()
            try:
                self.save(self._state())
            except Exception:
                log.exception("the state could not be written; the next change tries again")


def main() -> None:
    """Serve until a signal ends it."""
    save_as_it_changes()
    server.main()


def save_as_it_changes() -> None:
    """Have MiniStack's state written after each change."""
    try:
        saver = Saver(server._build_persistence_save_dict, server.save_all)
    except AttributeError as error:
        # They are MiniStack's own affair and may go; without them all is well but for a kill -9.
        log.warning("this MiniStack's state is written when it stops, and not before: %s", error)
        return
    logging.getLogger("persistence").setLevel(logging.WARNING)  # else a line for each of dozens of files
    server.save_all = saver.save
    server.app = saver.watching(server.app)
    threading.Thread(target=saver.run, name="saver", daemon=True).start()


if __name__ == "__main__":
    main()
