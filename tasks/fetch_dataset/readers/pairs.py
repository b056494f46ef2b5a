"""From a file to pairs: read, its columns found, and one row for every wording of a question."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from askline.config import DatasetConfig
from tasks.fetch_dataset.columns import Columns, find_columns
from tasks.fetch_dataset.damage import damage
from tasks.fetch_dataset.names import rank
from tasks.fetch_dataset.readers.reading import read_file
from tasks.fetch_dataset.readers.request import counted
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.values import listed, texts_of

_LOOKED_AT = 200
_NUMBERED = re.compile(r"^(.*?\D)[ _-]*\d+$")
_SHOWN = 3


def read_pairs(path: Path, name: str, config: DatasetConfig) -> tuple[Table, Columns]:
    """Read one file into a table of one question a row, and say which columns are used.

    Parameters
    ----------
    path, name, config
        As for :func:`~tasks.fetch_dataset.readers.reading.read_file`.

    Raises
    ------
    DatasetFormatError
        If it cannot be read, or its columns cannot be told.
    """
    table = read_file(path, name, config)
    if not (config.question_column or config.answer_column):
        join_numbered(table)
    columns = find_columns(table, config)
    spread(table, columns.question, columns.answer)
    _tell_damage(table, columns)
    return table, columns


def join_numbered(table: Table) -> None:
    """Put columns that differ in a number alone (``question 1``, ``question 2``) together, in place, as lists."""
    stems: dict[str, list[str]] = {}
    for column in table.columns:
        found = _NUMBERED.match(column)
        if found and (
            rank(found[1].rstrip(" _-"), "question") in (0, 1) or rank(found[1].rstrip(" _-"), "answer") in (0, 1)
        ):
            stems.setdefault(found[1].rstrip(" _-").casefold(), []).append(column)
    for stem, columns in stems.items():
        if len(columns) < 2 or table.pair is not None or stem in map(str.casefold, table.columns):
            continue
        first, *others = columns
        table.rows[:] = [
            row
            if row.problem is not None
            else replace(row, values={**row.values, first: [row.values.get(column) for column in columns]})
            for row in table.rows
        ]
        table.columns = tuple(column for column in table.columns if column not in others)
        table.notes.append(f"{table.file}: {', '.join(map(repr, columns))} were taken for several of one kind")


def spread(table: Table, question: str, answer: str | None) -> None:
    """Give every wording of a question a row of its own, in place; of several answers the first is taken, and said.

    A cell holds several where it is a list, or, in most rows of its column, text that writes out a list.
    """
    asked_written, told_written = _written(table, question), answer is not None and _written(table, answer)
    rows: list[SourceRow] = []
    several: list[SourceRow] = []
    others = 0
    for row in table.rows:
        if row.problem is not None:
            rows.append(row)
            continue
        values = row.values
        asked = listed(values.get(question)) if asked_written else None
        asked = asked or values.get(question)
        if answer is not None:
            told = values.get(answer)
            told = (listed(told) if told_written else None) or told
            if isinstance(told, list):
                texts = texts_of(told)
                different = {text.strip() for text in texts[1:]} - {text.strip() for text in texts[:1]}
                if different:
                    several.append(row)
                    others += len(different)
                if texts:
                    values = {**values, answer: texts[0]}
        if isinstance(asked, list):
            wordings = list(dict.fromkeys(texts_of(asked))) or [""]
            rows += [replace(row, values={**values, question: wording}) for wording in wordings]
        else:
            rows.append(row if values is row.values else replace(row, values=values))
    table.rows[:] = rows
    if several:
        table.left_out.append(
            f"{table.file}: several answers in {counted(len(several), 'row')} (the first: {several[0].place}); the "
            f"first is the answer, {counted(others, 'other')} left out"
        )


def _written(table: Table, column: str) -> bool:
    cells = [row.values.get(column) for row in table.rows[:_LOOKED_AT] if row.problem is None]
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    return sum(listed(text) is not None for text in texts) * 2 > len(texts)


def _tell_damage(table: Table, columns: Columns) -> None:
    found = list(_damaged(table, (columns.question, columns.answer)))
    if found:
        first = "; ".join(f"{row.place}: {what}" for row, what in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        table.notes.append(
            f"{table.file}: damaged letters in {counted(len(found), 'row')}, which are trained and answered as they "
            f"stand: {first}{more}. Mend them where the file was made"
        )


def _damaged(table: Table, columns: tuple[str, ...]) -> Iterator[tuple[SourceRow, str]]:
    for row in table.rows:
        if row.problem is None:
            for column in columns:
                value: Any = row.values.get(column)
                if isinstance(value, str) and not value.isascii() and (what := damage(value)):
                    yield row, what
                    break
