"""The known answers of a dataset: what the model may say, letter by letter, and the trie of their tokens.

``answers.jsonl`` has a line for each, ``{"id": str, "text": str, "columns": {…}}``. The trie is that of the texts as
they were trained, so it stays when a text is corrected later, and so does the id.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from askline.errors import ArtifactError, DatasetError
from inference.trie import DECLINING
from inference.trie import Trie as Trie
from tasks.qa.rows import Row

FILE, TRIE = "answers.jsonl", "answers.bin"
#: More answers, or more text, than a small container should hold. Chosen with room to spare, not measured: the trie of
#: 20,000 answers is a few hundred kilobytes, and all texts are held in memory.
MAX_ANSWERS = 50_000
MAX_BYTES = 128 * 2**20
_ID_DIGITS = 12
#: So many of the most probable answers to a question are kept, in the evaluation as in the package.
KEPT = 256


class KnownAnswer(NamedTuple):
    """One distinct answer of a dataset."""

    id: str
    """The first digits of the sha256 of its text as it was trained; it stays when the text is corrected."""
    text: str
    columns: dict[str, str]
    """Further columns that travel with it, such as a link."""


class Known(NamedTuple):
    """What a model may say, and how it is chosen."""

    answers: list[KnownAnswer]
    trie: Trie
    declining: str
    """What is said in place of an answer."""

    def text(self, index: int) -> str:
        """Return what is said for a number that the trie gives: an answer's text, or the declining one."""
        return self.declining if index == DECLINING else self.answers[index].text

    def id(self, index: int) -> str | None:
        """Return the id of the answer of this number; None declines."""
        return None if index == DECLINING else self.answers[index].id

    def write(self, folder: Path) -> None:
        """Write ``answers.jsonl`` and ``answers.bin``, as the package carries them."""
        write_answers(self.answers, folder / FILE)
        self.trie.save(folder / TRIE)


def known_of(
    rows: Sequence[Row], trained: Sequence[Row], tokenizer_file: Path, *, max_target_tokens: int, declining: str
) -> Known:
    """Return the known answers of a dataset to a model.

    Parameters
    ----------
    rows
        Of all splits.
    trained
        Of the training split; where some of them decline, the model has learnt to as well.
    tokenizer_file
        The model's ``tokenizer.json``.
    declining
        What is said in place of an answer.

    Raises
    ------
    DatasetError
        If there are no answers, or too many.
    ArtifactError
        If the tokenizer cannot be read.
    """
    answers = known_answers(rows)
    trie = answer_trie(answers, tokenizer_file, max_target_tokens=max_target_tokens, declining=declining_text(trained))
    return Known(answers, trie, declining)


def answer_id(text: str) -> str:
    """Return the id of the known answer of this text, white space at its ends aside."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:_ID_DIGITS]


def known_answers(rows: Iterable[Row]) -> list[KnownAnswer]:
    """Return the distinct answers of the in-scope rows, in the order in which they first come.

    Answers differ where they differ in one letter. Of rows with the same answer the first that fills a further column
    gives its value.

    Raises
    ------
    DatasetError
        If there are none, or more than a container should hold.
    """
    found: dict[str, KnownAnswer] = {}
    size = 0
    for row in rows:
        if not row.in_scope:
            continue
        text = row.answer.strip()
        own = found.get(text)
        if own is None:
            size += len(text.encode())
            own = found[text] = KnownAnswer(answer_id(text), text, {})
        for name, value in (getattr(row, "columns", None) or {}).items():
            if value and not own.columns.get(name):
                own.columns[name] = value
    if not found:
        raise DatasetError("the dataset has no answer that is not its text for declining, so nothing could be said")
    if len(found) > MAX_ANSWERS or size > MAX_BYTES:
        raise DatasetError(
            f"the dataset has {len(found):,} different answers of {size / 2**20:,.0f} MiB together, and a package "
            f"holds at most {MAX_ANSWERS:,} known answers and {MAX_BYTES // 2**20} MiB: let the model write freely "
            "(--training.answers free), or give it fewer answers"
        )
    return list(found.values())


def write_answers(answers: Iterable[KnownAnswer], path: Path) -> None:
    """Write ``answers.jsonl``."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for answer in answers:
            stream.write(json.dumps(answer._asdict(), ensure_ascii=False) + "\n")


def read_answers(path: Path) -> list[KnownAnswer]:
    """Read what :func:`write_answers` wrote.

    Raises
    ------
    ArtifactError
        If the file is missing, or a line is no answer.
    """
    try:
        # Not splitlines(): a text may hold a Unicode line separator, which JSON leaves as it is.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [KnownAnswer(**json.loads(line)) for line in lines if line]
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is not a list of known answers ({error!r}); package the model again") from error


def declining_text(rows: Iterable[Row]) -> str | None:
    """Return the text that training rows decline with; None where none does, so that the model has not learnt it."""
    return next((row.answer.strip() for row in rows if not row.in_scope), None)


def answer_trie(
    answers: Sequence[KnownAnswer], tokenizer_file: Path, *, max_target_tokens: int, declining: str | None = None
) -> Trie:
    """Return the trie of the answers' tokens, cut where training cut them.

    Parameters
    ----------
    tokenizer_file
        The model's ``tokenizer.json``.
    declining
        The text for declining, where the model has learnt it.

    Raises
    ------
    ArtifactError
        If the tokenizer cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises nothing more precise
        raise ArtifactError(f"{tokenizer_file} is not a tokenizer ({error}); train the model again") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_target_tokens)
    texts = [answer.text for answer in answers] + ([] if declining is None else [declining])
    # T5's own end mark closes every encoding; a text that spells it out ends there too.
    end = tokenizer.encode("").ids[-1]
    paths = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    return Trie.build([ids[: ids.index(end) + 1] for ids in paths], declines=declining is not None)
