"""How a step says how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called with the share that is done (0 to 1) and a few words, as often as the step likes."""

    def __call__(self, share: float, message: str = "") -> None:
        """Hear that ``share`` (0 to 1) is done."""


def quiet(share: float, message: str = "") -> None:
    """Listen to nothing."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """Return a progress whose shares 0 to 1 are told as ``start`` to ``end`` of the whole."""

    def told(share: float, message: str = "") -> None:
        progress(start + (end - start) * share, message)

    return told
