"""Both opinions on the held-out questions: fitted, cross-fitted, and told by kind of question."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from askline.records import KindScores
from inference.judgement import Verdict, judge
from tasks.evaluate.judging import Asked, choose_floors, cross_fitted, fit_judgement
from tasks.qa.rows import Row

#: How many held-out questions of each kind stand for what kind, in the report's words.
KINDS = {"wording": "held-out wordings", "made": "in other words", "out_of_scope": "out of scope"}
AS_WRITTEN = "as written"


class Together(NamedTuple):
    """The judgement, and what it says to the held-out questions."""

    parameters: dict[str, Any]
    served: list[Verdict]
    """By the parameters that the package has."""
    fitted_elsewhere: list[Verdict]
    """By parameters fitted on other facts: what is scored."""


def held_out(
    rows: Sequence[Row], texts: Sequence[str], posteriors: Sequence[Any], opinions: Sequence[Any]
) -> list[Asked]:
    """Return the held-out questions with both opinions; ``texts`` are the known answers."""
    place = {text: number for number, text in enumerate(texts)}
    return [
        Asked(
            row.question,
            place[row.answer.strip()] if row.in_scope else None,
            row.kind,
            posterior,
            opinion,
            row.group or (row.answer if row.in_scope else row.question),
        )
        for row, posterior, opinion in zip(rows, posteriors, opinions, strict=True)
    ]


def wordings_of(train: Sequence[Row]) -> float:
    """Return how many training questions a known answer has in the mean, those made by rule aside."""
    pairs = {(row.question, row.answer.strip()) for row in train if row.in_scope and row.made_by is None}
    return len(pairs) / max(len({answer for _, answer in pairs}), 1)


def judge_together(
    asked: Sequence[Asked], everyday: Sequence[Asked], *, max_false_abstention: float, wordings: float
) -> Together:
    """Fit the judgement on the held-out questions, and judge them by it and by fits on other facts."""
    every = [*asked, *everyday]
    parameters = fit_judgement(every, max_false_abstention=max_false_abstention, wordings=wordings)
    elsewhere = cross_fitted(every, wordings)
    floors = choose_floors(every, elsewhere, max_false_abstention=max_false_abstention)
    return Together(
        parameters,
        [judge(each.posterior, each.opinion, parameters) for each in asked],
        [_with_floors(verdict, floors.min_scope, floors.threshold) for verdict in elsewhere[: len(asked)]],
    )


def without(asked: Sequence[Asked], opinion: str) -> list[Asked]:
    """Return the questions with one opinion less: "posterior" or "opinion"."""
    if opinion == "posterior":
        return [each._replace(posterior=None) for each in asked]
    return [each._replace(opinion=None) for each in asked]


def _with_floors(verdict: Verdict, min_scope: float, threshold: float) -> Verdict:
    says = verdict.scope >= min_scope and verdict.confidence >= threshold
    return verdict._replace(answer=verdict.best if says else None)


def by_kind(rows: Sequence[Row], right: Sequence[bool], name: Callable[[Row], str]) -> dict[str, KindScores]:
    """Count what is right by the name of each question's kind, with Wilson's interval."""
    found: dict[str, list[bool]] = {}
    for row, is_right in zip(rows, right, strict=True):
        found.setdefault(name(row), []).append(is_right)
    return {kind: kind_scores(sum(each), len(each)) for kind, each in found.items()}


def kind_scores(right: int, questions: int) -> KindScores:
    """Return a share with its 95 % interval (Wilson 1927), which holds for few questions and for none wrong."""
    z, share = 1.96, right / questions
    middle = (share + z * z / (2 * questions)) / (1 + z * z / questions)
    half = z * math.sqrt(share * (1 - share) / questions + z * z / (4 * questions**2)) / (1 + z * z / questions)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return KindScores(questions=questions, right=round(share, 4), low=round(low, 4), high=round(high, 4))
