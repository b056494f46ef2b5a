"""What was understood of a source, before anything is trained: for a person who has a file and wants to know."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from askline.records.look import Finding, Look
from tasks.fetch_dataset.cleaning import Cleaned, Example
from tasks.fetch_dataset.columns import Columns
from tasks.fetch_dataset.damage import damage
from tasks.fetch_dataset.facts import facts_of
from tasks.fetch_dataset.language import language_of
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.writable import Base, base_named, indistinct

FIRST_PAIRS = 3
LONGEST = 5
EXAMPLES = 3
#: Of a question more of whose characters than this are unknown to the base, too little is left to tell it by.
UNREADABLE = 0.3
#: Tokens that one core trains in a second: the small T5 from scratch, and flan-t5-base, both in fp32.
SCRATCH_TOKENS, FLAN_TOKENS = 5000, 150
_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_SPLIT = {
    "existing": "the source brings its own split",
    "wording": "of every fact with several wordings some are held out and asked; every fact is trained",
    "made": "every fact is trained; facts with one wording are asked for in other words, which are made by rule",
    "group": "whole groups are held out: the test asks for what was never trained",
    "answer": "whole answers are held out: the test asks for what was never trained",
}


def look_at(
    cleaned: Cleaned,
    tables: Mapping[str, Sequence[Table]],
    columns: Columns,
    *,
    split_by: str,
    warnings: Sequence[str],
    base: str,
) -> Look:
    """Describe what was read, cleaned and split.

    Parameters
    ----------
    cleaned
        With the splits that would be trained and tested.
    tables
        The files read, by split.
    columns
        Those of the first file.
    split_by
        How the test came about.
    warnings
        What else a person should read.
    base
        What ``training.base`` names.
    """
    examples = [item for held in cleaned.splits.values() for item in held if item.made_by is None]
    in_scope = [example for example in examples if example.in_scope]
    answers = list(dict.fromkeys(example.answer for example in in_scope))
    facts = facts_of(in_scope)
    known = base_named(base)
    lengths = sorted((known.tokens(answer) for answer in answers), reverse=True)
    test = cleaned.splits.get("test", [])
    kinds = Counter("out_of_scope" if not item.in_scope else "made" if item.made_by else "wording" for item in test)
    read = [table for held in tables.values() for table in held]
    findings = tuple(_findings(examples, answers, known))
    left_out = [*dict.fromkeys(sentence for table in read for sentence in table.left_out)]
    left_out += [f"{count} rows: {reason}" for reason, count in cleaned.reasons.items()]
    return Look(
        shape=read[0].shape or read[0].format,
        why=read[0].why or f"read as {read[0].format}",
        pairs=len(examples),
        answers=len(answers),
        facts=len(facts),
        out_of_scope=len(examples) - len(in_scope),
        language=language_of([text for example in examples for text in (example.question, example.answer)]),
        question_column=columns.question,
        answer_column=columns.answer,
        first=tuple((example.question, example.answer) for example in examples[:FIRST_PAIRS]),
        left_out=tuple(left_out),
        warnings=tuple(warnings),
        findings=findings,
        base=base,
        longest_answers=tuple(lengths[:LONGEST]),
        counted=known.counted,
        split=_SPLIT[split_by],
        test_questions=dict(sorted(kinds.items())),
        minutes=_minutes(examples, known),
        advice=_advice(findings, facts, len(examples) - len(in_scope), len(in_scope)),
    )


def _findings(examples: Sequence[Example], answers: Sequence[str], base: Base) -> Iterator[Finding]:
    """Yield what the base cannot tell apart, and what is damaged or contradictory."""

    def finding(what: str, found: Sequence[str], remedy: str, of: int) -> Finding:
        return Finding(
            what=what, rows=len(found), share=len(found) / of, examples=tuple(found[:EXAMPLES]), remedy=remedy
        )

    unreadable = [example.question for example in examples if _lost(example.question, base) > UNREADABLE]
    if unreadable:
        yield finding(
            f"questions of which {_called(base)} reads too little",
            unreadable,
            "take a base that reads this script: --training.base google/mt5-small, or scratch",
            len(examples),
        )
    alike = indistinct(answers, base)
    if alike:
        yield finding(
            f"answers that {_called(base)} would write alike, since it lacks the characters in which they differ",
            alike,
            "as known answers they are said as they are stored, and the second opinion tells them apart; a base that "
            "writes every character is google/mt5-small",
            len(answers),
        )
    damaged = [said for e in examples if (said := damage(e.question) or damage(e.answer))]
    if damaged:
        yield finding("rows with damaged letters", damaged, "mend the file where it was made", len(examples))
    links = [answer for answer in answers if _LINK.fullmatch(answer)]
    if links:
        yield finding(
            "answers that are only a link",
            links,
            "write a sentence, and keep the link beside it in a column of its own: --dataset.answer-columns",
            len(answers),
        )
    alike_questions = defaultdict(list)
    for example in examples:
        alike_questions[example.words].append(example)
    near = [
        " / ".join(repr(example.question) for example in group)
        for group in alike_questions.values()
        if len({example.answer for example in group}) > 1
    ]
    if near:
        yield finding(
            "questions of the same words that are answered differently",
            near,
            "word them so that they differ in more than the order of their words, or give one answer",
            len(examples),
        )


def _lost(text: str, base: Base) -> float:
    gone = frozenset(base.lacks(text))
    letters = [character for character in text if not character.isspace()]
    return sum(character in gone for character in letters) / len(letters) if letters else 0.0


def _called(base: Base) -> str:
    return base_words(base.name)


def base_words(base: str) -> str:
    """Return what a person calls the base: one that is to be chosen is looked at as Flan-T5."""
    return "Flan-T5" if base == "auto" else base


def _minutes(examples: Sequence[Example], base: Base) -> float:
    """Estimate the time of the default recipe on one core: a figure to tell a minute from an hour by."""
    tokens = sum(base.tokens(example.question) + 6 + base.tokens(example.answer) for example in examples)
    mean = tokens / max(len(examples), 1)
    if base.name == "scratch":
        steps = max(min(150 + len(examples), 400), 15 * len(examples) // 64)
        seconds = 10 + steps * min(len(examples), 64) * mean / SCRATCH_TOKENS
    else:
        seconds = 60 + 6 * tokens / FLAN_TOKENS
    return round(seconds / 60, 1)


def _advice(
    findings: Sequence[Finding], facts: Mapping[str, Sequence[Example]], out_of_scope: int, in_scope: int
) -> str:
    """Return the one thing that would help most."""
    worst = max(findings, key=lambda finding: finding.share, default=None)
    if worst is not None and worst.share >= 0.1:
        return f"{worst.rows} {worst.what}: {worst.remedy}"
    if in_scope < 2 * len(facts):
        return (
            "give each fact two or three wordings that people really use: they are worth more than anything that is "
            "made by rule, for training and for the test"
        )
    if not out_of_scope:
        return (
            'add some questions that it should not answer, with the answer "I don\'t know" (--dataset.unanswerable): '
            "only then is declining trained and tested"
        )
    return "train it: nothing stands in the way"


def two_lines(look: Look) -> str:
    """Return the look in two lines, as the pipeline prints it."""
    language = f", {look.language}" if look.language else ""
    what = f"{look.shape}: {look.pairs:,} pairs, {look.facts:,} facts, {look.answers:,} answers{language}"
    tested = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in look.test_questions.items())
    return f"{what}; test: {tested or 'none'}\n{look.advice}"


def text(look: Look) -> str:
    """Return the look for a person to read."""
    lines = [
        f"{look.shape}: {look.why}",
        f"  question  {look.question_column!r}",
        f"  answer    {look.answer_column!r}",
        "",
        f"{look.pairs:,} pairs, {look.facts:,} facts ({look.pairs / max(look.facts, 1):.1f} wordings each), "
        f"{look.answers:,} distinct answers, {look.out_of_scope:,} out of scope, "
        f"language: {look.language or 'too little text to tell'}",
        "",
        "The first as understood:",
        *[line for question, answer in look.first for line in (f"  {question}", f"    → {_short(answer)}")],
    ]
    if look.left_out:
        lines += ["", "Left out:", *[f"  {sentence}" for sentence in look.left_out]]
    if look.warnings:
        lines += ["", "Worth a look:", *[f"  {sentence}" for sentence in look.warnings]]
    for finding in look.findings:
        lines += ["", f"{finding.rows:,} {finding.what} ({finding.share:.0%}):"]
        lines += [*[f"  {_short(example)}" for example in finding.examples], f"  {finding.remedy}"]
    tested = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in look.test_questions.items())
    lines += [
        "",
        f"Longest answers, in tokens of {base_words(look.base)}: {', '.join(map(str, look.longest_answers)) or '–'} "
        f"({look.counted})",
        f"Test: {look.split} ({tested or 'no question'})",
        f"Training here: about {look.minutes:g} minutes with {base_words(look.base)}",
        "",
        f"Most useful now: {look.advice}",
    ]
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ⏎ ".join(text.splitlines())
    return line if len(line) <= 110 else line[:107] + "…"
