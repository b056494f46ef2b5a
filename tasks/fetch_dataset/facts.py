"""Which rows ask for the same fact: a question with its wordings."""

from collections import defaultdict
from collections.abc import Sequence

from tasks.fetch_dataset.cleaning import Example
from tasks.fetch_dataset.text import comparable

#: A shorter answer ("Yes.", "1898", "You get 10 points.") may well be that of two facts.
_TELLING_CHARACTERS = 25
#: Two questions that share more than half of their words are a series: "How many points do I get for …?"
_SERIES = 0.5
#: Questions that begin or end alike are compared with so many of their kind at most.
_COMPARED = 200


def facts_of(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Group in-scope rows by fact, in the order in which the facts first appear.

    Rows of one group that have one answer are wordings of one fact. Without a group, rows with the same answer are
    that only where nothing speaks against it: the answer is long enough to belong to one fact, and none of its
    questions looks like a question with *another* answer, as those of a series do ("How many points do I get for …?").
    Otherwise each row is a fact by itself: that costs a real test question, never a fact.
    """
    alike = defaultdict(list)
    for example in examples:
        if example.group is None and len(example.answer) >= _TELLING_CHARACTERS:
            alike[example.answer].append(example)
    several = {answer for answer, members in alike.items() if len(members) > 1}
    several -= _in_a_series(examples, several)
    facts: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.group is not None:
            facts[f"group {example.group}\n{example.answer}"].append(example)
        elif example.answer in several:
            facts[f"answer {example.answer}"].append(example)
        else:
            facts[f"question {example.question_key}"].append(example)
    return dict(facts)


def _in_a_series(examples: Sequence[Example], answers: set[str]) -> set[str]:
    """Return those of ``answers`` one of whose questions shares most of its words with one that has another answer."""
    if not answers:
        return set()
    kinds: dict[tuple[str, ...], list[tuple[frozenset[str], str]]] = defaultdict(list)
    for example in examples:
        spoken = comparable(example.question).split()
        entry = (frozenset(spoken), example.answer)
        for kind in (("begins", *spoken[:2]), ("ends", *spoken[-2:])):
            if len(kinds[kind]) < _COMPARED:
                kinds[kind].append(entry)
    series: set[str] = set()
    for members in kinds.values():
        for own, answer in members:
            if answer in answers and answer not in series:
                rivals = (other for other, said in members if said != answer)
                if any(len(own & other) > _SERIES * len(own | other) for other in rivals):
                    series.add(answer)
    return series
