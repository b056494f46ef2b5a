"""Being asked to stop: SIGTERM, as a machine sends that is about to be taken away."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignal:
    """For the length of a ``with`` block, SIGTERM sets :attr:`asked` instead of ending the process.

    At the end of the block a handler that was there before, and was held back, gets the signal after all. In a thread
    other than the main one, where Python installs no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self.obeyed = False
        """Whether training stopped because of it, with a checkpoint."""
        self._before: Any = None
        self._installed = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._installed:
            return
        signal.signal(signal.SIGTERM, self._before if self._before is not None else signal.SIG_DFL)
        if self.asked and callable(self._before):
            self._before(signal.SIGTERM, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
