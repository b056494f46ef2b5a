"""From rows as they stand to questions with answers, and the rows that were rejected, each with its reason."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.columns import Columns
from tasks.fetch_dataset.tables import SourceRow
from tasks.fetch_dataset.text import comparable, tidy, word_set
from tasks.fetch_dataset.values import cell_text

MAX_QUESTION_CHARACTERS = 10_000
MAX_ANSWER_CHARACTERS = 10_000
"""A longer cell is a document, or the rest of a file behind a quote that was never closed."""

Reason = Literal[
    "malformed row",
    "unreadable cell",
    "blank question",
    "blank answer",
    "question too long",
    "answer too long",
    "duplicate",
    "conflicting answer",
    "question held out",
    "nearly a held-out question",
]


@dataclass(frozen=True)
class Example:
    """One clean question with its answer."""

    question: str
    answer: str
    group: str | None
    in_scope: bool
    source: SourceRow
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further cells that belong to the answer, by the name of their column."""
    made_by: str | None = None
    """The rule that made the question from one of the file's; None for a question that stands in the file."""

    @property
    def corrects(self) -> bool:
        """Whether somebody corrected an answer of the API by this row: what ``flows.collect_feedback`` writes."""
        return self.source.values.get("source") == "corrected" and bool(self.source.values.get("request_id"))

    @cached_property
    def question_key(self) -> str:
        """Equal for two questions that count as the same."""
        return comparable(self.question)

    @cached_property
    def answer_key(self) -> str:
        """Equal for two answers that say the same, perhaps in other case or with another full stop."""
        return comparable(self.answer)

    @cached_property
    def words(self) -> str:
        """Equal for two questions of the same words in whatever order."""
        return word_set(self.question)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was left out."""

    split: str
    source: SourceRow
    reason: Reason
    detail: str


@dataclass
class Cleaned:
    """What is left of each split, and what is not."""

    splits: dict[str, list[Example]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def reject(self, split: str, source: SourceRow, reason: Reason, detail: str) -> None:
        """Leave a row out."""
        self.rejected.append(Rejected(split, source, reason, detail))

    @property
    def lost(self) -> list[Rejected]:
        """The rejected rows that held something: not those that only repeat another row."""
        return [item for item in self.rejected if item.reason != "duplicate"]

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected rows by reason, the most frequent first."""
        return dict(
            sorted(Counter(item.reason for item in self.rejected).items(), key=lambda pair: (-pair[1], pair[0]))
        )


def clean_split(
    cleaned: Cleaned,
    split: str,
    rows: Iterable[tuple[SourceRow, Columns]],
    unanswerable: str,
    answer_columns: Sequence[str] = (),
) -> None:
    """Clean the rows of one split: tidy questions, and no blanks, over-long cells, duplicates or contradictions.

    An answer stays as it is written, letter by letter, with its lines, lists and markup; only white space around it
    goes. Of rows that ask the same question the first stays: a later one with the same answer is a duplicate, one with
    another answer a conflict.

    Parameters
    ----------
    answer_columns
        Columns whose cells belong to the answer, such as a link; they are kept beside it, letter by letter too.
    """
    out_of_scope = comparable(tidy(unanswerable))
    first: dict[str, Example] = {}
    kept = cleaned.splits.setdefault(split, [])
    for source, columns in rows:
        example = _example(cleaned, split, source, columns, unanswerable, out_of_scope, answer_columns)
        if example is None:
            continue
        earlier = first.setdefault(example.question_key, example)
        if earlier is example:
            kept.append(example)
        elif earlier.answer_key == example.answer_key:
            cleaned.reject(split, source, "duplicate", f"the same question and answer as {earlier.source.place}")
        else:
            detail = f"{earlier.source.place} answers the same question with {_short(earlier.answer)}"
            cleaned.reject(split, source, "conflicting answer", detail)


def _example(
    cleaned: Cleaned,
    split: str,
    source: SourceRow,
    columns: Columns,
    unanswerable: str,
    out_of_scope: str,
    answer_columns: Sequence[str],
) -> Example | None:
    if source.problem is not None:
        cleaned.reject(split, source, "malformed row", source.problem)
        return None
    texts: dict[str, str] = {}
    for column in filter(None, (columns.question, columns.answer, columns.group, *answer_columns)):
        try:
            texts[column] = cell_text(source.values.get(column), unanswerable)
            texts[column].encode()
        except UnicodeEncodeError:
            cleaned.reject(
                split, source, "unreadable cell", f"{column!r} holds half of a surrogate pair, which is no character"
            )
            return None
        except ValueError as error:
            cleaned.reject(split, source, "unreadable cell", f"expected text in {column!r}, found {error}")
            return None
    question, answer = tidy(texts[columns.question]), texts[columns.answer].strip()
    group = tidy(texts[columns.group]) if columns.group is not None else ""
    if not question:
        cleaned.reject(split, source, "blank question", f"nothing in {columns.question!r}")
    elif not tidy(answer):
        cleaned.reject(split, source, "blank answer", f"nothing in {columns.answer!r}")
    elif len(question) > MAX_QUESTION_CHARACTERS:
        cleaned.reject(split, source, "question too long", _over(question, MAX_QUESTION_CHARACTERS))
    elif len(answer) > MAX_ANSWER_CHARACTERS:
        cleaned.reject(split, source, "answer too long", _over(answer, MAX_ANSWER_CHARACTERS))
    else:
        in_scope = comparable(tidy(answer)) != out_of_scope
        further = {column: texts[column].strip() for column in answer_columns if texts[column].strip()}
        return Example(question, answer if in_scope else tidy(unanswerable), group or None, in_scope, source, further)
    return None


def keep_apart(cleaned: Cleaned, *, nearly: bool) -> None:
    """Take out of training what is held out: a test question stays in the test split alone.

    A training row that corrects a held-out one (:attr:`Example.corrects`) corrects it there: the answer that is asked
    for is the new one. Else the model would be held to an answer that somebody has found to be wrong.

    Parameters
    ----------
    cleaned
        With the splits ``train``, ``test`` and perhaps ``validation``.
    nearly
        Whether a training question of the same words in another order goes too.
    """
    held: dict[str, str] = {}
    held_words: dict[str, str] = {}
    corrections = {example.question_key: example for example in cleaned.splits.get("train", ()) if example.corrects}
    for split in ("test", "validation", "train"):
        kept = []
        for example in cleaned.splits.get(split, []):
            correction = corrections.get(example.question_key)
            if correction is not None and split != "train":
                example = replace(
                    example,
                    answer=correction.answer,
                    in_scope=correction.in_scope,
                    columns={**example.columns, **correction.columns},
                )
            if split == "train" and example.corrects and (place := held.get(example.question_key)):
                told = f"{place} asks the same, and has this answer now"
                cleaned.reject(split, example.source, "question held out", told)
            elif place := held.get(example.question_key):
                cleaned.reject(split, example.source, "question held out", f"{place} asks the same")
            elif nearly and (place := held_words.get(example.words)):
                cleaned.reject(split, example.source, "nearly a held-out question", f"{place} asks with the same words")
            else:
                kept.append(example)
        if split in cleaned.splits:
            cleaned.splits[split] = kept
        for example in kept:
            held[example.question_key] = f"{example.source.place} ({split})"
            held_words[example.words] = f"{example.source.place} ({split})"


def check_rejected(cleaned: Cleaned, read: int, max_rejected: float) -> None:
    """Stop where more rows were lost than the config allows; rows that only repeat another one lose nothing.

    Raises
    ------
    DatasetFormatError
        With the counts by reason and the first rows.
    """
    lost = cleaned.lost
    if read and len(lost) / read > max_rejected:
        counts = cleaned.reasons
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "duplicate")
        first = "\n".join(f"  {item.source.place}: {item.reason}: {item.detail}" for item in lost[:5])
        raise DatasetFormatError(
            f"{len(lost)} of {read} rows ({len(lost) / read:.0%}) were rejected, at most {max_rejected:.0%} may be "
            f"(--dataset.max-rejected): {reasons}. The first are:\n{first}"
        )


def _over(text: str, limit: int) -> str:
    return f"expected at most {limit:,} characters, found {len(text):,}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
