"""A package's own engine in a clean process, asked through the container's contract.

The process is started without this project on its path, as in a container: what answers is the archive's code and,
where it carries them for this Python, its libraries. Each question is asked alone, as the API asks: in int8, the
questions of one request have a small say in each other's answers. It says what each reply took, so that the proof of a
package and those who only want its answers ask the same process.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, NamedTuple, Self

from askline.errors import PackageError
from askline.progress import Progress, quiet
from tasks.ask.answer import Answer, read_answers

# Runs with -I: no PYTHONPATH, no user site, and the folder of this project not on sys.path. One JSON object a line goes
# to the descriptor that it was given, since libraries may print. It ends with its input.
_PROGRAM = """
import importlib.util, json, os, resource, sys, time
out = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")
def peak_mb():
    try:  # getrusage would count what the parent held when it forked
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
def say(started, document=None):
    said = {"seconds": time.perf_counter() - started, "peak_mb": peak_mb(), "document": document}
    print(json.dumps(said), file=out, flush=True)
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("inference", sys.argv[1] + "/code/inference.py")
inference = sys.modules["inference"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inference)
model = inference.model_fn(sys.argv[1])
say(started)
for line in sys.stdin.buffer:
    started = time.perf_counter()
    request = inference.input_fn(line, "application/json")
    say(started, json.loads(inference.output_fn(inference.predict_fn(request, model), "application/json")))
"""
_OURS = ("ASKLINE_", "PREFECT_", "PYTHON", "DASK_")


class Reply(NamedTuple):
    """What the process said to one request, or when it had loaded."""

    seconds: float
    """Wall-clock seconds of the request, or of loading."""
    peak_mb: float
    """Most resident memory of the process until then, in MiB."""
    document: Any
    """What the container would answer, as its JSON says it; None of loading."""


class PackagedEngine:
    """A loaded package.

    Parameters
    ----------
    folder
        The unpacked archive.
    threads
        Threads of the engine; the default is the package's own rule.
    cache
        Folder in which its libraries may keep something; the default is the person's own.
    deadline_seconds
        Seconds from now after which the process is ended, whatever it is at; None gives it all the time.

    Raises
    ------
    PackageError
        If it does not load.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        cache: Path | None = None,
        deadline_seconds: float | None = None,
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if cache is not None:
            environment["HF_HOME"] = str(cache)
        if threads is not None:
            environment["ASKLINE_THREADS"] = str(threads)
        self._folder = folder
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        reading, writing = os.pipe()
        self._said = os.fdopen(reading, encoding="utf-8")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, str(folder), str(writing)],
                stdin=subprocess.PIPE,
                stdout=self._errors,
                stderr=self._errors,
                cwd=folder,
                env=environment,
                pass_fds=(writing,),
                # An interrupt of the terminal is for the program, which ends this process when it is done with it.
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._deadline = deadline_seconds
        self._too_late = False
        self._watchdog = None if deadline_seconds is None else Timer(deadline_seconds, self._end)
        if self._watchdog is not None:
            self._watchdog.daemon = True
            self._watchdog.start()
        try:
            self.loaded = self._read()
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, questions: Sequence[str], *, progress: Progress = quiet) -> list[Answer]:
        """Return the answers, in order; none of the questions may be blank.

        Raises
        ------
        PackageError
            If the engine fails, has ended (then retryable), or answers in another form.
        """
        answers: list[Answer] = []
        for question in questions:
            document = self.reply(question).document
            answers += read_answers(document, 1, who=f"the package in {self._folder}", error_type=PackageError)
            progress(len(answers) / len(questions), f"{len(answers)}/{len(questions)} questions asked of the package")
        return answers

    def reply(self, inputs: str | list[str]) -> Reply:
        """Return what the container would answer to one request of one or several questions, and what it took.

        Raises
        ------
        PackageError
            If the engine fails, or has ended; retryable.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"inputs": inputs}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> Reply:
        line = self._said.readline()
        if not line.endswith("\n"):
            raise self._ended()
        return Reply(**json.loads(line))

    def _end(self) -> None:
        self._too_late = True
        self._process.kill()

    def _ended(self) -> PackageError:
        self._process.kill()
        code = self._process.wait()
        if self._too_late:
            return PackageError(
                f"the packaged engine in {self._folder} was not done after {self._deadline:g} s and was ended; the "
                "model is too large for this machine"
            )
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-8:]
        reason = f"signal {-code}" if code < 0 and not last else "\n".join(last)
        return PackageError(f"the packaged engine in {self._folder} ended: {reason}", retryable=code < 0)

    def close(self) -> None:
        """End the process."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()
        self._said.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
