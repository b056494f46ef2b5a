"""Delimited text: CSV and its kin, with a header or without, quoted as it should be or not at all.

The standard library's csv reads them, because it says on which line a row begins and lets the next row be read after a
bad one; a data frame's reader does neither, and turns "007" into 7 and "NA" into nothing.
"""

import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.content import asks, seems_header
from tasks.fetch_dataset.names import USUAL_NAMES, is_usual, plain
from tasks.fetch_dataset.readers.request import Request, counted
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.text import find_delimiter

_SEPARATOR_LINE = re.compile(r"^\s*sep=(.)\s*[\r\n]+", re.IGNORECASE)
_LOOKED_AT = 500
_TITLES = 10


@dataclass(slots=True)
class _Record:
    line: int
    cells: list[str]
    raw: str
    problem: str | None = None


def read_delimited(text: str, request: Request, delimiter: str | None) -> Table:
    """Read a CSV, or whatever its columns are separated by.

    Parameters
    ----------
    text
        The whole file.
    request
        ``header`` and the column names of its config are used.
    delimiter
        What separates the columns; None finds it.

    Raises
    ------
    DatasetFormatError
        If a quoted cell is never closed, or nothing can separate columns so.
    """
    name, config = request.name, request.config
    if delimiter in ('"', "\r", "\n"):
        raise DatasetFormatError(f"--dataset.delimiter {delimiter!r} cannot separate columns")
    skipped = 0
    if told := _SEPARATOR_LINE.match(text):  # Excel's own hint, which is no row
        delimiter, text, skipped = delimiter or told[1], text[told.end() :], 1
    named = [column for column in (config.question_column, config.answer_column, config.group_column) if column]
    if delimiter is None:
        delimiter = find_delimiter(text, USUAL_NAMES | {column.casefold() for column in named})
    notes: list[str] = []
    records = _records(text, name, delimiter, skipped)
    if any(record.problem for record in records) and '\\"' in text:
        escaped = _records(text, name, delimiter, skipped, escape="\\")
        if not any(record.problem for record in escaped):
            notes.append(f'{name}: its quotes are written \\" and not ""; it was read so')
            records = escaped
    while records and _is_blank(records[0], delimiter):
        del records[0]  # a line of delimiters alone above the header
    if not records:
        return Table(name, "csv", (), [], delimiter=delimiter)
    above = _titles(records)
    if above and config.header == "auto":
        notes.append(f"{name}: {counted(above, 'line')} above the header not read")
        records = records[above:]
    header, why = _header(records, request, named)
    body = records[1:] if header else records
    columns = _columns(records[0].cells, name, notes) if header else _numbered(body)
    if len(columns) == 1 and request.answers:
        return Table(name, "csv", columns, [SourceRow(name, 1, records[0].line, {})], delimiter=delimiter)
    rows = _rows(body, columns, name, delimiter, notes)
    if not header:
        notes.append(
            f"{name} has no header ({why}): its first line is a row, and its columns are called "
            f"{', '.join(map(repr, columns[:4]))}; say otherwise with --dataset.header yes"
        )
    shape = "delimited text with a header" if header else "delimited text without a header"
    return Table(name, "csv", columns, rows, delimiter=delimiter, notes=notes, shape=shape, why=why)


def _records(text: str, name: str, delimiter: str, skipped: int, escape: str | None = None) -> list[_Record]:
    csv.field_size_limit(sys.maxsize)  # the library's own is 131,072 characters
    taken: list[str] = []  # the lines of the record that is being read
    lines = _keeping(io.StringIO(text, newline=""), taken)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, escapechar=escape)
    records: list[_Record] = []
    while True:
        line = reader.line_num + 1 + skipped
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return records
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise DatasetFormatError(
                    f"{name}, line {line}: a quoted cell that begins on this line is never closed "
                    f'({error}). A quote inside a quoted cell is written twice: ""'
                ) from None
            problem = f"expected {delimiter!r} or the line's end after a closing quote, found something else"
            records.append(_Record(line, [], "".join(taken).strip()[:2000], problem))
            continue
        if cells:  # an empty line is not a row
            raw = "" if len(taken) != 1 else taken[0].rstrip("\r\n")
            records.append(_Record(line, cells, raw))


def _is_blank(record: _Record, delimiter: str) -> bool:
    """Say whether a line holds delimiters alone, as spreadsheets write below their last row."""
    return not record.problem and bool(record.raw) and not record.raw.replace(delimiter, "").strip()


def _keeping(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _titles(records: list[_Record]) -> int:
    """Return how many records above a header of usual names hold one cell alone: a title, or a remark."""
    for number, record in enumerate(records[:_TITLES]):
        filled = [cell for cell in record.cells if cell.strip()]
        if len(filled) > 1:
            return number if sum(map(is_usual, filled)) > 1 else 0
    return 0


def _header(records: list[_Record], request: Request, named: list[str]) -> tuple[bool, str]:
    """Say whether the first record names the columns, and why."""
    config, first = request.config, records[0]
    if config.header != "auto":
        return config.header == "yes", f"--dataset.header {config.header}"
    if first.problem:
        return False, "its first line is a row that cannot be read"
    wanted = {plain(column) for column in named}
    if any(is_usual(cell) and len(cell) < 60 and not asks(cell) for cell in first.cells):
        return True, "its first line holds a usual name"
    if wanted & {plain(cell) for cell in first.cells}:
        return True, "its first line holds the name that the options give"
    if wanted & {f"column_{number}" for number in range(1, len(first.cells) + 1)}:
        return False, "the options name its columns by their numbers"
    others = [record.cells for record in records[1:_LOOKED_AT] if not record.problem]
    if seems_header(first.cells, others):
        return True, "its first line is short and asks nothing"
    return False, "its first line is a question or a sentence"


def _columns(cells: list[str], name: str, notes: list[str]) -> tuple[str, ...]:
    while len(cells) > 1 and not cells[-1].strip():
        cells = cells[:-1]  # a delimiter at the end of every line
    header: list[str] = []
    for number, cell in enumerate(cells, start=1):
        column = " ".join(cell.split()) or f"column {number}"
        if column in header:
            twice, count = column, 2
            while column in header:
                column, count = f"{twice} ({count})", count + 1
            notes.append(f"{name}: the header names {twice!r} twice; the later one is called {column!r}")
        header.append(column)
    return tuple(header)


def _numbered(records: list[_Record]) -> tuple[str, ...]:
    """Name the columns of a file without a header by their numbers."""
    counts = Counter(_width(record.cells) for record in records[:_LOOKED_AT] if not record.problem)
    quoted = any('"' in record.raw[:1] for record in records[:_LOOKED_AT])
    usual = counts.most_common(1)[0][0] if counts else 0
    if len(counts) > 1 and not quoted:  # unquoted delimiters make more cells, never fewer
        usual = min(width for width in counts if width > 1 or len(counts) == 1)
    return tuple(f"column {number}" for number in range(1, usual + 1))


def _width(cells: list[str]) -> int:
    width = len(cells)
    while width > 1 and not cells[width - 1].strip():
        width -= 1
    return width


def _rows(
    records: list[_Record], columns: tuple[str, ...], name: str, delimiter: str, notes: list[str]
) -> list[SourceRow]:
    quoting = any(f'{delimiter}"' in record.raw or record.raw.startswith('"') for record in records)
    takes = _takes_surplus(records, columns)
    rows: list[SourceRow] = []
    joined: list[int] = []
    padded: list[int] = []
    for record in records:
        place = (name, len(rows) + 1, record.line)
        cells = record.cells
        if record.problem:
            rows.append(SourceRow(*place, {"text": record.raw}, record.problem))
            continue
        if _is_blank(record, delimiter):
            continue
        if len(cells) > len(columns):
            cells = cells[: max(_width(cells), len(columns))]
        if len(cells) > len(columns):
            whole = _joined(record, len(columns), takes, delimiter, quoting)
            if whole is not None:
                cells = whole
                joined.append(record.line)
        elif 2 <= len(cells) < len(columns):
            cells = cells + [""] * (len(columns) - len(cells))
            padded.append(record.line)
        if len(cells) != len(columns):
            problem = f"expected {len(columns)} columns ({', '.join(columns)}), found {len(cells)}"
            rows.append(SourceRow(*place, {"cells": cells}, problem))
        else:
            rows.append(SourceRow(*place, dict(zip(columns, cells, strict=True))))
    if joined:
        notes.append(
            f"{name}: {len(joined)} rows have more cells than columns ({_lines(joined)}), since {delimiter!r} "
            f"stands in them without quotes; what is too much was taken as part of {columns[takes]!r}. Quote such "
            "cells to be sure"
        )
    if padded:
        notes.append(f"{name}: {len(padded)} rows end before the last column ({_lines(padded)}); the rest is blank")
    return rows


def _lines(lines: list[int]) -> str:
    return "line " + ", ".join(map(str, lines[:3])) + (" …" if len(lines) > 3 else "")


def _takes_surplus(records: list[_Record], columns: tuple[str, ...]) -> int:
    """Return the column whose texts are longest in well-formed rows, else the last: there delimiters stand in texts."""
    whole = [record.cells for record in records[:_LOOKED_AT] if len(record.cells) == len(columns)]
    if len(columns) == 2 or not whole:
        return len(columns) - 1
    lengths = [sum(len(cells[number]) for cells in whole) for number in range(len(columns))]
    return lengths.index(max(lengths))


def _joined(record: _Record, width: int, takes: int, delimiter: str, quoting: bool) -> list[str] | None:
    """Put together what unquoted delimiters tore apart; None where the row is damaged in another way.

    A delimiter inside a text is followed by a space, one between columns usually is not. Where a file does quote its
    cells, only such a row is taken for unquoted text.
    """
    cells = record.cells
    parts = record.raw.split(delimiter)
    if len(parts) != len(cells):  # some cell was quoted
        parts = cells
    tight = [number for number in range(1, len(parts)) if not parts[number][:1].isspace()]
    if len(tight) == width - 1:  # exactly as many as there are columns to separate
        edges = [0, *tight, len(parts)]
        return [delimiter.join(parts[a:b]) for a, b in itertools.pairwise(edges)]
    if quoting and any(not part[:1].isspace() for part in parts[width:]):
        return None
    surplus = len(parts) - width
    first = takes
    if takes > 0:  # the question may hold the surplus: it ends with its mark
        ends = [n for n in range(takes - 1, takes + surplus) if asks(parts[n])]
        if ends and not asks(parts[takes - 1]) and parts[takes][:1].isspace():
            moved = ends[0] - (takes - 1)
            head = [*parts[: takes - 1], delimiter.join(parts[takes - 1 : ends[0] + 1])]
            rest = parts[ends[0] + 1 : len(parts) - (width - takes - 1)]
            if rest and moved <= surplus:
                return [*head, delimiter.join(rest), *parts[len(parts) - (width - takes - 1) :]]
    return [*parts[:first], delimiter.join(parts[first : first + surplus + 1]), *parts[first + surplus + 1 :]]
