"""A file of questions: which column holds them, and whether each can be asked."""

from dataclasses import dataclass
from pathlib import Path

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError, DatasetNotFoundError
from tasks.fetch_dataset.columns import find_question_column
from tasks.fetch_dataset.readers.pairs import spread
from tasks.fetch_dataset.readers.reading import read_file
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.values import cell_text

#: Characters that the package takes of one question (``MAX_CHARACTERS`` in its ``inference.py``).
MAX_CHARACTERS = 20_000
_SHOWN = 3


@dataclass(frozen=True)
class Questions:
    """What is asked, and the rows in which it stands."""

    table: Table
    column: str
    texts: list[str]
    """One for each row; "" where the row asks nothing."""


def read_questions(path: Path, config: DatasetConfig) -> Questions:
    """Read a file in any shape that a data set may have, or of questions alone: one a line, or a list of texts.

    Parameters
    ----------
    config
        ``question_column``, ``format``, ``delimiter`` and ``encoding`` are used.

    Raises
    ------
    DatasetNotFoundError
        If there is no such file, or it cannot be read.
    DatasetFormatError
        If it is empty, has no such column, or holds a row that cannot be read or asked; names the first few.
    """
    if not path.is_file():
        what = "is a folder: name one file" if path.is_dir() else "is not there"
        raise DatasetNotFoundError(f"the file of questions {path} {what}")
    try:
        table = read_file(path, path.name, config, answers=False)
    except OSError as error:
        raise DatasetNotFoundError(f"the file of questions {path} cannot be read: {error.strerror}") from error
    wrong = [f"{row.place}: {row.problem}" for row in table.rows if row.problem]
    _refuse(path, wrong, "cannot be read")
    column = find_question_column(table, config)
    spread(table, column, None)
    texts: list[str] = []
    for row in table.rows:
        try:
            texts.append(_text(row, column))
        except ValueError as error:
            wrong.append(f"{row.place}: {error}")
    _refuse(path, wrong, "cannot be asked")
    if not any(texts):
        raise DatasetFormatError(f"{path.name} asks nothing: the column {column!r} is blank in all {len(texts)} rows")
    return Questions(table, column, texts)


def _text(row: SourceRow, column: str) -> str:
    text = " ".join(cell_text(row.values.get(column), "").split())
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a question of {len(text)} characters, where a package takes {MAX_CHARACTERS}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair, which is no character") from error
    return text


def _refuse(path: Path, wrong: list[str], what: str) -> None:
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DatasetFormatError(
            f"{len(wrong)} rows of {path.name} {what}, and every row must get an answer: "
            f"{'; '.join(wrong[:_SHOWN])}{more}. Mend them, or take them out"
        )
