"""A package's own engine in a process of its own, asked through the container's contract.

The process is started without this project on its path, as in a container: what answers is the archive's code and,
where it carries them for this Python, its libraries. Each question is asked alone, as the API asks: in int8, the
questions of one request have a small say in each other's answers.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from askline.errors import PackageError

# One JSON object a line goes to the descriptor that it was given, since libraries may print. It ends with its input.
_PROGRAM = """
import importlib.util, json, os, sys
out = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")
spec = importlib.util.spec_from_file_location("inference", sys.argv[1] + "/code/inference.py")
inference = sys.modules["inference"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inference)
model = inference.model_fn(sys.argv[1])
print(json.dumps({"ready": True}), file=out, flush=True)
for line in sys.stdin.buffer:
    request = inference.input_fn(line, "application/json")
    print(inference.output_fn(inference.predict_fn(request, model), "application/json"), file=out, flush=True)
"""
_OURS = ("ASKLINE_", "PREFECT_", "PYTHON", "DASK_")


class BatchAnswer(NamedTuple):
    """What the package answers to one question."""

    text: str
    confidence: float | None
    """How likely the answer is right, 0 to 1; None from a package with bare answers."""


class PackagedEngine:
    """A loaded package.

    Parameters
    ----------
    folder
        The unpacked archive.
    threads
        Threads of the engine; the default is the package's own rule.

    Raises
    ------
    PackageError
        If it does not load.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
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
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, questions: Sequence[str]) -> list[BatchAnswer]:
        """Return the answers, in order; none of the questions may be blank.

        Raises
        ------
        PackageError
            If the engine fails, or has ended; retryable.
        """
        return [self._ask(question) for question in questions]

    def _ask(self, question: str) -> BatchAnswer:
        given = self.reply(question)
        try:
            if isinstance(given, str):  # package.answers = "bare"
                return BatchAnswer(given, None)
            [answer] = given["answers"]
            return BatchAnswer(str(answer["answer"]), float(answer["confidence"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PackageError(f"the package in {self._folder} answers in another form: {given!r:.200}") from error

    def reply(self, question: str) -> Any:
        """Return what the container would answer to one question, as its JSON says it.

        Raises
        ------
        PackageError
            If the engine fails, or has ended; retryable.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"inputs": question}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> Any:
        line = self._said.readline()
        if not line.endswith("\n"):
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> PackageError:
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-4:]
        reason = f"signal {-code}" if code < 0 and not last else "\n".join(last)
        return PackageError(f"the packaged engine in {self._folder} ended: {reason}", retryable=code < 0)

    def close(self) -> None:
        """End the process."""
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
