"""Varying the wording of training questions, without any state: the same ``random.Random`` gives the same text.

Leaving words out works for every language that puts spaces between words. The swaps and the openings are English
and are used only where the questions look English.
"""

import random
import re
from collections.abc import Sequence

#: Ways of asking that may stand for one another wherever they occur.
_SWAPS: tuple[tuple[str, ...], ...] = (
    ("what year", "which year", "what was the year", "in which year"),
    ("when", "at what time", "in what year", "on what date"),
    ("where", "in what place", "in which place", "at what location"),
    ("who", "which person", "what person"),
    ("how many", "what number of"),
    ("which", "what"),
    ("what is", "what's"),
    ("what was", "what's"),
    ("name of", "title of"),
    ("called", "named", "known as"),
    ("born", "given birth to"),
    ("die", "pass away"),
    ("died", "passed away"),
    ("begin", "start"),
    ("began", "started"),
    ("wrote", "authored", "penned"),
    ("written", "authored"),
    ("study", "read", "learn"),
    ("work", "job"),
    ("marry", "wed"),
    ("married", "wed"),
    ("father", "dad"),
    ("mother", "mum"),
    ("children", "kids"),
)
_OPENINGS: tuple[str, ...] = (
    "tell me",
    "can you tell me",
    "do you know",
    "please tell me",
    "i would like to know",
    "could you say",
    "say",
    "remind me",
)
_QUESTION_WORDS = frozenset(
    {"what", "who", "when", "where", "which", "how", "why", "whose", "did", "was", "is", "were", "are", "does", "do"}
)
_ALTERNATIVES = {phrase: tuple(p for p in group if p != phrase) for group in _SWAPS for phrase in group}
_PHRASE = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, _ALTERNATIVES), key=len, reverse=True)) + r")\b", re.IGNORECASE
)


def looks_english(questions: Sequence[str]) -> bool:
    """Say whether a third of the questions hold an English question word."""
    hits = sum(not _QUESTION_WORDS.isdisjoint(question.lower().split()) for question in questions)
    return hits * 3 >= len(questions)


def vary(question: str, rng: random.Random, *, word_drop: float, english: bool) -> str:
    """Return the question in other words, or now and then as it is.

    Parameters
    ----------
    word_drop
        Chance of each word to be left out; the last word that is left never is.
    english
        Whether to swap English phrases and put English openings in front.
    """
    if rng.random() < 0.2:
        return question
    if english:
        question = _PHRASE.sub(lambda match: _swap(match.group(), rng), question)
        if rng.random() < 0.15:
            question = f"{rng.choice(_OPENINGS)} {question}"
        if rng.random() < 0.1:
            question = question.rstrip("?. ")
    words = question.split()
    kept = [word for word in words if rng.random() >= word_drop]
    return " ".join(kept or words)


def mix(question: str, other: str, rng: random.Random) -> str:
    """Return some of the words of two wordings of one question, each in its order: what decides is what they share."""
    first, second = ([word for word in text.split() if rng.random() < 0.6] for text in (question, other))
    return " ".join(first + second) or question


def _swap(phrase: str, rng: random.Random) -> str:
    if rng.random() >= 0.3:
        return phrase
    other = rng.choice(_ALTERNATIVES[phrase.lower()])
    return other.capitalize() if phrase[0].isupper() else other
