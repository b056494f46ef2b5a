"""What a reader hands over: rows that know where they stand, and what was understood of the file."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it stands in its file."""

    file: str
    """Name relative to the source."""
    row: int
    """Data row, counted from 1 without the header; the wordings of one question have one number."""
    line: int | None
    """Line on which it begins, where the format has lines."""
    values: dict[str, Any]
    """Cells by column; for a malformed row whatever could be read of it."""
    problem: str | None = None
    """Why it is malformed: what was expected and what was found."""

    @property
    def place(self) -> str:
        """Where the row stands, for messages."""
        return f"{self.file}, line {self.line}" if self.line else f"{self.file}, row {self.row}"


@dataclass(slots=True)
class Table:
    """One file, read."""

    file: str
    format: str
    columns: tuple[str, ...]
    """In the order in which they stand, or first appear."""
    rows: list[SourceRow]
    encoding: str | None = None
    delimiter: str | None = None
    notes: list[str] = field(default_factory=list)
    """What a person should know about how it was read."""
    shape: str = ""
    """What the file was recognised as: the name of its family in the table of readers."""
    why: str = ""
    """By what it was recognised."""
    pair: tuple[str, str] | None = None
    """The columns with the questions and the answers where the shape itself says which they are."""
    left_out: list[str] = field(default_factory=list)
    """What of the file is no pair, and why: a sentence each, with counts."""
    declining: str | None = None
    """The text with which the file itself declines to answer, where it holds one."""


def columns_of(rows: list[SourceRow]) -> tuple[str, ...]:
    """Return the columns of all well-formed rows, in the order in which they first appear."""
    return tuple(dict.fromkeys(column for row in rows if row.problem is None for column in row.values))
