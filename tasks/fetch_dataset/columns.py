"""Which column holds the questions, which the answers, and what a cell says."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError

_QUESTION = """
    question questions question_text q query_text frage fragen fråga spørgsmål spørsmål vraag pregunta pergunta questão
    domanda pytanie otázka kérdés întrebare soru вопрос питання ερώτηση سؤال שאלה प्रश्न 问题 問題 質問 질문
"""
_ANSWER = """
    answer answers answer_text a antwort antworten svar antwoord respuesta réponse reponse resposta risposta odpowiedź
    odpověď válasz răspuns cevap ответ відповідь απάντηση جواب إجابة תשובה उत्तर 答案 回答 答え 답변 답
"""
# Names of the first kind win over those of the second, which other columns carry too.
QUESTION_NAMES = (_QUESTION.split(), ["prompt", "query", "instruction", "input", "source_text"])
ANSWER_NAMES = (_ANSWER.split(), ["response", "output", "completion", "reply", "target", "target_text", "label"])
GROUP_NAMES = ("group", "group_id", "fact", "fact_id")
USUAL_NAMES = frozenset(chain(*QUESTION_NAMES, *ANSWER_NAMES, GROUP_NAMES))


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are used."""

    question: str
    answer: str
    group: str | None
    group_was_named: bool


def find_columns(columns: Sequence[str], config: DatasetConfig, file: str) -> Columns:
    """Choose the columns: those that the config names, else the ones with a usual name.

    Raises
    ------
    DatasetFormatError
        If a named column is not there, or none or several have a usual name; lists the columns and the option.
    """
    question = _named(columns, config.question_column, "question", file)
    answer = _named(columns, config.answer_column, "answer", file)
    group = _named(columns, config.group_column, "group", file)
    question = question or _usual(columns, (answer, group), QUESTION_NAMES, "question", file)
    answer = answer or _usual(columns, (question, group), ANSWER_NAMES, "answer", file)
    if question == answer:
        raise DatasetFormatError(
            f"{file}: --dataset.question-column and --dataset.answer-column both name {question!r}. {_listed(columns)}"
        )
    if group is None:
        found = [c for c in columns if _plain(c) in GROUP_NAMES and c not in (question, answer)]
        group = found[0] if len(found) == 1 else None
    return Columns(question, answer, group, config.group_column is not None)


def find_question_column(columns: Sequence[str], config: DatasetConfig, file: str) -> str:
    """Choose the column of a file that holds questions alone, as :func:`find_columns` does.

    Raises
    ------
    DatasetFormatError
        If the named column is not there, or none or several have a usual name.
    """
    named = _named(columns, config.question_column, "question", file)
    return named or _usual(columns, (), QUESTION_NAMES, "question", file)


def _named(columns: Sequence[str], name: str | None, role: str, file: str) -> str | None:
    if name is None:
        return None
    if name in columns:
        return name
    alike = [column for column in columns if _plain(column) == _plain(name)]
    if len(alike) != 1:
        trouble = f"columns {', '.join(map(repr, alike))} differ from it only in case" if alike else "is not there"
        raise DatasetFormatError(f"{file}: --dataset.{role}-column {name!r} {trouble}. {_listed(columns)}")
    return alike[0]


def _usual(
    columns: Sequence[str], taken: tuple[str | None, ...], tiers: tuple[list[str], ...], role: str, file: str
) -> str:
    free = [column for column in columns if column not in taken]
    for tier in tiers:
        found = [column for column in free if _plain(column) in tier]
        if len(found) == 1:
            return found[0]
        if found:
            raise DatasetFormatError(
                f"{file}: {', '.join(map(repr, found))} could each be the {role} column. "
                f"Say which with --dataset.{role}-column. {_listed(columns)}"
            )
    raise DatasetFormatError(
        f"{file}: no column has a usual name for {role}s ({', '.join(tiers[0][:1] + tiers[1][:2])} …). "
        f"Name it with --dataset.{role}-column. {_listed(columns)}"
    )


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(column if len(column) <= 60 else column[:57] + "…") for column in columns[:30])
    return f"The columns are: {shown or '(none)'}{' …' if len(columns) > 30 else ''}."


def _plain(name: str) -> str:
    return "_".join(name.strip().casefold().replace("-", " ").split())


def cell_text(value: Any, unanswerable: str) -> str:
    """Return what a cell says, as text; "" where it says nothing.

    A list gives its first entry and an object with ``text`` that entry, as in SQuAD's answers, where an empty list of
    texts means that there is no answer. A whole float loses its ".0", which is what a column of years with gaps becomes
    in a data frame.

    Raises
    ------
    ValueError
        If it is none of these; the message says what was found.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, list):
        return cell_text(value[0], unanswerable) if value else ""
    if isinstance(value, dict) and "text" in value:
        return unanswerable if value["text"] == [] else cell_text(value["text"], unanswerable)
    if isinstance(value, dict):
        raise ValueError(f"an object with the keys {', '.join(map(repr, value)) or '(none)'}")
    raise ValueError(f"a value of type {type(value).__name__}")
