"""The held-out questions with the evaluation's own answers, which package and endpoint are compared with."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from askline.errors import ArtifactError
from askline.records import Scores
from askline.store import ArtifactStore


class HeldOut(NamedTuple):
    """One held-out question."""

    question: str
    answer: str
    """The right answer."""
    prediction: str
    """What the evaluation's model answered."""
    in_scope: bool


def read_held_out(scores: Scores, store: ArtifactStore) -> list[HeldOut]:
    """Read what is not training data from ``predictions.jsonl``, in order.

    Raises
    ------
    ArtifactError
        If the scores artifact is missing, damaged, or holds no held-out question.
    """
    path = store.verify("scores", scores.sha256) / "predictions.jsonl"
    found = []
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                row = json.loads(line)
                if row["split"] != "train":
                    found.append(HeldOut(row["question"], row["answer"], row["prediction"], row["in_scope"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a list of predictions ({error!r}); evaluate again") from error
    if not found:
        raise ArtifactError(f"{path} holds no held-out question; evaluate on a dataset with a test split")
    return found


def spread(rows: Sequence[HeldOut], count: int, *, seed: int) -> list[HeldOut]:
    """Choose ``count`` rows from all over the sequence: one, by chance, from each of ``count`` equal stretches.

    The same rows, count and seed give the same choice; fewer rows than ``count`` are all chosen.
    """
    count = min(count, len(rows))
    chance = random.Random(seed)  # noqa: S311 - a choice of questions, not a secret
    edges = [round(part * len(rows) / count) for part in range(count + 1)] if count else [0]
    return [rows[chance.randrange(low, high)] for low, high in pairwise(edges)]


def same_answer(first: str, second: str) -> bool:
    """Say whether two answers are the same text, white space at the ends aside."""
    return first.strip() == second.strip()
