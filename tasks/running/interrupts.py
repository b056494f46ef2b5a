"""Being told to end, whoever says so: one exception, so that what is half done can be put right on all of them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: A terminal that is closed, and a system or a scheduler that ends the process.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Told(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM and SIGHUP, like Ctrl-C, end the block with an exception instead of the process at once.

    A signal that somebody else listens to already (Prefect, for a run that it cancels) stays theirs: they raise one of
    their own. Outside the main thread, where Python allows no handlers, nothing changes.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _tell)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(number: int, frame: FrameType | None) -> None:
    raise Told(number)
