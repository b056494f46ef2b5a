"""Answering a file of questions with the model that is deployed for an MLKey.

The answers come from the package that the endpoint serves, not from the endpoint: they are the same, a large file takes
no capacity from the endpoint's callers, and costs nothing but this machine's time.

::

    with job(config, questions, out, run=run) as given:
        print(answer(given, ask=here(given)))
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from askline.config import PipelineConfig
from askline.progress import Progress, quiet
from askline.records import Record, Run
from tasks.ask.answer import Answer
from tasks.ask.package import PackagedEngine
from tasks.batch_answer.answers import KeptParts, check_output, kept_parts, part_name, renamed, write_output
from tasks.batch_answer.questions import Questions, read_questions
from tasks.deploy_serverless.served_package import Deployed, find_deployed, unpacked
from tasks.workplace import Workplace

#: Questions that are answered, and kept, together: what an interrupted call loses at most, for each worker.
PART = 200

Ask = Callable[[Sequence[Sequence[str]]], Iterator[tuple[int, list[Answer]]]]
"""Answers parts of the questions, and yields each part's number and answers as they come."""


@dataclass(frozen=True)
class Job:
    """Questions that can be asked, a model that can answer, and a place for the answers."""

    questions: Questions
    out: Path
    parts: KeptParts
    deployed: Deployed
    run: Run


class BatchAnswered(Record):
    """What was answered."""

    out: Path
    mlkey: str
    model_version: str
    rows: int
    asked: int
    """Different questions."""
    kept: int
    """Of these, how many an earlier call had answered."""
    blank: int
    """Rows that ask nothing, and have no answer."""
    seconds: float


@contextmanager
def job(config: PipelineConfig, questions: Path, out: Path, *, run: Run, overwrite: bool = False) -> Iterator[Job]:
    """Look at everything that could be wrong, before any work.

    Parameters
    ----------
    config
        ``deploy.mlkey`` says who answers; ``dataset.question_column``, ``format``, ``delimiter`` and ``encoding`` how
        the file is read.

    Raises
    ------
    ConfigError
        If the output cannot be written, or nothing is deployed for the MLKey.
    DatasetError
        If the questions cannot be read.
    BusyError
        If another process is writing the same output.
    CloudError
        If AWS refuses to say what is deployed.
    """
    check_output(out, questions, overwrite=overwrite)
    found = read_questions(questions, config.dataset)
    renamed(found)
    with kept_parts(out) as parts:
        yield Job(found, out, parts, find_deployed(config.deploy.mlkey, run.target), run)


def answer(given: Job, *, ask: Ask, progress: Progress = quiet) -> BatchAnswered:
    """Answer what no earlier call has answered, and write the output.

    Raises
    ------
    PackageError
        If the package does not load or fails; what is finished is kept.
    """
    started = time.monotonic()
    different = list(dict.fromkeys(filter(None, given.questions.texts)))
    answers: dict[str, Answer] = {}
    missing: list[list[str]] = []
    for start in range(0, len(different), PART):
        part = different[start : start + PART]
        before = given.parts.read(part_name(part, given.deployed.archive_sha256), len(part))
        if before is None:
            missing.append(part)
        else:
            answers.update(zip(part, before, strict=True))
    kept = len(answers)
    progress(kept / len(different), f"{kept}/{len(different)} questions answered before")
    for number, found in ask(missing) if missing else ():
        part = missing[number]
        given.parts.write(part_name(part, given.deployed.archive_sha256), found)
        answers.update(zip(part, found, strict=True))
        progress(len(answers) / len(different), f"{len(answers)}/{len(different)} questions")
    write_output(given.out, given.questions, answers, given.deployed.model_version)
    return BatchAnswered(
        out=given.out,
        mlkey=given.deployed.mlkey,
        model_version=given.deployed.model_version,
        rows=len(given.questions.texts),
        asked=len(different),
        kept=kept,
        blank=given.questions.texts.count(""),
        seconds=time.monotonic() - started,
    )


def here(given: Job) -> Ask:
    """Return what answers in one process of this machine."""

    def ask(parts: Sequence[Sequence[str]]) -> Iterator[tuple[int, list[Answer]]]:
        with open_engine(given.deployed, given.run) as engine:
            for number, part in enumerate(parts):
                yield number, engine.ask(part)

    return ask


def open_engine(deployed: Deployed, run: Run, *, threads: int | None = None) -> PackagedEngine:
    """Return the loaded package, fetched and unpacked where it was not.

    Raises
    ------
    ArtifactError, CloudError, PackageError
        If it cannot be had, or does not load.
    """
    folder = unpacked(deployed, place=Workplace.of(run))
    return PackagedEngine(folder, threads=threads)
