"""What is answered already, kept beside the output while the rest is under way; and the output itself.

``answers.csv.parts`` holds a file for each finished part, named by a hash of its questions and of the package, so that
an interrupted call goes on where it was, and never with another model's answers. It goes when the output is there.
"""

import contextlib
import csv
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from askline.errors import AsklineError, BusyError, ConfigError, DatasetFormatError
from askline.files import write_whole
from tasks.ask.answer import Answer
from tasks.batch_answer.questions import Questions

NEW_COLUMNS = ("answer", "confidence", "model_version")
#: Of a package that says known answers only; the data's own columns, such as a link, come as ``answer_<name>``.
KNOWN_COLUMNS = ("answer_id", "finish_reason", "matched_question", "alternatives")
FORMATS = (".csv", ".jsonl")
_LOCK = "lock"


def check_output(out: Path, questions: Path, *, overwrite: bool) -> None:
    """Refuse a place where no output can be written.

    Raises
    ------
    ConfigError
        If it has no known format, is there already, is the input, or its folder is not there.
    """
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"{out} is neither .csv nor .jsonl: its name says in which of the two answers are written")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file, such as {out / 'answers.csv'}")
    if out.resolve() == questions.resolve():
        raise ConfigError(f"{out} is the file of questions itself: name another file for the answers")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already: name another file, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}")


class KeptParts:
    """The finished parts of one output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, count: int) -> list[Answer] | None:
        """Return a part's answers; None where it is not done, or its file is damaged."""
        try:
            found = [Answer(*each) for each in json.loads(self._path(name).read_bytes())]
        except (OSError, ValueError, TypeError):
            return None
        return found if len(found) == count else None

    def write(self, name: str, answers: Sequence[Answer]) -> None:
        """Keep a part's answers.

        Raises
        ------
        ConfigError
            If the disk is full or the folder cannot be written.
        """
        with _explained(self._folder):
            write_whole(self._path(name), json.dumps(answers))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def part_name(questions: Sequence[str], archive_sha256: str) -> str:
    """Return the name of a part: the same for the same questions and the same package."""
    return hashlib.sha256(json.dumps([archive_sha256, *questions]).encode()).hexdigest()[:32]


@contextmanager
def kept_parts(out: Path) -> Iterator[KeptParts]:
    """Give the parts of an output to this process alone. They go when the output is newer, and stay otherwise.

    Raises
    ------
    ConfigError
        If they cannot be written.
    BusyError
        If another process is writing the same output.
    """
    folder = out.with_name(f"{out.name}.parts")
    before = _written(out)
    with contextlib.ExitStack() as stack:
        with _explained(folder):
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context((folder / _LOCK).open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"another process is answering into {out}: wait for it, or name another file") from error
        try:
            yield KeptParts(folder)
        finally:
            if _written(out) != before or not any(folder.glob("*.json")):
                shutil.rmtree(folder, ignore_errors=True)


def write_output(out: Path, questions: Questions, answers: Mapping[str, Answer], model_version: str) -> None:
    """Write the rows in their order, with all their columns, and their answers.

    A column of the input that has the name of one of ours becomes ``input_<name>``.

    Raises
    ------
    ConfigError
        If it cannot be written; an output that was there stays.
    """
    named = dict.fromkeys(name for answer in answers.values() for name in answer.known or ())
    ours = (*NEW_COLUMNS, *(name for name in KNOWN_COLUMNS if name in named), *sorted(set(named) - set(KNOWN_COLUMNS)))
    names = renamed(questions, ours)
    rows = (
        {names[column]: value for column, value in row.values.items()} | _ours(answers.get(text), model_version, ours)
        for row, text in zip(questions.table.rows, questions.texts, strict=True)
    )
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with _explained(out), draft.open("w", encoding="utf-8", newline="") as stream:
            if out.suffix.lower() == ".csv":
                _write_csv(stream, [*names.values(), *ours], rows)
            else:
                stream.writelines(json.dumps(_plain(row), ensure_ascii=False, default=str) + "\n" for row in rows)
        with _explained(out):
            draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def renamed(questions: Questions, ours: Sequence[str] = NEW_COLUMNS) -> dict[str, str]:
    """Return what each column of the input is called in the output, beside the columns that are ours.

    Raises
    ------
    DatasetFormatError
        If that name is taken too.
    """
    names = {column: f"input_{column}" if column in ours else column for column in questions.table.columns}
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise DatasetFormatError(
            f"{questions.table.file} has the columns {twice[0].removeprefix('input_')!r} and {twice[0]!r}: the first "
            "would be written under the second's name. Rename one of them"
        )
    return names


def _ours(answer: Answer | None, model_version: str, ours: Sequence[str]) -> dict[str, Any]:
    if answer is None:  # a row that asks nothing
        return dict.fromkeys(ours)
    own = dict(zip(NEW_COLUMNS, (answer.text, answer.confidence, model_version), strict=True))
    return dict.fromkeys(ours) | own | (answer.known or {})


def _write_csv(stream: Any, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _written(out: Path) -> tuple[int, int] | None:
    try:
        found = out.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except AsklineError:
        raise
    except OSError as error:
        raise ConfigError(
            f"cannot write {place}: {error.strerror or error}. Free some space, or name a place that can be written"
        ) from error
