"""Further tasks that a training question can be turned into, so that the model learns more from the same rows.

All are marked by T5's own sentinels, which every T5 vocabulary holds whatever its language, so that no task is taken
for a question. Each function is a function of its arguments and the given ``random.Random`` alone.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

#: First sentinel of an input: what the model is to do with the rest. Denoising needs none; it counts up from 0.
ASK_FOR = "<extra_id_98>"
REPHRASE = "<extra_id_99>"
#: Share of the words that denoising hides, and the most words of one gap; T5 hides 15 % in gaps of 3, of longer texts.
HIDDEN = 0.3
LONGEST_GAP = 3


class Pair(NamedTuple):
    """What the model reads and what it has to write."""

    source: str
    target: str


def ask_for(answer: str, wordings: Sequence[str], rng: random.Random) -> Pair:
    """Give the answer and ask for one of the questions that it answers."""
    return Pair(f"{ASK_FOR} {answer}", rng.choice(wordings))


def rephrase(question: str, wordings: Sequence[str], rng: random.Random) -> Pair:
    """Give a question and ask for the same in other words.

    ``wordings`` are those of one fact; at least one of them differs from the question.
    """
    return Pair(f"{REPHRASE} {question}", rng.choice([wording for wording in wordings if wording != question]))


def denoise(prompt: str, answer: str, rng: random.Random) -> Pair:
    """Hide some words of a prompt and its answer, and ask for them (Raffel et al. 2020, section 3.1.4).

    The gaps are numbered by sentinels; the target lists what was hidden, each behind its sentinel, and ends with one
    more.
    """
    words = f"{prompt} {answer}".split()
    wanted = max(1, round(HIDDEN * len(words)))
    hidden: set[int] = set()
    while len(hidden) < wanted:
        start = rng.randrange(len(words))
        hidden.update(range(start, min(len(words), start + rng.randint(1, LONGEST_GAP))))
    source: list[str] = []
    target: list[str] = []
    gaps = 0
    for number, word in enumerate(words):
        if number not in hidden:
            source.append(word)
            continue
        if number - 1 not in hidden:
            source.append(f"<extra_id_{gaps}>")
            target.append(f"<extra_id_{gaps}>")
            gaps += 1
        target.append(word)
    return Pair(" ".join(source), " ".join([*target, f"<extra_id_{gaps}>"]))
