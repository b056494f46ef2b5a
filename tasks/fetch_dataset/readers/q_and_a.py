"""Text with labels: ``Q:`` before each question and ``A:`` before its answer; or a line that asks above its answer."""

import re
from collections.abc import Iterator

from tasks.fetch_dataset.content import asks
from tasks.fetch_dataset.readers.request import Pairs, Request
from tasks.fetch_dataset.tables import Table

_ASKED_TEXT = """
    q que ques question frage f pregunta p domanda d pergunta вопрос в întrebare intrebare vraag fråga spørgsmål
    pytanie otázka soru 问 問 問題 问题 質問 질문 문 user human customer
"""
_ASKED = frozenset(_ASKED_TEXT.split())
_TOLD_TEXT = """
    a ans answer antwort respuesta r risposta resposta réponse reponse ответ о răspuns raspuns antwoord svar
    odpowiedź odpověď cevap 答 答案 回答 답변 답 assistant bot agent
"""
_TOLD = frozenset(_TOLD_TEXT.split())
_LABEL = re.compile(
    r"^[ \t]*(?:[-*+>•#]+[ \t]+)?(?:\d+[.)][ \t]*)?[*_]{0,3}(?P<label>[^\W\d_]+)[ \t]*(?:no\.?[ \t]*)?#?\d*"
    r"[*_]{0,3}[ \t]*[:：.)\-–][*_]{0,3}(?:[ \t]+|$|(?<=：))(?P<rest>.*)$",
    re.IGNORECASE,
)
_ENDS_BOLD = re.compile(r"(?<=\S)[*_]{2,3}[ \t]*$")
_NUMBER = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+")


def read_q_and_a(text: str, request: Request) -> Table | None:
    """Read ``Q: …`` and ``A: …``, in the labels of a dozen languages; an answer goes on until the next question."""
    lines = text.split("\n")
    marked = [(number, _role(line)) for number, line in enumerate(lines)]
    asked = sum(role == "q" for _, role in marked)
    told = sum(role == "a" for _, role in marked)
    if asked < 1 or told < 1 or told * 2 < asked:
        return None
    pairs = Pairs(request, "Q: and A: text", "lines that begin with a label for a question or an answer")
    fenced = False
    question: list[str] = []
    answer: list[str] | None = None
    begins = 0
    loose = 0

    def close() -> None:
        if question or answer:
            told = "\n".join(answer or []).strip("\n").rstrip()
            pairs.add(["\n".join(question).strip()], [told] if told.strip() else [], question[0], line=begins)

    for number, line in enumerate(lines, start=1):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        label = None if fenced else _LABEL.match(line)
        role = _role(line) if label else None
        if role == "q" and label:
            close()
            question, answer, begins = [_ENDS_BOLD.sub("", label["rest"]).strip()], None, number
        elif role == "a" and label and question and answer is None:
            answer = [label["rest"]]
        elif answer is not None:
            answer.append(line)
        elif question and line.strip():
            question.append(_ENDS_BOLD.sub("", line).strip())
        else:
            loose += bool(line.strip())
    close()
    if loose:
        pairs.left_out.append(f"{request.name}: {loose} lines before the first question")
    return pairs.table()


def _role(line: str) -> str | None:
    found = _LABEL.match(line)
    if found is None:
        return None
    label = found["label"].casefold()
    return "q" if label in _ASKED else "a" if label in _TOLD else None


def read_asking_lines(text: str, request: Request) -> Table | None:
    """Read blocks of which most begin with a line that asks; the lines below it, up to the next such line, answer."""
    blocks = list(_blocks(text.split("\n")))
    asking = [(line, question, answer) for line, question, answer in blocks if question is not None]
    if len(asking) < 2 or len([1 for _, _, answer in asking if answer]) * 2 < len(asking):
        return None
    pairs = Pairs(
        request, "questions above their answers", "lines that end with a question mark, each above its answer"
    )
    for line, question, answer in asking:
        pairs.add([_NUMBER.sub("", question or "").strip()], [answer] if answer else [], question or "", line=line)
    before = sum(1 for _, question, answer in blocks if question is None and answer)
    if before:
        pairs.left_out.append(f"{request.name}: the text before the first question")
    return pairs.table()


def _blocks(lines: list[str]) -> Iterator[tuple[int, str | None, str]]:
    """Yield line, question and answer; a question stands at the top or below an empty line, or follows an answer."""
    question: str | None = None
    answer: list[str] = []
    begins, blank = 1, True
    for number, line in enumerate(lines, start=1):
        if line.strip() and asks(line.strip()) and len(line) <= 300 and (blank or question is None):
            if question is not None or answer:
                yield begins, question, "\n".join(answer).strip("\n").rstrip()
            question, answer, begins = line.strip(), [], number
        else:
            answer.append(line)
        blank = not line.strip()
    if question is not None or answer:
        yield begins, question, "\n".join(answer).strip("\n").rstrip()
