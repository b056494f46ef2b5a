"""When two answers are the same: SQuAD's normalisation, kept usable beyond English.

SQuAD's evaluation lower-cases, drops punctuation and the articles a, an and the, and squeezes white space
(Rajpurkar et al., 2016). Here letters of every script stay, punctuation of every script goes, and an answer that would
be empty after all that (the grade "A", the sign "+") is compared as it stands.
"""

import string
import unicodedata
from collections import Counter

import regex

_ARTICLES = regex.compile(r"\b(a|an|the)\b")
#: Scripts that put no spaces between words: there a character counts as a word.
_TOKEN = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+"
)


def normalise(answer: str) -> str:
    """Return the answer lower-cased, without punctuation and English articles, with single spaces."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    bare = "".join(character for character in text if not _is_punctuation(character))
    short = " ".join(_ARTICLES.sub(" ", bare).split())
    return short or " ".join(bare.split()) or text


def tokens(answer: str) -> list[str]:
    """Return the words of the normalised answer; characters, in scripts without spaces."""
    return [str(token) for token in _TOKEN.findall(normalise(answer))]


def exact_match(prediction: str, reference: str) -> float:
    """Return 1.0 where both normalise to the same text, else 0.0."""
    return float(normalise(prediction) == normalise(reference))


def strict_match(prediction: str, reference: str) -> float:
    """Return 1.0 where both are the same letter by letter, runs of white space aside, else 0.0: -50 is not 50."""
    return float(_letters(prediction) == _letters(reference))


def _letters(answer: str) -> str:
    return " ".join(unicodedata.normalize("NFC", answer).split())


def token_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the bags of words."""
    predicted, expected = Counter(tokens(prediction)), Counter(tokens(reference))
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((predicted & expected).values())
    return 2 * common / (sum(predicted.values()) + sum(expected.values()))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
