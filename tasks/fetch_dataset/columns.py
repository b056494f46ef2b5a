"""Which column holds the questions and which the answers: by name, and where names do not decide by what they hold."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError
from tasks.fetch_dataset.content import SAMPLE, Content, look_at
from tasks.fetch_dataset.languages import choose_language, is_language
from tasks.fetch_dataset.names import GROUP_NAMES, Role, plain, rank, words
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.values import texts_of

_LONGER = 1.3
"""How many times longer on average one column must be than another to be told from it by length."""
_TOPICS = 0.5
"""Above this share of groups with one answer alone, a column called group is taken for facts, not topics."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are used."""

    question: str
    answer: str
    group: str | None
    group_was_named: bool


def find_columns(table: Table, config: DatasetConfig) -> Columns:
    """Choose the columns: those that the config names, else by name, else by what they hold.

    What was taken for another reason than a usual name, and how to say otherwise, is added to the table's notes.

    Raises
    ------
    DatasetFormatError
        If a named column is not there, or neither names nor content decide: one message for both columns, with what
        stands in each and the options.
    """
    columns, file = table.columns, table.file
    question = _named(columns, config.question_column, "question", file)
    answer = _named(columns, config.answer_column, "answer", file)
    group = _named(columns, config.group_column, "group", file)
    if question is not None and question == answer:
        raise DatasetFormatError(
            f"{file}: --dataset.question-column and --dataset.answer-column both name {question!r}. {_listed(table)}"
        )
    if table.pair is not None:
        question, answer = question or table.pair[0], answer or table.pair[1]
    if question is None or answer is None:
        question, answer = _find(table, config, question, answer, group)
    if group is None:
        group = _group(table, question, answer)
    return Columns(question, answer, group, config.group_column is not None)


def find_question_column(table: Table, config: DatasetConfig) -> str:
    """Choose the column of a file that holds questions alone, as :func:`find_columns` does.

    Raises
    ------
    DatasetFormatError
        If the named column is not there, or neither names nor content decide.
    """
    named = _named(table.columns, config.question_column, "question", table.file)
    if named is not None:
        return named
    if table.pair is not None:
        return table.pair[0]
    content = _contents(table)
    found = _by_name(table, "question", content, config, taken=())
    if len(found) == 1:
        return found[0]
    asking = [column for column in (found or table.columns) if content[column].may_ask]
    if len(asking) > 1 and not found:
        best = sorted(asking, key=lambda column: content[column].seeming, reverse=True)
        if content[best[0]].seeming >= 0.3 and content[best[1]].seeming <= content[best[0]].seeming / 2:
            asking = best[:1]
    if len(asking) == 1:
        table.notes.append(
            f"{table.file}: {asking[0]!r} was taken for the questions by what it holds; "
            "say otherwise with --dataset.question-column"
        )
        return asking[0]
    several = ", ".join(map(repr, found))
    why = (
        f"{several} could each be the question column"
        if found
        else "it cannot be told which column holds the questions"
    )
    raise DatasetFormatError(f"{table.file}: {why}. Name it with --dataset.question-column. {_listed(table)}")


def _find(
    table: Table, config: DatasetConfig, question: str | None, answer: str | None, group: str | None
) -> tuple[str, str]:
    content = _contents(table)
    by_name = True
    asked = [question] if question else _by_name(table, "question", content, config, taken=(answer, group))
    told = [answer] if answer else _by_name(table, "answer", content, config, taken=(question, group))
    if [plain(column) for column in told] == ["a"] and not asked:
        told = []  # "a" stands for answers beside "q" alone; else it may be the first of a, b, c
    if len(asked) == 1 and asked == told:
        told = []  # one name for both roles says which is which for neither
    if len(asked) != 1 or len(told) != 1:
        by_name = False
        asked, told = _by_content(table, content, asked, told, taken=(question, answer, group))
    if len(asked) != 1 or len(told) != 1:
        raise DatasetFormatError(_undecided(table, asked if not question else [], told if not answer else []))
    if not by_name:
        table.notes.append(
            f"{table.file}: {asked[0]!r} was taken for the questions and {told[0]!r} for the answers, by what they "
            "hold; say otherwise with --dataset.question-column and --dataset.answer-column"
        )
    return asked[0], told[0]


def _contents(table: Table) -> dict[str, Content]:
    rows = [row.values for row in table.rows[:SAMPLE] if row.problem is None]
    return {column: look_at(values.get(column) for values in rows) for column in table.columns}


def _by_name(
    table: Table, role: Role, content: dict[str, Content], config: DatasetConfig, taken: Sequence[str | None]
) -> list[str]:
    """Return the columns whose names speak for a role most surely: none, one, or several that tie."""
    ranks: dict[int, list[str]] = defaultdict(list)
    for column in table.columns:
        found = rank(column, role)
        fits = content[column].may_ask if role == "question" else content[column].filled > 0
        if found is not None and column not in taken and (fits or not table.rows):
            ranks[found].append(column)
    if not ranks:
        # A name that fits and a column that holds nothing, or numbers: better than no name at all.
        return [column for column in table.columns if rank(column, role) == 0 and column not in taken]
    best = ranks[min(ranks)]
    return _in_one_language(table, best, config) if len(best) > 1 else best


def _in_one_language(table: Table, columns: list[str], config: DatasetConfig) -> list[str]:
    """Choose among ``question_en`` and ``question_de`` by the option; other ties stay."""
    languages: dict[str, str] = {}
    for column in columns:
        code = next((word for word in reversed(words(column)) if is_language(word)), None)
        if code is None or code in languages:
            return columns
        languages[code] = column
    counts = {
        code: sum(bool(texts_of(row.values.get(column))) for row in table.rows) for code, column in languages.items()
    }
    return [languages[choose_language(counts, config, table.file)]]


def _by_content(
    table: Table, content: dict[str, Content], asked: list[str], told: list[str], taken: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    """Decide by question marks, lengths and repetition what the names left open."""
    free = [column for column in table.columns if column not in taken and content[column].may_answer]
    if len(table.columns) - len([c for c in taken if c]) == 1:  # one column is left, whatever it holds
        free = [column for column in table.columns if column not in taken]
    # A few short values that come again and again are topics, unless nothing else is there.
    several = [column for column in free if not content[column].is_topic]
    if len(several) >= 2:
        free = several
    if len(told) == 1:
        free = [column for column in free if column != told[0]]
    if len(asked) != 1:
        among = asked or free
        marks = sorted(among, key=lambda column: content[column].asking, reverse=True)
        if len(marks) > 1 and content[marks[0]].asking <= 2 * content[marks[1]].asking:
            marks = sorted(among, key=lambda column: content[column].seeming, reverse=True)
            ahead = content[marks[0]].seeming >= 0.3 and content[marks[0]].seeming > 2 * content[marks[1]].seeming
        else:
            ahead = bool(marks) and content[marks[0]].asking >= 0.2
        if len(among) == 1 or (ahead and marks):
            asked = marks[:1]
        elif not asked and len(free) == 2 and len(told) != 1:
            # Two columns of text and no question marks: what is asked is shorter than what is told, else comes first.
            short, long = sorted(free, key=lambda column: content[column].length)
            asked = [short] if content[long].length >= _LONGER * content[short].length else free[:1]
    if len(asked) == 1 and len(told) != 1:
        rest = [column for column in (told or free) if column != asked[0]]
        longest = sorted(rest, key=lambda column: content[column].length, reverse=True)
        if len(rest) == 1 or (
            len(rest) > 1 and content[longest[0]].length >= _LONGER * content[longest[1]].length and not told
        ):
            told = longest[:1]
    return asked, told


def _undecided(table: Table, asked: list[str], told: list[str]) -> str:
    parts = [
        f"{', '.join(map(repr, found))} could each be the {role} column"
        for role, found in (("question", asked), ("answer", told))
        if len(found) > 1
    ]
    why = "; ".join(parts) or "neither names nor content tell which column holds the questions and which the answers"
    return (
        f"{table.file}: {why}. Say which with --dataset.question-column and --dataset.answer-column. {_listed(table)}"
    )


def _group(table: Table, question: str, answer: str) -> str | None:
    """Return the column that is a group by its name and by what it holds: one answer a group, not a topic of many."""
    found = [c for c in table.columns if plain(c) in GROUP_NAMES and c not in (question, answer)]
    if len(found) != 1:
        return None
    answers: dict[str, set[str]] = defaultdict(set)
    for row in table.rows:
        group, texts = texts_of(row.values.get(found[0])), texts_of(row.values.get(answer))
        if row.problem is None and group and texts:
            answers[group[0]].add(texts[0].strip())
    one = sum(len(different) == 1 for different in answers.values())
    if not answers or one / len(answers) > _TOPICS:
        return found[0]
    table.notes.append(
        f"{table.file}: {found[0]!r} is a topic, not a fact: {len(answers) - one} of its {len(answers)} values stand "
        f"beside several answers. It is not used; --dataset.group-column {found[0]} would use it"
    )
    return None


def _named(columns: Sequence[str], name: str | None, role: str, file: str) -> str | None:
    if name is None:
        return None
    if name in columns:
        return name
    alike = [column for column in columns if plain(column) == plain(name)]
    if len(alike) != 1:
        trouble = f"columns {', '.join(map(repr, alike))} differ from it only in case" if alike else "is not there"
        raise DatasetFormatError(
            f"{file}: --dataset.{role}-column {name!r} {trouble}. The columns are: {_names(columns)}."
        )
    return alike[0]


def _names(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(column if len(column) <= 60 else column[:57] + "…") for column in columns[:30])
    return f"{shown or '(none)'}{' …' if len(columns) > 30 else ''}"


def _listed(table: Table) -> str:
    """List the columns, each with what stands in its first filled row."""
    shown = []
    for column in table.columns[:12]:
        first: Any = next((texts[0] for row in table.rows[:SAMPLE] if (texts := texts_of(row.values.get(column)))), "")
        first = " ".join(first.split())
        shown.append(f"{column!r} ({first[:40]}{'…' if len(first) > 40 else ''})" if first else repr(column))
    more = f" and {len(table.columns) - 12} more" if len(table.columns) > 12 else ""
    return f"The columns are: {', '.join(shown) or '(none)'}{more}."
