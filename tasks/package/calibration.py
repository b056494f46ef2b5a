"""From how sure the model was of an answer to the probability that the answer is right.

The raw confidence, exp(mean token log-probability), orders answers well but is not a probability. Platt scaling (Platt,
1999) maps it to one with two numbers: ``sigmoid(a * logit(confidence) + b)``. They are fitted on the held-out questions
and go into the package as plain data. What is said about the result is cross-validated: each question's probability
comes from fits that have not seen it.

Of the ways compared on the sample (isotonic regression, one temperature, Platt scaling of other functions of the
confidence), this had the lowest Brier score; see ``docs/evaluation.md``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from askline.errors import PackageError
from tasks.qa.held_out import HeldOut

#: Fewer held-out questions than this say too little to fit on, or to promise a precision by.
MIN_QUESTIONS = 30
#: So many right and so many wrong answers, or cross-validation has nothing to learn the one or the other from.
MIN_EACH = 5
FOLDS = 5
REPEATS = 10
#: Questions are sorted by probability and cut into so many bins of equal size.
BINS = 10
#: Inverse strength of the penalty on the slope.
PENALTY_C = 1000.0
#: A sigmoid of more than this is 0 or 1 to the last bit, and beyond 709 its exp() overflows.
STEEPEST = 700.0
#: Rounding of everything that is kept, so that the last bits of a fit do not reach the package.
DECIMALS = 3


class Calibration(BaseModel):
    """The map from confidence to probability, and what it is worth; plain numbers, for the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["platt", "identity"]
    """"identity" where nothing could be fitted; then a is 1 and b is 0, and the same formula holds."""
    a: float
    b: float
    clip: float = Field(1e-4, gt=0, lt=0.5)
    """The confidence is kept at least this far from 0 and 1, whose logit is infinite."""
    questions: int
    """Held-out questions that it was fitted on."""
    ece_before: float | None
    """Expected calibration error of the raw confidence; see :func:`expected_calibration_error`. None if unknown."""
    ece_after: float | None
    """The same of the calibrated probability, cross-validated."""
    brier_before: float | None
    """Mean squared difference between the raw confidence and being right (1) or wrong (0)."""
    brier_after: float | None
    """The same of the calibrated probability, cross-validated."""
    threshold: float | None = None
    """Abstain where the calibrated probability is lower; None: never."""
    warning: str | None = None
    """Why nothing was fitted."""

    def apply(self, confidence: float) -> float:
        """Return the probability that an answer of this raw confidence is right, rounded to four decimals."""
        kept = min(max(confidence, self.clip), 1 - self.clip)
        # The sigmoid as a hyperbolic tangent, which no steep slope makes overflow.
        return round((1 + math.tanh((self.a * math.log(kept / (1 - kept)) + self.b) / 2)) / 2, 4)

    def abstains(self, confidence: float) -> bool:
        """Say whether an answer of this raw confidence is to be replaced by the unanswerable text."""
        return self.threshold is not None and self.apply(confidence) < self.threshold


class Bin(NamedTuple):
    """Questions of like probability."""

    questions: int
    probability: float
    """Mean predicted probability of being right."""
    right: float
    """Share that is right."""


class Trade(NamedTuple):
    """What abstaining below one threshold does to the held-out questions; shares between 0 and 1."""

    threshold: float
    answered: float
    """Share of all questions that keep their answer."""
    precision: float
    """Share of these that is right; 1 where none is answered."""
    in_scope: float | None
    """Exact match of in-scope questions, where abstaining counts as wrong. None where there are none."""
    out_of_scope: float | None
    """Share of out-of-scope questions that are recognised, by abstaining or by the model itself."""


def fit(
    rows: Sequence[HeldOut], *, min_confidence: float | None = None, target_precision: float | None = None
) -> Calibration:
    """Fit the calibration on the held-out questions, in scope and out of scope.

    The same rows give the same numbers on every machine. Where there is too little to learn from, the result is the
    identity, with a warning that says why.

    Parameters
    ----------
    rows
        With their confidences. Those of the engine that is packed may stand in for the evaluation's.
    min_confidence
        The threshold to abstain below.
    target_precision
        Instead: abstain below the lowest threshold at which this share of the remaining answers is right.

    Raises
    ------
    PackageError
        If no threshold reaches ``target_precision``.
    """
    reason = why_not(rows)
    a, b = (1.0, 0.0) if reason else _platt(*_columns(rows))
    if not reason:
        reason = _why_unusable(a, b)
        a, b = (1.0, 0.0) if reason else (a, b)
    found: dict[str, float | None] = dict.fromkeys(("ece_before", "ece_after", "brier_before", "brier_after"))
    known = [row for row in rows if row.confidence is not None]
    if known:
        right = [row.right for row in known]
        before, after = raw(known), raw(known) if reason else cross_validated(known)
        found = {
            "ece_before": round(expected_calibration_error(before, right), DECIMALS),
            "ece_after": round(expected_calibration_error(after, right), DECIMALS),
            "brier_before": round(brier(before, right), DECIMALS),
            "brier_after": round(brier(after, right), DECIMALS),
        }
    if target_precision is not None:
        min_confidence = _threshold_for(target_precision, rows, reason)
    return Calibration(
        method="identity" if reason else "platt",
        a=round(a, DECIMALS),
        b=round(b, DECIMALS),
        questions=len(rows),
        threshold=min_confidence,
        warning=f"the confidence is not calibrated: {reason}" if reason else None,
        **found,
    )


def judged(
    judgement: dict[str, Any] | None,
    rows: Sequence[HeldOut],
    min_confidence: float | None,
    target_precision: float | None,
) -> dict[str, Any] | None:
    """Return the judgement of both opinions, with a higher threshold where the package's options ask for one.

    Its confidences are probabilities already, so that they are compared with a threshold as they are.

    Raises
    ------
    PackageError
        If no threshold reaches ``target_precision``.
    """
    if judgement is None or (min_confidence is None and target_precision is None):
        return judgement
    lowest = float(judgement["threshold"] or 0.0)
    if target_precision is None:
        return judgement | {"threshold": max(lowest, min_confidence or 0.0)}
    probabilities = raw(rows)
    for threshold in (percent / 100 for percent in range(int(100 * lowest), 100)):
        found = trade(probabilities, rows, max(threshold, lowest))
        if found.precision >= target_precision and found.answered > 0:
            return judgement | {"threshold": found.threshold}
    raise PackageError(
        f"no threshold makes {target_precision:.0%} of the answers right; lower --package.target-precision, or give "
        "--package.min-confidence instead"
    )


def why_not(rows: Sequence[HeldOut]) -> str | None:
    """Say why nothing can be fitted on these rows, or return None where it can."""
    if any(row.confidence is None for row in rows):
        return "the evaluation recorded no confidences; evaluate again"
    if len(rows) < MIN_QUESTIONS:
        return f"{len(rows)} held-out questions are fewer than {MIN_QUESTIONS}"
    right = sum(row.right for row in rows)
    for count, kind in ((right, "right"), (len(rows) - right, "wrong")):
        if count < MIN_EACH:
            return f"{count} of {len(rows)} held-out answers are {kind}, and it takes {MIN_EACH}"
    if len({row.confidence for row in rows}) == 1:
        return "every answer has the same confidence"
    return None


def _why_unusable(a: float, b: float) -> str | None:
    if a <= 0:
        return "surer answers were not more often right"
    clip = Calibration.model_fields["clip"].default
    if a * math.log((1 - clip) / clip) + abs(b) > STEEPEST:
        return "right and wrong answers have all but the same confidence"
    return None


def raw(rows: Sequence[HeldOut]) -> list[float]:
    """Return the rows' confidences as they are; a row without one counts as 0."""
    return [row.confidence or 0.0 for row in rows]


def cross_validated(rows: Sequence[HeldOut]) -> list[float]:
    """Return each row's calibrated probability by fits on other rows: the mean over repeated stratified folds.

    Only for rows of which :func:`why_not` says nothing.
    """
    import numpy as np
    from sklearn.model_selection import RepeatedStratifiedKFold

    logits, right = _columns(rows)
    total = np.zeros(len(rows))
    for known, asked in RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=0).split(logits, right):
        a, b = _platt(logits[known], right[known])
        total[asked] += (1 + np.tanh((a * logits[asked] + b) / 2)) / 2
    return [float(value) for value in total / REPEATS]


def brier(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Return the mean squared difference between probability and truth: 0 is perfect, 0.25 a coin's."""
    return fmean((probability - truth) ** 2 for probability, truth in zip(probabilities, right, strict=True))


def reliability(probabilities: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Sort the questions by probability, cut them into :data:`BINS` bins of equal size, and look into each."""
    return [
        Bin(len(part), fmean(probabilities[index] for index in part), fmean(right[index] for index in part))
        for part in _bins(probabilities)
    ]


def expected_calibration_error(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Return how far probability and share of right answers lie apart: the mean over equally filled bins.

    Chance alone keeps it above 0 on few questions; :func:`error_by_chance` says how far.
    """
    bins = reliability(probabilities, right)
    return sum(each.questions * abs(each.probability - each.right) for each in bins) / len(right)


def error_by_chance(probabilities: Sequence[float]) -> float:
    """Return the calibration error to expect if every probability were exactly true.

    In a bin of n questions the share of right answers then scatters by s = sqrt(sum p (1 - p)) / n, and the mean of
    its absolute deviation is s * sqrt(2 / pi), by the normal approximation.
    """
    parts = ([probabilities[index] for index in part] for part in _bins(probabilities))
    scatter = (math.sqrt(sum(p * (1 - p) for p in part)) for part in parts)
    return math.sqrt(2 / math.pi) * sum(scatter) / len(probabilities)


def trade(probabilities: Sequence[float], rows: Sequence[HeldOut], threshold: float) -> Trade:
    """Return what abstaining below ``threshold`` does to these rows, of the given probabilities."""
    pairs = list(zip(rows, (probability >= threshold for probability in probabilities), strict=True))
    kept = [row.right for row, keeps in pairs if keeps]
    inside = [keeps and row.right for row, keeps in pairs if row.in_scope]
    outside = [not keeps or row.right for row, keeps in pairs if not row.in_scope]
    return Trade(
        threshold,
        answered=len(kept) / len(pairs),
        precision=sum(kept) / len(kept) if kept else 1.0,
        in_scope=sum(inside) / len(inside) if inside else None,
        out_of_scope=sum(outside) / len(outside) if outside else None,
    )


def _bins(probabilities: Sequence[float]) -> list[list[int]]:
    """Return the indices of each bin, from the lowest probabilities to the highest."""
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    edges = [round(part * len(order) / BINS) for part in range(BINS + 1)]
    return [order[low:high] for low, high in pairwise(edges) if high > low]


def _threshold_for(target: float, rows: Sequence[HeldOut], reason: str | None) -> float:
    advice = "lower --package.target-precision, or give --package.min-confidence instead"
    if reason:
        raise PackageError(f"no threshold can be found for a precision of {target:.0%}: {reason}; {advice}")
    probabilities = cross_validated(rows)
    found = [trade(probabilities, rows, percent / 100) for percent in range(1, 100)]
    # A precision over a handful of answers is chance.
    found = [each for each in found if each.answered * len(rows) >= MIN_QUESTIONS]
    for each in found:
        if each.precision >= target:
            return each.threshold
    best = max(found, key=lambda each: each.precision)
    raise PackageError(
        f"no threshold makes {target:.0%} of the answers right: the best is {best.precision:.1%}, where "
        f"{best.answered:.0%} of the held-out questions keep their answer (threshold {best.threshold}); {advice}"
    )


def _columns(rows: Sequence[HeldOut]) -> tuple[Any, Any]:
    """Return arrays (rows,): the logits of the clipped confidences, and 1 where the answer is right."""
    import numpy as np

    clip = Calibration.model_fields["clip"].default
    kept = np.clip(np.array(raw(rows)), clip, 1 - clip)
    return np.log(kept / (1 - kept)), np.array([int(row.right) for row in rows])


def _platt(logits: Any, right: Any) -> tuple[float, float]:
    """Return slope and intercept of a logistic regression on Platt's softened targets.

    Being right counts as (n + 1) / (n + 2) of n right ones and being wrong as 1 / (n + 2) of n wrong ones, which keeps
    the fit finite where the two do not overlap. A soft target is a row of each kind, weighted.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    positives = int(right.sum())
    negatives = len(right) - positives
    targets = np.where(right == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # So weak a penalty moves no kept digit, and keeps the slope determined where a fold's confidences are all the same.
    # Newton's method, so that two machines agree far beyond what is kept.
    model = LogisticRegression(C=PENALTY_C, solver="newton-cholesky", tol=1e-10)
    model.fit(
        np.tile(logits, 2)[:, None],
        np.repeat([1, 0], len(right)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])
