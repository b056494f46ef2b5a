"""What a column's cells look like: asked or told, long or short, once or again and again."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.fetch_dataset.values import texts_of

SAMPLE = 1_000
"""Cells of a column that are looked at."""

_ENDS_ASKING = re.compile(r"[?？؟⸮;︖]['\"»”’)\]\s*_]*$")
_GREEK = re.compile(r"[Ͱ-Ͽ]")
# How questions without a mark begin or end: enough to tell a column of questions from one of answers.
_ASKS = re.compile(
    r"""^\W*(?:¿|how|what|whats|when|where|who|whom|whose|why|which|can|could|do|does|did|is|are|may|should|will|would
    |wie|was|wann|wo|wer|warum|wieso|welche[rsnm]?|kann|darf|muss|gibt|habt|ist|sind
    |comment|quel(?:le)?s?|quand|où|qui|pourquoi|combien|est-ce|puis-je|peut-on
    |c[oó]mo|qu[eé]|cu[aá]l(?:es)?|cu[aá]ndo|d[oó]nde|qui[eé]n|cu[aá]nto?s?|puedo|hay|tienen
    |como|qual|quais|quando|onde|quem|quanto?s?|posso|come|cosa|quali|dove|chi|perch[eé]
    |cum|ce|c[aâ]nd|unde|cine|c[aâ]t|care|hoe|wat|wanneer|waar|wie|waarom|jak|co|kiedy|gdzie|kto|czy|dlaczego
    |как|что|когда|где|кто|почему|сколько|какой|какие|можно|hvordan|hvad|hvor|hur|vad|när|nasıl|nedir|ne|kim)\b
    |(?:か|ですか|ますか|吗|嗎|呢|까요?|나요)[。.]?\s*$""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBER_LIKE = re.compile(r"^[\s\d.,:;/+%€$£-]*$")
_LINK = re.compile(r"^(?:https?://|www\.)\S+$|^[\w.+-]+@[\w-]+\.\w+$")


def asks(text: str) -> bool:
    """Say whether a text ends as a question does."""
    if text.rstrip()[-1:] == ";" and not _GREEK.search(text):
        return False
    return bool(_ENDS_ASKING.search(text))


def seems_to_ask(text: str) -> bool:
    """Say whether a text ends as a question does, or begins as one."""
    return asks(text) or bool(_ASKS.search(text))


@dataclass(frozen=True, slots=True)
class Content:
    """One column in figures."""

    filled: float
    """Share of the cells that say something."""
    worded: float
    """Share of the filled cells that hold words, not only a number, a date or a link."""
    asking: float
    """Share of the filled cells that end with a question mark."""
    seeming: float
    """Share of the filled cells that end or begin as a question does."""
    length: float
    """Mean characters of a filled cell."""
    distinct: float
    """Share of the filled cells that are different from all earlier ones."""

    @property
    def may_ask(self) -> bool:
        """Whether it may hold questions at all: words in most of the cells that are filled."""
        return self.filled > 0 and self.worded >= 0.5

    @property
    def is_topic(self) -> bool:
        """Whether it holds a few short values again and again, as a column of topics does."""
        return self.distinct < 0.5 and self.length < 25 and self.asking <= 0.5

    @property
    def may_answer(self) -> bool:
        """Whether it may hold answers where no name says so: words, and not one of a few topics in every cell."""
        return self.may_ask and self.filled >= 0.2


def look_at(cells: Iterable[Any]) -> Content:
    """Describe a column by its cells; only the first :data:`SAMPLE` should be given."""
    texts: list[str] = []
    count = 0
    for cell in cells:
        count += 1
        texts.extend(texts_of(cell)[:3])
    if not texts:
        return Content(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    total = len(texts)
    return Content(
        filled=min(total / max(count, 1), 1.0),
        worded=sum(not _NUMBER_LIKE.match(text[:200]) and not _LINK.match(text) for text in texts) / total,
        asking=sum(map(asks, texts)) / total,
        seeming=sum(map(seems_to_ask, texts)) / total,
        length=sum(map(len, texts)) / total,
        distinct=len(set(texts)) / total,
    )


def seems_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Say whether the first record of a file without a usual name in it names the columns, by what it holds.

    A name is short, asks and says nothing, and is not a number; a record of questions and answers does. Where both
    could be, the record is a header if its cells are clearly shorter than those below it.
    """
    for cell in first:
        text = cell.strip()
        if asks(text) or len(text) > 60 or len(text.split()) > 6 or text[-1:] in (".", "!", "。", "！"):
            return False
        if text and _NUMBER_LIKE.match(text):
            return False
    if not others:
        return True
    for number, cell in enumerate(first):
        below = [record[number] for record in others[:SAMPLE] if number < len(record)]
        if cell.strip() in below:
            return False
    return True
