"""How far a step is, in the terminal and in the Prefect UI, and where it works."""

import time
from collections.abc import Callable
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from askline.console import current_progress
from askline.progress import Progress
from askline.records import Run
from tasks.workplace import Workplace

#: An artifact update is a call to the server (about 25 ms): this often is enough for an eye.
_SECONDS_BETWEEN_UPDATES = 2.0


def place_of(run: Run, name: str) -> Workplace:
    """Return where the step of that name works, told to the terminal and the Prefect UI."""
    return Workplace.of(run, progress_of(name))


def progress_of(name: str) -> Progress:
    """Return a progress that moves the step's bar in the terminal and, throttled, an artifact in the Prefect UI."""
    bar: Callable[[float, str], None] = current_progress()
    artifact: Any = None
    last = time.monotonic()

    def progress(share: float, message: str = "") -> None:
        nonlocal artifact, last
        bar(share, message)
        now = time.monotonic()
        finished = share >= 1 and artifact is not None  # a step that is over at once needs no artifact
        if now - last < _SECONDS_BETWEEN_UPDATES and not finished:
            return
        last = now
        percent = round(100 * min(max(share, 0.0), 1.0), 1)
        description = f"{name}: {message}"
        if artifact is None:
            artifact = create_progress_artifact(progress=percent, key=f"{name}-progress", description=description)
        else:
            update_progress_artifact(artifact, progress=percent, description=description)

    return progress
