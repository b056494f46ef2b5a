"""Markdown FAQs: a heading, a bold line or a summary asks, and what stands below it answers, letter by letter.

markdown-it-py says what is a heading and what only looks like one, inside a block of code; the answers are cut out of
the file itself, so that their markup stays as it is written.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tasks.fetch_dataset.content import asks
from tasks.fetch_dataset.names import rank
from tasks.fetch_dataset.readers.request import Pairs, Request, counted, shown
from tasks.fetch_dataset.tables import SourceRow, Table

_FRONT = re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*\n", re.DOTALL)
_BOLD = re.compile(
    r"^[ \t]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(?P<mark>[*_]{1,3})(?P<question>\S.*?)(?P=mark)"
    r"[ \t]*(?:<br\s*/?>|\\)?[ \t]*(?P<rest>.*)$"
)
_ANCHOR = re.compile(r"\s*\{#[^}]*\}\s*$|<a\b[^>]*>\s*</a>|<[^>]+>")
_LABEL = re.compile(r"^\s*(?:Q(?:uestion)?\s*\d*\s*[:.)]|\d+(?:\.\d+)*[.)]\s+|[❓❔]\s*)\s*", re.IGNORECASE)
_ANSWER_LABEL = re.compile(r"^\s*(?:\*\*|__)?A(?:nswer)?\s*\d*\s*:(?:\*\*|__)?\s*", re.IGNORECASE)
_DETAILS = re.compile(
    r"<details[^>]*>\s*<summary[^>]*>(?P<question>.*?)</summary>(?P<answer>.*?)</details>", re.DOTALL | re.IGNORECASE
)
_TOC_LINE = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+\[[^\]]*\]\(#[^)]*\)\s*$")
_RULE = re.compile(r"^\s*(?:-{3,}|\*{3,}|_{3,})\s*$")


@dataclass(frozen=True, slots=True)
class _Mark:
    """A line that may ask."""

    level: int
    text: str
    begins: int
    ends: int
    first: str = ""
    """What of the answer stands on the same line."""


def read_markdown(text: str, request: Request) -> Table | None:
    """Read questions as headings, as bold lines, or as summaries that open; whichever gives the most pairs."""
    front = _FRONT.match(text)
    if front:  # a page's settings
        text = "\n" * front.group(0).count("\n") + text[front.end() :]
    lines = text.split("\n")
    tokens = _parse(text)
    headings = [
        _Mark(int(token.tag[1:]), _title(tokens[n + 1]), token.map[0], token.map[1])
        for n, token in enumerate(tokens)
        if token.type == "heading_open" and token.map and token.level == 0
    ]
    tables = [
        _read_headings(lines, headings, request),
        _read_bold(lines, headings, _code(tokens), request),
        _read_details(text, request),
        _read_table(tokens, request),
    ]
    found = [table for table in tables if table is not None]
    return max(found, key=lambda table: (_asking(table), len(table.rows)), default=None)


def _parse(text: str) -> list[Any]:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": 20}).enable("table").parse(text)


def _asking(table: Table) -> int:
    return sum(any(isinstance(cell, str) and asks(cell) for cell in row.values.values()) for row in table.rows)


def _code(tokens: list[Any]) -> set[int]:
    """Return the numbers of the lines that stand in blocks of code."""
    return {
        line
        for token in tokens
        if token.type in ("fence", "code_block") and token.map
        for line in range(token.map[0], token.map[1])
    }


def _title(inline: Any) -> str:
    parts = [
        child.content if child.type in ("text", "code_inline") else " " if child.type.endswith("break") else ""
        for child in inline.children or []
    ]
    return _clean("".join(parts))


def _clean(question: str) -> str:
    return " ".join(_LABEL.sub("", _ANCHOR.sub("", question).strip()).split()).strip("*_ ")


def _body(lines: list[str], begins: int, ends: int) -> str:
    """Return an answer as it is written, without the empty lines and rules around it."""
    body = lines[begins:ends]
    while body and (not body[0].strip() or _RULE.match(body[0])):
        body = body[1:]
    while body and (not body[-1].strip() or _RULE.match(body[-1])):
        body = body[:-1]
    return _ANSWER_LABEL.sub("", "\n".join(body).rstrip())


def _read_headings(lines: list[str], headings: list[_Mark], request: Request) -> Table | None:
    if not headings:
        return None
    ends = {
        mark.begins: headings[n + 1].begins if n + 1 < len(headings) else len(lines) for n, mark in enumerate(headings)
    }
    direct = [mark for mark in headings if _body(lines, mark.ends, ends[mark.begins])]
    levels = Counter(mark.level for mark in direct)
    asking = Counter(mark.level for mark in direct if asks(mark.text))
    chosen = {level for level in levels if asking[level] * 2 >= levels[level]}
    if not chosen:
        common = [level for level, count in levels.most_common() if count > 1]
        if not common:
            return None
        chosen = {common[0]}
    pairs = Pairs(request, "Markdown headings", "headings with an answer below each", ("section",))
    section, skipped, taken_as_is = None, [], 0
    inside = 0  # the level of the question whose answer is being passed over
    for n, mark in enumerate(headings):
        if inside and mark.level > inside and not asks(mark.text):
            continue
        if mark.level not in chosen or not mark.text:
            inside = 0
            if mark.level < min(chosen):
                section = mark.text
            if _body(lines, mark.ends, ends[mark.begins]):
                skipped.append(mark.text)
            continue
        inside = mark.level
        until = next(
            (
                later.begins
                for later in headings[n + 1 :]
                if later.level <= mark.level or (later.level in chosen and asks(later.text))
            ),
            len(lines),
        )
        answer = _body(lines, mark.ends, until)
        if answer and all(_TOC_LINE.match(line) or not line.strip() for line in answer.split("\n")):
            skipped.append(mark.text)
            inside = 0
            continue
        if not answer:
            section = mark.text
        taken_as_is += bool(answer) and not asks(mark.text)
        pairs.add([mark.text], [answer] if answer else [], mark.text, line=mark.begins + 1, section=section)
    if skipped:
        pairs.left_out.append(
            f"{request.name}: the text below {counted(len(skipped), 'heading')} taken for no question: {shown(skipped)}"
        )
    if taken_as_is and taken_as_is < len(pairs.rows):
        pairs.notes.append(
            f"{request.name}: taken as questions too: {counted(taken_as_is, 'heading')} without a question mark"
        )
    return pairs.table()


def _read_bold(lines: list[str], headings: list[_Mark], code: set[int], request: Request) -> Table | None:
    marks: list[_Mark] = []
    heading_lines = {line for mark in headings for line in range(mark.begins, mark.ends)}
    for number, line in enumerate(lines):
        found = _BOLD.match(line)
        if found is None or number in heading_lines or number in code:
            continue
        question = _clean(found["question"])
        if asks(question) or (re.match(r"\s*Q", found["question"]) and _LABEL.match(found["question"])):
            marks.append(_Mark(7, question, number, number + 1, found["rest"]))
    if len(marks) < 2:
        return None
    pairs = Pairs(request, "Markdown, bold questions", "bold lines that ask, with the answer after each", ("section",))
    stops = sorted([mark.begins for mark in marks] + [mark.begins for mark in headings] + [len(lines)])
    for mark in marks:
        until = next(stop for stop in stops if stop > mark.begins)
        below = _body(lines, mark.ends, until)
        answer = "\n".join(part for part in (_ANSWER_LABEL.sub("", mark.first), below) if part.strip())
        section = next((heading.text for heading in reversed(headings) if heading.begins < mark.begins), None)
        pairs.add([mark.text], [_outdented(answer)] if answer else [], mark.text, line=mark.begins + 1, section=section)
    return pairs.table()


def _read_table(tokens: list[Any], request: Request) -> Table | None:
    """Read the rows of all tables that have the columns of the first; the cells keep their markup."""
    header: list[str] = []
    cells: list[str] = []
    rows: list[SourceRow] = []
    for number, token in enumerate(tokens):
        if token.type == "tr_open":
            cells, line = [], token.map[0] + 1 if token.map else None
        elif token.type in ("th_open", "td_open"):
            cells.append(tokens[number + 1].content)
        elif token.type == "tr_close" and tokens[number - 1].type == "th_close":
            header = header or [cell or f"column {n}" for n, cell in enumerate(map(_clean, cells), start=1)]
        elif token.type == "tr_close" and len(cells) == len(header) and len(set(header)) == len(header) > 1:
            rows.append(SourceRow(request.name, len(rows) + 1, line, dict(zip(header, cells, strict=True))))
    usual = any(rank(name, "question") is not None for name in header)
    if len(rows) < 2 or not (usual or sum(any(map(asks, row.values.values())) for row in rows) * 2 >= len(rows)):
        return None
    return Table(
        request.name, request.format, tuple(header), rows, shape="Markdown table", why="a table with questions in it"
    )


def _outdented(answer: str) -> str:
    """Take away the indent that an answer has below its item of a list, in every line alike."""
    lines = answer.split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    least = min(indents, default=0)
    return "\n".join(line[least:] for line in lines) if 0 < least < 4 else answer


def _read_details(text: str, request: Request) -> Table | None:
    found = list(_DETAILS.finditer(text)) if "<summary" in text.lower() else []
    if len(found) < 2:
        return None
    pairs = Pairs(request, "Markdown, summaries that open", "<details> with a question in each <summary>")
    for match in found:
        question, answer = (
            _clean(match["question"]),
            _body(match["answer"].split("\n"), 0, match["answer"].count("\n") + 1),
        )
        line = text.count("\n", 0, match.start()) + 1
        pairs.add([question] if question else [], [answer] if answer.strip() else [], question, line=line)
    return pairs.table()
