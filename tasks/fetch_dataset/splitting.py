"""Which questions are held out, where the dataset does not say.

Every choice goes by a hash of the seed and the text, not by a random generator over the rows: the same rows in
another order are split alike, and a few new rows leave most of the others where they were.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.cleaning import Example
from tasks.fetch_dataset.facts import facts_of
from tasks.fetch_dataset.other_words import Maker

SplitBy = Literal["group", "answer", "wording"]

#: Questions that are made for a fact with one wording: many where there are few facts, so that the score of a small
#: file rests on more than a handful.
_MADE_FOR = ((100, 3), (400, 2))
#: More facts than this are tested by a sample: the interval of the score is then narrower than two points.
_MOST_MADE = 2000


def split_with_every_fact_trained(
    examples: Sequence[Example], *, test_fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split examples so that training has seen every fact, each in the order in which they came.

    Of a fact with several wordings some are held out. A fact with one is asked for in other words, made by rule, which
    follow the real questions in the test split; at most ``_MOST_MADE`` of them.

    Parameters
    ----------
    examples
        Without duplicate questions.
    test_fraction
        Share of the wordings of a fact to hold out: at least one, never all.
    seed
        Another seed, another split.

    Raises
    ------
    DatasetFormatError
        If no row has an answer.
    """
    in_scope = [example for example in examples if example.in_scope]
    if not in_scope:
        raise DatasetFormatError(
            f"{len(examples)} rows are usable, and none of them has an answer other than the unanswerable one; "
            "add questions with their answers"
        )
    facts = facts_of(in_scope)
    fact_of = {id(example): fact for fact, members in facts.items() for example in members}
    spoken = defaultdict(set)
    for example in examples:
        spoken[example.words].add(fact_of.get(id(example)))
    held: set[int] = set()
    once: list[str] = []
    for fact, members in facts.items():
        wordings = defaultdict(list)
        for example in members:
            wordings[example.words].append(example)
        # A wording that another fact shares tells the two apart by the order of its words: it stays in training.
        free = [words for words in wordings if len(spoken[words]) == 1]
        count = min(max(round(len(wordings) * test_fraction), 1), len(wordings) - 1, len(free))
        if count < 1:
            once.append(fact)
        held |= {id(example) for words in _ranked(free, seed)[:count] for example in wordings[words]}
    held |= _beyond(examples, test_fraction, seed)
    maker = Maker([(example.question, fact_of.get(id(example), "")) for example in examples], seed)
    each = next((count for most, count in _MADE_FOR if len(once) <= most), 1)
    made = [
        replace(example, question=other.text, made_by=other.made_by)
        for fact in sorted(_ranked(once, seed)[: _MOST_MADE // each], key=list(facts).index)
        for example in facts[fact][:1]
        for other in maker.make(example.question, fact, each)
    ]
    test = [example for example in examples if id(example) in held] + made
    return [example for example in examples if id(example) not in held], test


def split_examples(
    examples: Sequence[Example], *, by: SplitBy, test_fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split examples into training and test, each in the order in which they came.

    Parameters
    ----------
    examples
        Without duplicate questions.
    by
        ``group`` or ``answer``: a fact is on one side only, with every question of the same words. ``wording``: of
        every fact that is asked for in two wordings or more some are held out, so that training has seen each fact.
        A fact is a group, or an answer where a row has none.
    test_fraction
        Share of the rows to hold out; approximate, since facts stay whole.
    seed
        Another seed, another split.

    Notes
    -----
    Out-of-scope questions belong to no fact. They are spread by share, questions of the same words together.

    Raises
    ------
    DatasetFormatError
        If there are too few rows or facts to split.
    """
    in_scope = [example for example in examples if example.in_scope]
    if len(in_scope) < 2:
        raise DatasetFormatError(
            f"{len(examples)} rows are usable, {len(in_scope)} of them with an answer other than the unanswerable one; "
            f"two of these are needed to hold one out by {by}; leave --dataset.split-by out to train every one"
        )
    held = (
        _wordings(in_scope, by, test_fraction, seed) if by == "wording" else _facts(in_scope, by, test_fraction, seed)
    )
    held |= _beyond(examples, test_fraction, seed)
    test = [example for example in examples if id(example) in held]
    train = [example for example in examples if id(example) not in held]
    return train, test


def _beyond(examples: Sequence[Example], test_fraction: float, seed: int) -> set[int]:
    """Take a share of the out-of-scope questions, those of the same words together; of a single one none."""
    beyond = defaultdict(list)
    for example in examples:
        if not example.in_scope:
            beyond[example.words].append(example)
    return _take(beyond, test_fraction, seed) if len(beyond) > 1 else set()


def _facts(examples: list[Example], by: SplitBy, test_fraction: float, seed: int) -> set[int]:
    facts = defaultdict(list)
    for example in examples:
        facts[_fact(example, by)].append(example)
    units = _join_alike(facts)
    if len(units) < 2:
        why = f"they all have the same {by}" if len(facts) < 2 else f"each {by} shares a question's words with another"
        raise DatasetFormatError(
            f"the rows cannot be split by {by}: {why}. "
            "Leave --dataset.split-by out to train every fact, or bring a test split of your own."
        )
    return _take(units, test_fraction, seed)


def _fact(example: Example, by: SplitBy) -> str:
    named = by != "answer" and example.group is not None
    return f"group {example.group}" if named else f"answer {example.answer_key}"


def _join_alike(facts: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """Join facts that share a question of the same words, so that it cannot stand on both sides."""
    parent = {fact: fact for fact in facts}

    def root(fact: str) -> str:
        while parent[fact] != fact:
            parent[fact] = parent[parent[fact]]
            fact = parent[fact]
        return fact

    seen: dict[str, str] = {}
    for fact, members in facts.items():
        for example in members:
            one, other = sorted((root(fact), root(seen.setdefault(example.words, fact))))
            parent[other] = one
    joined = defaultdict(list)
    for fact in facts:
        joined[root(fact)].extend(facts[fact])
    return joined


def _take(units: dict[str, list[Example]], test_fraction: float, seed: int) -> set[int]:
    """Take units in the order of their hashes while they fit the share; at least one, never all."""
    wanted = test_fraction * sum(map(len, units.values()))
    ranked = _ranked(units, seed)
    taken: list[str] = []
    rows = 0
    for unit in ranked:
        size = len(units[unit])
        if len(taken) < len(ranked) - 1 and rows + size <= wanted + size / 2:
            taken.append(unit)
            rows += size
        if rows >= wanted:
            break
    if not taken:
        taken = [min(ranked, key=lambda unit: len(units[unit]))]
    return {id(example) for unit in taken for example in units[unit]}


def _wordings(examples: list[Example], by: SplitBy, test_fraction: float, seed: int) -> set[int]:
    facts: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        facts[_fact(example, by)][example.words].append(example)
    held: set[int] = set()
    for wordings in facts.values():
        if len(wordings) < 2:
            continue
        count = min(max(round(len(wordings) * test_fraction), 1), len(wordings) - 1)
        held |= {id(example) for wording in _ranked(wordings, seed)[:count] for example in wordings[wording]}
    if not held:
        raise DatasetFormatError(
            "the rows cannot be split by wording: no group or answer is asked for in two wordings. "
            "Leave --dataset.split-by out to have them asked for in other words, which are made by rule, or bring a "
            "test split of your own."
        )
    return held


def _ranked(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}\n{name}".encode()).digest(), name))
