"""What every reader is given beside the content, and how pairs become a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from askline.config import DatasetConfig
from tasks.fetch_dataset.tables import SourceRow, Table

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One file that is to be read."""

    name: str
    """What it is called in messages and in ``rejected.jsonl``."""
    config: DatasetConfig
    answers: bool = True
    """Whether answers are expected, and so a second column."""
    format: str = "json"
    lines: Sequence[int] = ()
    """Of JSON Lines, the line of each item of the document."""

    def line(self, number: int) -> int | None:
        """Return the line of an item of the document, counted from 0, where the format has lines."""
        return self.lines[number] if number < len(self.lines) else None


@dataclass(frozen=True, slots=True)
class Malformed:
    """An item of a document that could not be read."""

    text: str
    problem: str


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: "1 entry", "2 entries"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shown(names: Iterable[str]) -> str:
    """Return the first few of some names, quoted, for a message."""
    listed = list(names)
    first = ", ".join(repr(name if len(name) <= 40 else name[:39] + "…") for name in listed[:_SHOWN])
    return first + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


@dataclass
class Pairs:
    """Questions, each in some wordings, with their answers; becomes a table of one row a wording."""

    request: Request
    shape: str
    why: str
    more: tuple[str, ...] = ()
    """Names of further columns."""
    rows: list[SourceRow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    declining: str | None = None
    _count: int = 0
    _several: list[str] = field(default_factory=list)
    _others: int = 0
    _silent: list[str] = field(default_factory=list)
    _unasked: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(
        self, questions: Sequence[str], answers: Sequence[str], name: str, *, line: int | None = None, **more: Any
    ) -> None:
        """Add one entry of the file.

        Parameters
        ----------
        questions
            Its wordings; without any it asks nothing, and its answers may be the file's way of declining.
        answers
            The first is taken; that others are left out is said.
        name
            What the entry is called, for messages.
        line
            Where it stands.
        more
            Cells of the further columns.
        """
        if not questions and not answers:
            return
        self._count += 1
        if not questions:
            self._unasked.append((name, list(answers)))
            return
        if not answers and self.request.answers:
            self._silent.append(name)
            return
        different = {answer.strip() for answer in answers[1:]} - {answer.strip() for answer in answers[:1]}
        if different:
            self._several.append(name)
            self._others += len(different)
        cells = {column: more.get(column) for column in self.more}
        for question in dict.fromkeys(questions):
            values = {"question": question, "answer": answers[0] if answers else None, **cells}
            self.rows.append(SourceRow(self.request.name, self._count, line, values))

    def malformed(self, value: Any, problem: str, line: int | None = None) -> None:
        """Add an entry that cannot be read."""
        self._count += 1
        self.rows.append(SourceRow(self.request.name, self._count, line, {"value": value}, problem))

    def table(self) -> Table | None:
        """Return the table, with what was left out; None where there is not one row."""
        if not self.rows:
            return None
        name = self.request.name
        if self._several:
            self.left_out.append(
                f"{name}: several answers in {counted(len(self._several), 'entry', 'entries')} "
                f"({shown(self._several)}); the first is the answer, {counted(self._others, 'other')} left out"
            )
        if self._silent:
            self.left_out.append(
                f"{name}: questions without an answer in {counted(len(self._silent), 'entry', 'entries')}, left out: "
                f"{shown(self._silent)}"
            )
        if self._unasked:
            self._without_questions(name)
        columns = ("question", "answer", *self.more)
        return Table(
            name,
            self.request.format,
            columns,
            self.rows,
            notes=self.notes,
            shape=self.shape,
            why=self.why,
            pair=("question", "answer"),
            left_out=self.left_out,
            declining=self.declining,
        )

    def _without_questions(self, name: str) -> None:
        names = [entry for entry, _ in self._unasked]
        self.left_out.append(
            f"{name}: answers without a question in {counted(len(names), 'entry', 'entries')}, left out: {shown(names)}"
        )
        likely = [texts for entry, texts in self._unasked if _declines(entry)]
        if not likely and len(self._unasked) == 1:
            likely = [self._unasked[0][1]]
        if likely:
            self.declining = likely[0][0]
            self.notes.append(
                f"{name}: the file itself declines with {self.declining!r}; have the API say so with "
                f"--dataset.unanswerable {_shell(self.declining)}"
            )


def _declines(name: str) -> bool:
    bare = "".join(c for c in name.casefold() if c.isalpha())
    return any(
        word in bare for word in ("noanswer", "fallback", "default", "unknown", "nomatch", "outofscope", "notfound")
    )


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)
