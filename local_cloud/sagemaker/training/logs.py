"""Sends what a training container prints to CloudWatch Logs, where SageMaker has it."""

import contextlib
import time
from pathlib import Path
from typing import Any

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_MAX_EVENTS = 1000
_MAX_BYTES = 200_000  # AWS takes 1,048,576 bytes a call and 256 KB an event, 26 bytes of each not counted here


class LogShipper:
    """Follows a log file and puts its whole lines into a stream of their own."""

    def __init__(self, logs: Any, stream: str, path: Path) -> None:
        self._logs = logs
        self._stream = stream
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._there = False

    def ship(self, *, everything: bool = False) -> None:
        """Send what is new; with ``everything`` also a last line without an end.

        Raises
        ------
        botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
            If CloudWatch Logs cannot be reached or refuses; what was not sent is sent the next time.
        """
        self._make()
        end = self._path.stat().st_size if self._path.exists() else 0  # what comes meanwhile is the next call's
        while self._offset < end:
            block = self._next_block(everything)
            lines = [line for line in block.decode("utf-8", "replace").splitlines() if line.strip()]
            if lines:
                now = round(time.time() * 1000)
                self._logs.put_log_events(
                    logGroupName=LOG_GROUP,
                    logStreamName=self._stream,
                    logEvents=[{"timestamp": now, "message": line} for line in lines],
                )
            self._offset += len(block)
            if not block:
                return

    def _next_block(self, everything: bool) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                block = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return b""
        if not (everything and len(block) < _MAX_BYTES):
            block = block[: block.rfind(b"\n") + 1] or (block if len(block) == _MAX_BYTES else b"")
        return b"".join(block.splitlines(keepends=True)[:_MAX_EVENTS])

    def _make(self) -> None:
        if self._there:
            return
        exists = self._logs.exceptions.ResourceAlreadyExistsException
        with contextlib.suppress(exists):
            self._logs.create_log_group(logGroupName=LOG_GROUP)
        with contextlib.suppress(exists):
            self._logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=self._stream)
        self._there = True
