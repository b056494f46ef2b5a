"""One file, folder or archive to a table: by its first bytes, its name and what it holds, in that order."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError
from tasks.fetch_dataset.content import asks
from tasks.fetch_dataset.names import is_usual
from tasks.fetch_dataset.readers.archives import members_of, members_of_folder, open_zip
from tasks.fetch_dataset.readers.delimited import read_delimited
from tasks.fetch_dataset.readers.families import FAMILIES
from tasks.fetch_dataset.readers.instructions import join_instructions
from tasks.fetch_dataset.readers.json_text import JsonReader, read_json, read_lines
from tasks.fetch_dataset.readers.language_choice import in_one_language
from tasks.fetch_dataset.readers.parquet import read_parquet
from tasks.fetch_dataset.readers.request import Malformed, Request, shown
from tasks.fetch_dataset.readers.spreadsheet import read_spreadsheet
from tasks.fetch_dataset.readers.suffixes import FORMAT_BY_SUFFIX, READS
from tasks.fetch_dataset.readers.yaml_text import read_yaml
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.text import DELIMITERS, decode, find_delimiter
from tasks.fetch_dataset.values import kind_of

_FOREIGN_MAGIC = (
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first."),
    (b"BZh", "compressed with bzip2", "Unpack it first."),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it first."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it first."),
    (b"\xd0\xcf\x11\xe0", "an old or encrypted Excel workbook", "Save it as .xlsx without a password, or as CSV."),
    (b"%PDF", "a PDF", "Copy its text into a file, with Q: before each question and A: before its answer."),
    (b"{\\rtf", "a rich text document", "Save it as plain text."),
    (b"SQLite format 3", "an SQLite database", "Save the table as CSV."),
)
_PARQUET_MAGIC = b"PAR1"
_ZIP_MAGIC = b"PK\x03\x04"
_MARKUP = re.compile(r"^(?:#{1,6}[ \t]+\S|[ \t]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?\*\*\S|<details)", re.MULTILINE)


def read_file(path: Path, name: str, config: DatasetConfig, *, answers: bool = True) -> Table:
    """Read one file, or a folder that is one chatbot's.

    Parameters
    ----------
    path
        Where it lies.
    name
        What it is called in messages and in ``rejected.jsonl``.
    config
        ``format``, ``delimiter``, ``encoding``, ``header``, ``sheet``, ``language``, the column names and
        ``unanswerable`` are used.
    answers
        Whether answers are expected, and so a second column.

    Raises
    ------
    DatasetFormatError
        If it is empty, is not what its format promises, or holds no questions and answers in any known shape.
    """
    request = Request(name, config, answers)
    try:
        if path.is_dir():
            table = _read_folder(path, request)
        else:
            table = _stream(path, request) or _read(path.read_bytes(), path, request)
    except RecursionError:
        raise DatasetFormatError(f"{name} is nested too deeply to be read") from None
    if answers and not (config.question_column or config.answer_column):
        join_instructions(table)
    return _check(table, request)


def _stream(path: Path, request: Request) -> Table | None:
    """Read JSON Lines line by line, so that neither the bytes nor the text are held whole.

    Returns None where the file is not JSON Lines by its name, or not UTF-8: then it is read as any other.
    """
    config = request.config
    named = FORMAT_BY_SUFFIX.get(PurePosixPath(request.name).suffix.lower())
    if (config.format if config.format != "auto" else named) != "jsonl" or config.encoding is not None:
        return None
    reader = JsonReader()
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            begins = lines.read(1)
            if begins != "{":
                return None
            lines.seek(0)
            items, numbers = read_lines(lines, reader)
    except UnicodeDecodeError:
        return None
    if len(items) < 2 or all(isinstance(item, Malformed) for item in items):
        return None  # one value over several lines, or another format under that name
    table = _of_tree(items, replace(request, lines=numbers, format="jsonl"), reader)
    table.encoding = "utf-8"
    return table


def _read_folder(path: Path, request: Request) -> Table:
    table = _of_families("files", members_of_folder(path), request)
    if table is None:
        raise DatasetFormatError(f"{request.name} is a folder, and not one of a Rasa bot or a Dialogflow export")
    return table


def _read(data: bytes, path: Path, request: Request) -> Table:
    name, config = request.name, request.config
    if not data.strip(b" \t\r\n\xef\xbb\xbf"):
        expected = "a question and an answer" if request.answers else "a question"
        raise DatasetFormatError(f"{name} is empty ({len(data)} bytes): expected rows with {expected}")
    for magic, what, remedy in _FOREIGN_MAGIC:
        if data.startswith(magic):
            raise DatasetFormatError(f"{name} is {what}. {remedy} askline reads {READS}.")
    kind = config.format if config.format != "auto" else FORMAT_BY_SUFFIX.get(PurePosixPath(name).suffix.lower())
    if data.startswith(_ZIP_MAGIC):
        return _read_zip(data, request)
    if data.startswith(_PARQUET_MAGIC) or kind == "parquet":
        if config.format not in ("auto", "parquet"):
            raise DatasetFormatError(f"{name} is Parquet, not {config.format}; leave --dataset.format out")
        return read_parquet(path, name)
    if kind in ("xlsx", "zip"):
        what = "an Excel workbook" if kind == "xlsx" else "a zip archive"
        raise DatasetFormatError(f"{name} is not {what}, by its first bytes; is it another format under that name?")
    text, encoding = decode(data, config.encoding, name)
    if kind in (None, "text", "markdown") and text[:4096].count("\x00") * 20 > len(text[:4096]):
        raise DatasetFormatError(f"{name} is not text: it holds zero bytes. askline reads {READS}.")
    table = _read_text(text, kind, request)
    table.encoding = encoding
    if config.encoding is None and not encoding.startswith(("utf-8", "utf-16", "utf-32")):
        table.notes.append(
            f"{name} is not UTF-8 and was read as {encoding}, found from its bytes; "
            "if letters look wrong, name the encoding with --dataset.encoding"
        )
    return table


def _read_zip(data: bytes, request: Request) -> Table:
    archive = open_zip(data, request.name)
    names = archive.namelist()
    if "xl/workbook.xml" in names or "[Content_Types].xml" in names:
        if "xl/workbook.xml" not in names:
            raise DatasetFormatError(
                f"{request.name} is an Office document, and no workbook; copy its text into a file, with Q: before "
                "each question and A: before its answer"
            )
        return read_spreadsheet(data, request)
    files = members_of(archive, request.name)
    table = _of_families("files", files, request)
    if table is not None:
        return table
    readable = [name for name in files if FORMAT_BY_SUFFIX.get(PurePosixPath(name).suffix.lower(), "zip") != "zip"]
    readable = [name for name in readable if not PurePosixPath(name).stem.lower().startswith(("readme", "license"))]
    if len(readable) == 1 and not readable[0].lower().endswith(".parquet"):
        inner = replace(request, name=f"{request.name}/{readable[0]}")
        return _read(files[readable[0]], Path(readable[0]), inner)
    raise DatasetFormatError(
        f"{request.name} is a zip archive of {len(files)} files ({shown(files)}), and no Dialogflow export or Rasa "
        "bot. Unpack it, and give the file with the questions and answers"
    )


def _read_text(text: str, kind: str | None, request: Request) -> Table:
    begins = text.lstrip()[:1]
    if kind in (None, "text") and begins in ("[", "{") and request.config.format == "auto":
        kind = "json"
    if kind in ("csv", "tsv"):
        if begins == "{" and request.config.format == "auto" and _is_json(text):
            return _read_document(text, "json", request)
        return read_delimited(text, request, request.config.delimiter or ("\t" if kind == "tsv" else None))
    if kind in ("json", "jsonl", "squad", "yaml"):
        return _read_document(text, kind, request)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not request.answers and kind in ("text", "markdown"):
        return _lines_of_questions(text, request)
    return _read_prose(text, kind, request)


def _is_json(text: str) -> bool:
    try:
        JsonReader().read(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_document(text: str, kind: str, request: Request) -> Table:
    reader = JsonReader()
    lines: Sequence[int] = ()
    if kind == "yaml":
        tree = read_yaml(text, request.name)
    elif kind == "jsonl" and text.lstrip()[:1] != "[":
        tree, lines = read_lines(text.split("\n"), reader)
        if len(tree) == 1 or (lines and all(isinstance(item, Malformed) for item in tree) and _is_json(text)):
            tree, lines = read_json(text, request.name, reader) if _is_json(text) else (tree, lines)
    else:
        tree, lines = read_json(text, request.name, reader)
    kind = "jsonl" if lines else "json" if kind in ("squad", "jsonl") else kind
    return _of_tree(tree, replace(request, lines=lines, format=kind), reader)


def _of_tree(tree: Any, request: Request, reader: JsonReader) -> Table:
    if tree in ([], {}, None):
        raise DatasetFormatError(f"{request.name} has no rows")
    tree = in_one_language(tree, request)
    table = _of_families("tree", tree, request)
    if table is None:
        table = _no_shape(tree, request)
    table.notes += reader.notes(request.name)
    return table


def _no_shape(tree: Any, request: Request) -> Table:
    """Return a table of rows that cannot be read, for a list; of anything else say what is expected."""
    name = request.name
    if isinstance(tree, list):
        if not request.answers and all(isinstance(item, str) for item in tree):
            rows = [SourceRow(name, n, None, {"question": item}) for n, item in enumerate(tree, start=1)]
            return Table(name, request.format, ("question",), rows, shape="list of questions", why="a list of texts")
        rows = [
            SourceRow(name, n + 1, request.line(n), {"text": item.text}, item.problem)
            if isinstance(item, Malformed)
            else SourceRow(
                name, n + 1, request.line(n), {"value": item}, f"expected a JSON object, found {kind_of(item)}"
            )
            for n, item in enumerate(tree)
        ]
        return Table(name, request.format, (), rows)
    if not isinstance(tree, dict):
        raise DatasetFormatError(f"{name}: expected an array of JSON objects, found {kind_of(tree)}")
    raise DatasetFormatError(
        f"{name}: expected questions and answers in objects, lists or a map; found an object with the keys "
        f"{shown(map(str, tree)) or '(none)'}. An array of objects with the keys 'question' and 'answer' is read "
        "whatever else the file holds"
    )


def _lines_of_questions(text: str, request: Request) -> Table:
    """Read a file of questions alone: one a line, or a column of a delimited text with a header."""
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    first = lines[0][1]
    cells = [cell.strip() for cell in first.split(find_delimiter(text))]
    if any(is_usual(cell) for cell in cells):
        return read_delimited(text, request, request.config.delimiter)
    rows = [SourceRow(request.name, n, line, {"question": said}) for n, (line, said) in enumerate(lines, start=1)]
    return Table(request.name, "text", ("question",), rows, shape="lines of questions", why="a question a line")


def _read_prose(text: str, kind: str | None, request: Request) -> Table:
    """Read text that is no document: labelled, marked up, delimited, or questions above their answers."""
    families = {family.name: family.read for family in FAMILIES if family.given == "text"}
    config = request.config
    request = replace(request, format="markdown" if kind == "markdown" else "text")
    table: Table | None = families["Q: and A:"](text, request)
    if table is None and kind == "markdown":
        table = families["Markdown"](text, request)
    elif table is None:
        delimiter = config.delimiter or find_delimiter(text)
        first, _, rest = text.lstrip("\n").partition("\n")
        cells = first.split(delimiter)
        header = len(cells) > 1 and any(is_usual(cell.strip(' "')) for cell in cells) and not asks(first)
        even = len(cells) > 1 and _share(rest, delimiter) >= 0.8
        if config.delimiter or header or config.format == "csv":
            return read_delimited(text, request, config.delimiter)
        if _MARKUP.search(text):
            table = families["Markdown"](text, request)
        if table is None and not (even and delimiter in "\t;|"):
            table = families["questions above answers"](text, request)
    if table is not None:
        return table
    if kind == "markdown":
        raise DatasetFormatError(
            f"{request.name} holds no questions and answers: expected headings, bold lines that end with a question "
            "mark, or lines that begin with Q: and A:"
        )
    return read_delimited(text, request, config.delimiter)


def _share(text: str, delimiter: str) -> float:
    lines = [line for line in text.split("\n", 200)[:200] if line.strip()]
    return sum(delimiter in line for line in lines) / len(lines) if lines else 1.0


def _of_families(given: str, content: Any, request: Request) -> Table | None:
    for family in FAMILIES:
        if family.given == given:
            table: Table | None = family.read(content, request)
            if table is not None:
                return table
    return None


def _check(table: Table, request: Request) -> Table:
    if not table.rows:
        raise DatasetFormatError(f"{table.file} has no rows" + (" below its header" if table.delimiter else ""))
    malformed = next((row for row in table.rows if row.problem), None)
    if not any(row.problem is None for row in table.rows) and malformed:
        raise DatasetFormatError(f"{malformed.place}: {malformed.problem}")
    if request.answers and len(table.columns) == 1:
        remedy = " Is it separated by something else? Name it with --dataset.delimiter."
        if request.config.delimiter and any(sign in table.columns[0] for sign in DELIMITERS[:4]):
            remedy = f" Nothing is separated by {table.delimiter!r}; leave --dataset.delimiter out to have it found."
        elif request.config.delimiter or not table.delimiter:
            remedy = " Questions alone teach nothing; give each its answer."
        raise DatasetFormatError(
            f"{table.file} has one column, {table.columns[0][:60]!r}: expected one with questions and one with answers."
            + remedy
        )
    return table
