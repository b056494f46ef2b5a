"""One line per step in the terminal: a live bar on a TTY, one finished line otherwise.

The flow's own process calls :func:`show_steps`. Where nobody did (a worker, a test) steps run in silence.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from askline.progress import Progress, quiet


class StepLine:
    """What stands behind a step when it is finished."""

    result = ""

    def done(self, result: str) -> None:
        """Set the words that stand behind the finished step."""
        self.result = result


class StepConsole:
    """Writes the steps' lines to one stream.

    Parameters
    ----------
    stream
        Where to write; a live bar is shown only when it is a terminal.
    """

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self.progress: Progress = quiet
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[StepLine]:
        """Show ``name`` while its block runs, then one line with its seconds and result."""
        started = time.monotonic()
        line = StepLine()
        try:
            with self._bar(name):
                yield line
        except BaseException:
            self._finish(name, started, "[red]✗[/]", "failed")
            raise
        self._finish(name, started, "[green]✓[/]", line.result)

    def _finish(self, name: str, started: float, mark: str, words: str) -> None:
        from rich.markup import escape

        self.seconds[name] = time.monotonic() - started
        self._console.print(f"  {mark} {name:<18}{self.seconds[name]:>7.1f} s  {escape(words)}")

    @contextmanager
    def _bar(self, name: str) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn(" "),
            SpinnerColumn(),
            TextColumn("{task.description:<17}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", markup=False),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(name, total=1.0, words="")

            def progress(share: float, message: str = "") -> None:
                bars.update(bar, completed=share, words=message)

            self.progress = progress
            try:
                yield
            finally:
                self.progress = quiet

    def say(self, text: str = "") -> None:
        """Write a line as it is."""
        self._console.print(text, markup=False)


_current: StepConsole | None = None
#: Seconds of the steps that nobody is shown.
_unseen: dict[str, float] = {}


def show_steps(stream: IO[str] | None = None) -> StepConsole:
    """Show the steps of this process on ``stream`` (default: stdout) from now on."""
    global _current
    _current = StepConsole(stream or sys.stdout)
    return _current


@contextmanager
def step(name: str) -> Iterator[StepLine]:
    """Run a block as the step ``name``."""
    if _current is None:
        started = time.monotonic()
        try:
            yield StepLine()
        finally:
            _unseen[name] = time.monotonic() - started
        return
    with _current.step(name) as line:
        yield line


def say(text: str) -> None:
    """Write a line where the steps are shown, and nowhere else."""
    if _current is not None:
        _current.say(text)


def current_progress() -> Progress:
    """Return the progress of the step that is being shown, or one that nobody listens to."""
    return quiet if _current is None else _current.progress


def seconds_by_step() -> dict[str, float]:
    """Return the seconds of the steps that have finished so far in this process."""
    return dict(_unseen if _current is None else _current.seconds)
