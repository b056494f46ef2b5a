"""Files to rows: CSV with any delimiter, JSON, JSON Lines, Parquet and SQuAD's nesting.

The standard library's csv and json read the text formats, because they say on which line a row begins and let the
next row be read after a bad one; a data frame's reader does neither, and turns "007" into 7 and "NA" into nothing.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError
from tasks.fetch_dataset.columns import USUAL_NAMES
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.text import decode, find_delimiter

FORMAT_BY_SUFFIX = {
    ".csv": "csv",
    ".psv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
SUFFIXES = ", ".join(sorted(FORMAT_BY_SUFFIX))
"""For messages."""

_FOREIGN_MAGIC = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"%PDF", "a PDF"),
    (b"SQLite format 3", "an SQLite database"),
)
_PARQUET_MAGIC = b"PAR1"


def read_file(path: Path, name: str, config: DatasetConfig, *, answers: bool = True) -> Table:
    """Read one file.

    Parameters
    ----------
    path
        Where it lies.
    name
        What it is called in messages and in ``rejected.jsonl``.
    config
        ``format``, ``delimiter``, ``encoding``, the column names and ``unanswerable`` are used.
    answers
        Whether answers are expected, and so a second column.

    Raises
    ------
    DatasetFormatError
        If it is empty, is not what its format promises, or has too few columns.
    """
    data = path.read_bytes()
    if not data.strip(b" \t\r\n\xef\xbb\xbf"):
        expected = "a question and an answer" if answers else "a question"
        raise DatasetFormatError(f"{name} is empty ({len(data)} bytes): expected rows with {expected}")
    for magic, what in _FOREIGN_MAGIC:
        if data.startswith(magic):
            raise DatasetFormatError(
                f"{name} is {what}; askline reads CSV, TSV, JSON, JSON Lines and Parquet. Unpack it, or save it as CSV."
            )
    kind = config.format if config.format != "auto" else FORMAT_BY_SUFFIX.get(PurePosixPath(name).suffix.lower())
    if data.startswith(_PARQUET_MAGIC) or kind == "parquet":
        if config.format not in ("auto", "parquet"):
            raise DatasetFormatError(f"{name} is Parquet, not {config.format}; leave --dataset.format out")
        return _check(_read_parquet(path, name), answers)
    text, encoding = decode(data, config.encoding, name)
    if kind is None:
        kind = "json" if text.lstrip()[:1] in ("[", "{") else "csv"
    if kind in ("csv", "tsv"):
        table = _read_csv(text, name, config.delimiter or ("\t" if kind == "tsv" else None), config, answers)
    elif kind == "jsonl":
        table = _read_lines(text, name) if text.lstrip()[:1] != "[" else _read_json(text, name, config)
    else:
        table = _read_json(text, name, config)
    table.encoding = encoding
    if config.encoding is None and encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        table.notes.append(
            f"{name} is not UTF-8 and was read as {encoding}, found from its bytes; "
            "if letters look wrong, name the encoding with --dataset.encoding"
        )
    return _check(table, answers)


def _check(table: Table, answers: bool) -> Table:
    if not table.rows:
        raise DatasetFormatError(f"{table.file} has no rows" + (" below its header" if table.delimiter else ""))
    malformed = next((row for row in table.rows if row.problem), None)
    if answers and len(table.columns) == 1:
        raise DatasetFormatError(
            f"{table.file} has one column, {table.columns[0]!r}: expected one with questions and one with answers."
            + (" Is it separated by something else? Name it with --dataset.delimiter." if table.delimiter else "")
        )
    if not table.columns and malformed:
        raise DatasetFormatError(f"{malformed.place}: {malformed.problem}")
    return table


def _read_csv(text: str, name: str, delimiter: str | None, config: DatasetConfig, answers: bool) -> Table:
    if delimiter in ('"', "\r", "\n"):
        raise DatasetFormatError(f"--dataset.delimiter {delimiter!r} cannot separate columns")
    if delimiter is None:
        named = (config.question_column, config.answer_column, config.group_column)
        delimiter = find_delimiter(text, USUAL_NAMES | {column.casefold() for column in named if column})
    taken: list[str] = []  # the lines of the record that is being read
    reader = csv.reader(_keeping(io.StringIO(text, newline=""), taken), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[SourceRow] = []
    while True:
        line = reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if "unexpected end" in str(error) or "field limit" in str(error) or header is None:
                raise DatasetFormatError(
                    f"{name}, line {line}: a quoted cell that begins on this line is never closed "
                    f'({error}). A quote inside a quoted cell is written twice: ""'
                ) from None
            problem = f"expected {delimiter!r} or the line's end after a closing quote, found something else"
            rows.append(SourceRow(name, len(rows) + 1, line, {"text": "".join(taken).strip()[:2000]}, problem))
            continue
        if not cells:
            continue  # an empty line is not a row
        if header is None:
            header = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, start=1)]
            twice = sorted({cell for cell in header if header.count(cell) > 1})
            if twice:
                raise DatasetFormatError(f"{name}, line {line}: the header names {', '.join(map(repr, twice))} twice")
            if len(header) == 1 and answers:
                return Table(name, "csv", tuple(header), [SourceRow(name, 1, line, {})], delimiter=delimiter)
        elif len(cells) != len(header):
            problem = f"expected {len(header)} columns ({', '.join(header)}), found {len(cells)}"
            rows.append(SourceRow(name, len(rows) + 1, line, {"cells": cells}, problem))
        else:
            rows.append(SourceRow(name, len(rows) + 1, line, dict(zip(header, cells, strict=True))))
    return Table(name, "csv", tuple(header or ()), rows, delimiter=delimiter)


def _keeping(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _read_lines(text: str, name: str) -> Table:
    rows: list[SourceRow] = []
    # Not splitlines(): JSON may hold a Unicode line separator as it is.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        values: Any = None
        try:
            values = json.loads(content)
            problem = None if isinstance(values, dict) else f"expected a JSON object, found {_kind(values)}"
        except json.JSONDecodeError as error:
            problem = f"expected a JSON object, found text that is not JSON ({error.msg}, column {error.colno})"
        except (ValueError, RecursionError) as error:
            problem = f"expected a JSON object, found one that cannot be read ({error})"
        rows.append(
            SourceRow(
                name, len(rows) + 1, line, values if problem is None else {"text": content.strip()[:2000]}, problem
            )
        )
    return Table(name, "jsonl", _columns_of(rows), rows)


def _read_json(text: str, name: str, config: DatasetConfig) -> Table:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # several values below each other: JSON Lines under another name
            return _read_lines(text, name)
        raise DatasetFormatError(
            f"{name}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetFormatError(f"{name} cannot be read as JSON: {error}") from None
    items = document if isinstance(document, list) else _rows_in(document, name)
    if config.format == "squad" or any(isinstance(item, dict) and "paragraphs" in item for item in items[:1]):
        return _read_squad(items, name, config.unanswerable)
    rows = [
        SourceRow(name, number, None, item)
        if isinstance(item, dict)
        else SourceRow(name, number, None, {"value": item}, f"expected a JSON object, found {_kind(item)}")
        for number, item in enumerate(items, start=1)
    ]
    return Table(name, "json", _columns_of(rows), rows)


def _rows_in(document: Any, name: str) -> list[Any]:
    if not isinstance(document, dict):
        raise DatasetFormatError(f"{name}: expected an array of JSON objects, found {_kind(document)}")
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    rows = {key: value for key, value in lists.items() if value and all(isinstance(item, dict) for item in value)}
    if "data" in lists:
        return lists["data"]
    if len(rows) == 1:
        return next(iter(rows.values()))
    if document and not any(isinstance(value, (list, dict)) for value in document.values()):
        return [document]  # a single row, the shortest JSON Lines file
    raise DatasetFormatError(
        f"{name}: expected an array of objects, or an object whose 'data' is one; found an object with the keys "
        f"{', '.join(map(repr, list(document)[:12])) or '(none)'}. Give each split a file of its own."
    )


def _read_squad(articles: list[Any], name: str, unanswerable: str) -> Table:
    rows: list[SourceRow] = []

    def add(values: dict[str, Any], problem: str | None = None) -> None:
        rows.append(SourceRow(name, len(rows) + 1, None, values, problem))

    for a, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            add({"value": article}, f"expected 'paragraphs', a list, in data[{a}]")
            continue
        for p, paragraph in enumerate(paragraphs):
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(questions, list):
                add({"value": paragraph}, f"expected 'qas', a list, in data[{a}].paragraphs[{p}]")
                continue
            for q, entry in enumerate(questions):
                if not isinstance(entry, dict) or "question" not in entry:
                    where = f"data[{a}].paragraphs[{p}].qas[{q}]"
                    add({"value": entry}, f"expected an object with 'question' and 'answers' in {where}")
                    continue
                answer = unanswerable if entry.get("is_impossible") is True else entry.get("answers")
                add(
                    {
                        "id": entry.get("id"),
                        "title": article.get("title"),
                        "question": entry["question"],
                        "answers": answer,
                    }
                )
    notes = [f"{name}: its paragraphs are not used, the model learns to answer from the question alone"]
    return Table(name, "squad", ("id", "title", "question", "answers"), rows, notes=notes)


def _read_parquet(path: Path, name: str) -> Table:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            # Images and audio would only fill the memory.
            columns = [field.name for field in file.schema_arrow if not pa.types.is_binary(field.type)]
            items = file.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetFormatError(f"{name} is not a readable Parquet file: {error}") from None
    rows = [SourceRow(name, number, None, item) for number, item in enumerate(items, start=1)]
    return Table(name, "parquet", tuple(columns), rows)


def _columns_of(rows: list[SourceRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for row in rows if row.problem is None for column in row.values))


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
