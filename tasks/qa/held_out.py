"""The held-out questions with the evaluation's own answers, which package and endpoint are compared with."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from askline.errors import ArtifactError
from askline.records import Scores
from askline.store import ArtifactStore
from tasks.qa.predictions import read_predictions
from tasks.qa.same_answer import exact_match, strict_match


class HeldOut(NamedTuple):
    """One held-out question."""

    question: str
    answer: str
    """The right answer."""
    prediction: str
    """What the evaluation's model answered."""
    in_scope: bool
    confidence: float | None = None
    """exp(mean token log-probability) of the prediction, 0 to 1, not calibrated; None in an older evaluation."""
    answer_id: str | None = None
    """Which known answer the prediction is; None where it declined, or was written freely."""

    metric: str = "squad"
    """What counts as right: "strict" or "squad"."""

    @property
    def right(self) -> bool:
        """Whether the prediction is right by the evaluation's metric."""
        return self.is_right(self.prediction)

    def is_right(self, text: str) -> bool:
        """Say whether a text is right by the evaluation's metric."""
        matches = strict_match if self.metric == "strict" else exact_match
        return matches(text, self.answer) == 1


def read_held_out(scores: Scores, store: ArtifactStore) -> list[HeldOut]:
    """Read the predictions that are not of training questions, in order.

    Raises
    ------
    ArtifactError
        If the scores artifact is missing, damaged, or holds no held-out question.
    """
    try:
        found = [
            HeldOut(
                row["question"],
                row["answer"],
                row["prediction"],
                row["in_scope"],
                row.get("confidence"),
                row.get("answer_id"),
                scores.metric,
            )
            for row in read_predictions(scores, store)
            if row["split"] != "train"
        ]
    except KeyError as error:
        raise ArtifactError(f"a prediction of the scores {scores.sha256[:12]} lacks {error}; evaluate again") from error
    if not found:
        raise ArtifactError(
            f"the scores {scores.sha256[:12]} hold no held-out question; evaluate on a dataset with a test split"
        )
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
