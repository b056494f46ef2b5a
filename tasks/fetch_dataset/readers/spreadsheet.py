"""Excel workbooks, read by openpyxl: every cell as the sheet shows it, no formula calculated, no link followed."""

import datetime
import io
import re
from collections.abc import Iterator
from typing import Any

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.content import asks, seems_header
from tasks.fetch_dataset.names import is_usual, rank
from tasks.fetch_dataset.readers.archives import open_zip
from tasks.fetch_dataset.readers.request import Request, counted
from tasks.fetch_dataset.tables import SourceRow, Table

_TITLE_ROWS = 20
"""Rows at the top among which the header is looked for."""
_DECIMALS = re.compile(r"^[^0#]*[0#,]*(0)\.(0+)[^0#]*$")
_ZEROS = re.compile(r"^0+$")


def read_spreadsheet(data: bytes, request: Request) -> Table:
    """Read the sheet with questions and answers; all of them where several have the same columns.

    Raises
    ------
    DatasetFormatError
        If it is damaged, would unpack to too much, or its sheet has to be chosen; lists the sheets and the option.
    """
    archive = open_zip(data, request.name)
    if "xl/workbook.xml" not in archive.namelist():
        raise DatasetFormatError(f"{request.name} is no Excel workbook in the form of .xlsx; save it as one, or as CSV")
    sheets = _sheets(data, request.name)
    filled = {title: rows for title, rows in sheets.items() if rows}
    if not filled:
        raise DatasetFormatError(f"{request.name} has no rows in any of its sheets: {', '.join(map(repr, sheets))}")
    tables = {title: _table(rows, request) for title, rows in filled.items()}
    chosen = _choose(tables, request, list(sheets))
    others = [title for title in filled if title not in chosen]
    first = tables[chosen[0]]
    if len(chosen) > 1:
        first.columns = (*first.columns, "sheet") if "sheet" not in first.columns else first.columns
        rows = [(title, row) for title in chosen for row in tables[title].rows]
        first.rows = [
            SourceRow(f"{request.name} ({title})", n, row.line, {**row.values, "sheet": title})
            for n, (title, row) in enumerate(rows, start=1)
        ]
        first.notes.append(
            f"{request.name}: {len(chosen)} sheets with the same columns are read together: "
            f"{', '.join(map(repr, chosen))}; one alone with --dataset.sheet"
        )
    if others:
        first.left_out.append(
            f"{request.name}: the sheets {', '.join(map(repr, others))}; another is read with --dataset.sheet"
        )
    first.shape, first.why = "Excel sheet", f"its sheet {chosen[0]!r}"
    _tell_formulas(data, request, first)
    return first


def _load(data: bytes, name: str, *, values: bool) -> Any:
    import warnings

    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on styles and extensions, which change no cell
            return openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=values, keep_links=False)
    except Exception as error:  # noqa: BLE001 - a damaged workbook fails in openpyxl, zipfile, zlib or the XML parser
        raise DatasetFormatError(f"{name} is a damaged Excel workbook: {_said(error)}") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sheets(data: bytes, name: str) -> dict[str, list[tuple[int, list[str]]]]:
    """Return the filled rows of every sheet that holds cells, each with its number in the sheet."""
    book = _load(data, name, values=True)
    try:
        return {sheet.title: list(_rows(sheet)) for sheet in book.worksheets}
    except Exception as error:  # noqa: BLE001 - sheets are parsed only now
        raise DatasetFormatError(f"{name} is a damaged Excel workbook: {_said(error)}") from None
    finally:
        book.close()


def _rows(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    sheet.reset_dimensions()  # what a sheet says of its own size is often wrong
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        texts = [shown(cell.value, getattr(cell, "number_format", "General")) for cell in cells]
        while texts and not texts[-1].strip():
            texts.pop()
        if texts:
            yield number, texts


def shown(value: Any, number_format: str) -> str:
    """Return a cell's value as its sheet shows it: ``007`` in the format ``000``, ``1.50`` in ``0.00``, ``5%``.

    Dates are written as ISO 8601, and the number format's colours, currencies and conditions are not.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight and "h" not in number_format.lower() else value.isoformat(" ")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        seconds = round(value.total_seconds())
        return f"{seconds // 3600}:{seconds // 60 % 60:02}" + (f":{seconds % 60:02}" if seconds % 60 else "")
    if not isinstance(value, (int, float)):
        return str(value)
    pattern = number_format.split(";")[0].replace("\\", "").strip()
    if pattern.endswith("%"):
        found = _DECIMALS.match(pattern)
        return f"{value * 100:.{len(found[2]) if found else 0}f}%"
    if _ZEROS.match(pattern) and float(value).is_integer():
        return f"{int(value):0{len(pattern)}d}"
    if found := _DECIMALS.match(pattern):
        return f"{value:{',' if ',' in pattern else ''}.{len(found[2])}f}"
    if pattern == "#,##0":
        return f"{value:,.0f}"
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _table(rows: list[tuple[int, list[str]]], request: Request) -> Table:
    """Make a table of a sheet: its header is the first row that names columns, below titles and empty rows."""
    width = max(len(texts) for _, texts in rows)
    used = [n for n in range(width) if any(len(texts) > n and texts[n].strip() for _, texts in rows)]
    cells = [(number, [texts[n] if n < len(texts) else "" for n in used]) for number, texts in rows]
    notes: list[str] = []
    top, header = _header([texts for _, texts in cells], request)
    names: list[str] = []
    for n, text in enumerate(cells[top][1] if header else [""] * len(used), start=1):
        name = " ".join(text.split()) or f"column {n}"
        names.append(name if name not in names else f"{name} ({n})")
    body = cells[top + 1 :] if header else cells[top:]
    if top:
        notes.append(f"{request.name}: {counted(top, 'row')} above the header not read")
    if not header:
        notes.append(f"{request.name} has no header: its first row is a row; say otherwise with --dataset.header yes")
    made = [
        SourceRow(request.name, n, number, dict(zip(names, texts, strict=True)))
        for n, (number, texts) in enumerate(body, start=1)
    ]
    return Table(request.name, "xlsx", tuple(names), made, notes=notes)


def _header(rows: list[list[str]], request: Request) -> tuple[int, bool]:
    if request.config.header == "no":
        return 0, False
    for number, texts in enumerate(rows[:_TITLE_ROWS]):
        filled = [text for text in texts if text.strip()]
        if (len(filled) > 1 or len(texts) == 1) and any(is_usual(text) and not asks(text) for text in filled):
            return number, True
    wide = [
        n for n, texts in enumerate(rows[:_TITLE_ROWS]) if sum(bool(t.strip()) for t in texts) > 1 or len(texts) == 1
    ]
    top = wide[0] if wide else 0
    return top, request.config.header == "yes" or seems_header(rows[top], rows[top + 1 :])


def _choose(tables: dict[str, Table], request: Request, sheets: list[str]) -> list[str]:
    """Return the sheets that are read."""
    wanted = request.config.sheet
    if wanted is not None:
        found = [title for title in tables if title.casefold() == wanted.casefold()]
        if found:
            return found[:1]
        empty = ", which is empty" if wanted in sheets else ""
        raise DatasetFormatError(
            f"{request.name} has no rows in a sheet --dataset.sheet {wanted!r}{empty}. "
            f"Its sheets are: {', '.join(map(repr, sheets))}"
        )
    if len(tables) == 1:
        return list(tables)
    named = {title: table for title, table in tables.items() if _is_named(table, request)}
    if not named:  # no usual name in any: a sheet of two columns of text, of which there must be one
        named = {title: table for title, table in tables.items() if len(table.columns) > 1 and len(table.rows) > 1}
    if len({table.columns for table in named.values()}) == 1:
        return list(named)
    several = named or tables
    raise DatasetFormatError(
        f"{request.name} has several sheets that may hold the questions and answers: "
        f"{', '.join(f'{title!r} ({len(table.rows)} rows)' for title, table in several.items())}. "
        f"Choose one with --dataset.sheet {next(iter(several))!r}"
    )


def _is_named(table: Table, request: Request) -> bool:
    asked = any(rank(column, "question") is not None for column in table.columns)
    return asked and (not request.answers or any(rank(column, "answer") is not None for column in table.columns))


def _tell_formulas(data: bytes, request: Request, table: Table) -> None:
    """Say which cells hold a formula whose result was never stored, since nothing here calculates."""
    if not any(not text for row in table.rows for text in row.values.values()) or data == b"":
        return
    book = _load(data, request.name, values=False)
    try:
        count = sum(
            isinstance(cell.value, str) and cell.value.startswith("=") and cell.data_type == "f"
            for sheet in book.worksheets
            for cells in sheet.iter_rows()
            for cell in cells
        )
    except Exception:  # noqa: BLE001 - the rows were read already; this only counts
        return
    finally:
        book.close()
    if count:
        table.notes.append(
            f"{request.name}: {count} cells hold formulas; their stored results are read, and where none is stored the "
            "cell is blank. Open and save it in a spreadsheet program to store them"
        )
