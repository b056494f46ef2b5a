"""What the processes of a training say, as JSON lines among whatever else is printed: told by one side, read by the
other, over a pipe or out of a log.
"""

import contextlib
import json
import os
import sys
import time
from collections import deque

from pydantic import Field, ValidationError

from askline.errors import TrainingError, TrainingStoppedError
from askline.progress import Progress
from askline.records import Record
from tasks.fine_tune.job import JobResult

_PREFIX = '{"askline_training":'
_TAIL = 20


class ProcessEvent(Record):
    """One line: how far training is, what it ended with, or why a process failed."""

    at: float = Field(default_factory=time.time)
    """Seconds since 1970; the earliest error is the cause, the others follow from it."""
    rank: int = 0
    share: float | None = None
    message: str = ""
    result: JobResult | None = None
    error: str | None = None
    expected: bool = False
    """Whether the error is one of askline's own, whose message is written for a person."""
    stopped: bool = False
    """Whether it was asked to stop and left a checkpoint."""
    killed: bool = False
    """Whether the process was ended by a signal, and so said nothing itself."""
    attempt: int = Field(default_factory=lambda: int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
    """How often the processes had been started again before."""


def tell(event: ProcessEvent) -> None:
    """Write an event as one line, in one piece: several processes share the pipe.

    That nobody reads any longer is no error: the processes may still have something to save.
    """
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"askline_training": event.model_dump(mode="json", exclude_none=True)}) + "\n")
        sys.stdout.flush()


class Listener:
    """Reads lines, passes progress on, and keeps the result, the errors and the last other lines."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.result: JobResult | None = None
        self.errors: list[ProcessEvent] = []
        self.tail: deque[str] = deque(maxlen=_TAIL)

    def hear(self, line: str) -> None:
        """Take one line."""
        start = line.find(_PREFIX)
        if start < 0:
            if line.strip():
                self.tail.append(line.rstrip())
            return
        try:
            event = ProcessEvent.model_validate(json.loads(line[start:])["askline_training"])
        except (ValueError, ValidationError):  # cut off by the end of its process
            self.tail.append(line.rstrip())
            return
        if event.error is not None:
            self.errors.append(event)
        elif event.result is not None:
            self.result = event.result
        elif event.share is not None:
            self._progress(event.share, event.message)

    def failure(self, otherwise: str) -> TrainingError:
        """Return the one error to raise, with the message of the process that failed first in the last attempt.

        The errors of the others follow from it: they lose the connection. One written for a person goes before them.
        """
        if not self.errors:
            tail = "\n".join(list(self.tail)[-6:])
            return TrainingError(f"{otherwise}. Its last lines: {tail}" if tail else otherwise)
        last = max(event.attempt for event in self.errors)
        cause = min(
            (event for event in self.errors if event.attempt == last),
            key=lambda event: (not event.expected, not event.killed, event.at),
        )
        message = cause.error or otherwise
        if cause.stopped:
            return TrainingStoppedError(message)
        return TrainingError(message if cause.expected else f"training process {cause.rank} failed: {message}")
