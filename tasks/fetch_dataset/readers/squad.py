"""SQuAD's nesting: articles of paragraphs with questions; the paragraphs themselves are not used."""

from typing import Any

from tasks.fetch_dataset.readers.request import Request
from tasks.fetch_dataset.tables import SourceRow, Table

_WHY = "articles with 'paragraphs' and their 'qas'"


def read_squad(tree: Any, request: Request) -> Table | None:
    """Read ``data`` → ``paragraphs`` → ``qas``; a question marked as impossible is out of scope."""
    articles = tree.get("data") if isinstance(tree, dict) else tree
    if not isinstance(articles, list):
        return None
    nested = any(isinstance(article, dict) and "paragraphs" in article for article in articles[:1])
    if request.config.format != "squad" and not nested:
        return None
    name = request.name
    rows: list[SourceRow] = []

    def add(values: dict[str, Any], problem: str | None = None) -> None:
        rows.append(SourceRow(name, len(rows) + 1, None, values, problem))

    for a, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            add({"value": article}, f"expected 'paragraphs', a list, in data[{a}]")
            continue
        for p, paragraph in enumerate(paragraphs):
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(questions, list):
                add({"value": paragraph}, f"expected 'qas', a list, in data[{a}].paragraphs[{p}]")
                continue
            for q, entry in enumerate(questions):
                if not isinstance(entry, dict) or "question" not in entry:
                    where = f"data[{a}].paragraphs[{p}].qas[{q}]"
                    add({"value": entry}, f"expected an object with 'question' and 'answers' in {where}")
                    continue
                impossible = entry.get("is_impossible") in (True, "true")
                answers = request.config.unanswerable if impossible else _first(entry.get("answers"))
                cells = {"id": entry.get("id"), "title": article.get("title")}
                add({**cells, "question": entry["question"], "answers": answers})
    note = f"{name}: its paragraphs are not used, the model learns to answer from the question alone"
    columns = ("id", "title", "question", "answers")
    return Table(
        name, "squad", columns, rows, notes=[note], shape="SQuAD", why=_WHY, pair=("question", "answers"),
        left_out=[f"{name}: the paragraphs"],
    )  # fmt: skip


def _first(answers: Any) -> Any:
    """Of several annotators' answers the first; they mark the same place in other words."""
    return answers[0] if isinstance(answers, list) and answers else answers
