"""Fitting the judgement: the pool's weights, the confidence, and the threshold below which nothing is said.

All three are fitted on held-out questions, which neither the model nor the linear layer has seen, towards defaults that
hold over many data sets (``docs/second-opinion.md``): a few questions move them a little, hundreds as far as they say.
What is reported is cross-fitted: every question is judged by a fit on other facts.

A question that was made by rule stays near the one it was made from, which the model knows by heart: how the two
opinions do on a person's other words it cannot say. Weights, the confidence and the floors are therefore learnt from
real wordings, and the model is listened to by default only so far as it was shown several of a fact.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from inference.judgement import Verdict, features, judge, pooled

#: What the pool weighs where nothing says otherwise, by what there is to pool.
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "both": {"posterior": 0.6, "opinion": 2.0, "cosine": 4.0},
    "posterior": {"posterior": 1.0, "opinion": 0.0, "cosine": 0.0},
    "opinion": {"posterior": 0.0, "opinion": 2.5, "cosine": 1.0},
}
#: The two parts of the confidence where nothing says otherwise: the intercept, and what a unit of each feature is worth
#: in log-odds.
SCOPED: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "both": (0.0, {"some": 1.0, "declines": 0.0, "mass": 0.2, "cosine": 0.0, "opinion": 0.0}),
    "posterior": (0.0, {"declines": -0.4, "mass": 0.5}),
    "opinion": (0.0, {"some": 1.0, "cosine": 0.0, "opinion": 0.0}),
}
#: The same where the data has hardly a question out of scope of its own: the layer's "none of these" then knows
#: everyday questions alone, and takes much for one of them that is only worded otherwise.
SCOPED_BY_EVERYDAY: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "both": (-0.4, {"some": 1.0, "cosine": 6.0, "lead": 0.5, "declines": 0.0, "mass": 0.2, "opinion": 0.0}),
    "posterior": SCOPED["posterior"],
    "opinion": (-0.4, {"some": 1.0, "cosine": 6.0, "lead": 0.5, "opinion": 0.0}),
}
RIGHTED: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "both": (0.0, {"lead": 0.5, "posterior": 0.1, "opinion": 0.1, "agree": 0.5}),
    "posterior": (0.0, {"lead": 0.5, "posterior": 0.2}),
    "opinion": (0.0, {"lead": 0.5, "opinion": 0.2}),
}
#: Spread of each feature, about its standard deviation over data sets: how the pull to the defaults is measured.
SPREAD = {
    "lead": 2.5,
    "some": 3.0,
    "cosine": 0.15,
    "posterior": 2.0,
    "opinion": 2.0,
    "mass": 1.5,
    "agree": 0.6,
    "declines": 4.0,
}
#: The pull to the defaults, in the unit of one question's log-likelihood at one spread from them.
PULL = 4.0
#: A question that was made by rule is nearer to the one it was made from than a person's: it counts for so much.
MADE_WEIGHT = 0.25
#: Questions of the pool count so much together as they would if they were this share of the questions in scope.
EVERYDAY_SHARE = 0.3
#: With so few wordings of a fact the model hardly knows more than those (17 % of new wordings with one, 46 % with
#: three, where the encoder is right on 75 and 92 %); with so many it knows the fact about as well as the encoder does.
FEW_WORDINGS, MANY_WORDINGS = 3.0, 9.0
#: Of fewer held-out questions out of scope, everyday questions stand in for what is fitted.
FEW_OUTSIDE = 20
FOLDS = 5
#: The floors that are tried.
FLOORS = np.arange(0, 100, 2) / 100
#: Answers of a question that its weights are fitted on: the likeliest ones, and the right one.
CANDIDATES = 32
#: The floors where nothing can be measured; ``docs/second-opinion.md`` has the curve.
MIN_SCOPE, THRESHOLD = 0.5, 0.3
DECIMALS = 4

Kind = Literal["wording", "made", "out_of_scope", "everyday", "near_miss"]


class Asked(NamedTuple):
    """A held-out question and what both opinions said to it."""

    question: str
    right: int | None
    """Index of the right known answer; None: none of them is."""
    kind: Kind
    posterior: Any = None
    """See ``inference/trie.py``; None without the model's."""
    opinion: Any = None
    """See ``inference/second_opinion.py``; None without an encoder's."""
    fact: str = ""
    """Questions of one fact are never on two sides of a fit."""


class Choice(NamedTuple):
    """Two floors, and what they do to the held-out questions by cross-fitted confidences; shares from 0 to 1."""

    min_scope: float
    """Least probability that any known answer is meant."""
    threshold: float
    """Least confidence."""
    right: float
    """In scope and answered rightly."""
    wrong: float
    """In scope and answered wrongly."""
    false_abstention: float
    """In scope and declined."""
    declined: float | None
    """Out of scope and declined; None where no question is."""


def what_there_is(asked: Sequence[Asked]) -> str:
    """Say which opinions these questions have: "both", "posterior" or "opinion"."""
    first = asked[0]
    if first.posterior is not None and first.opinion is not None:
        return "both"
    return "posterior" if first.posterior is not None else "opinion"


class Defaults(NamedTuple):
    """What holds without any held-out question, and what a fit is pulled to."""

    weights: Mapping[str, float]
    scope: tuple[float, Mapping[str, float]]
    right: tuple[float, Mapping[str, float]]


def defaults(there: str, wordings: float = MANY_WORDINGS, *, own_outside: bool = True) -> Defaults:
    """Return the defaults for what there is to judge by, and for so many training questions of a fact.

    With both opinions they lie between the encoder's own and those of both, by how far the model was shown more
    than :data:`FEW_WORDINGS` of a fact: with those it is not listened to.
    """
    scoped = SCOPED if own_outside else SCOPED_BY_EVERYDAY
    if there != "both":
        return Defaults(WEIGHTS[there], scoped[there], RIGHTED[there])
    heard = min(max((wordings - FEW_WORDINGS) / (MANY_WORDINGS - FEW_WORDINGS), 0.0), 1.0)

    def between(alone: Mapping[str, float], both: Mapping[str, float]) -> dict[str, float]:
        return {name: (1 - heard) * alone.get(name, 0.0) + heard * value for name, value in both.items()}

    weights = between(WEIGHTS["opinion"], WEIGHTS["both"])
    scope, right = (
        ((1 - heard) * part["opinion"][0] + heard * part["both"][0], between(part["opinion"][1], part["both"][1]))
        for part in (scoped, RIGHTED)
    )
    return Defaults(weights, scope, right)


def default_parameters(there: str, wordings: float = MANY_WORDINGS, *, own_outside: bool = True) -> dict[str, Any]:
    """Return the judgement that holds without any held-out question."""
    weights, scope, right = defaults(there, wordings, own_outside=own_outside)
    settings = {
        name: {"intercept": intercept, "coefficients": dict(coefficients)}
        for name, (intercept, coefficients) in {"scope": scope, "right": right}.items()
    }
    return {"weights": dict(weights), **settings, "min_scope": MIN_SCOPE, "threshold": THRESHOLD}


def fit_judgement(
    asked: Sequence[Asked], *, max_false_abstention: float, wordings: float = MANY_WORDINGS
) -> dict[str, Any]:
    """Fit weights, confidence and threshold; the threshold goes by cross-fitted confidences.

    The same questions give the same numbers on every machine, up to their last digit.

    Parameters
    ----------
    wordings
        Training questions of a fact, in the mean.
    """
    parameters = _fitted(asked, wordings, _has_own_outside(asked))
    chosen = choose_floors(asked, cross_fitted(asked, wordings), max_false_abstention=max_false_abstention)
    return parameters | {"min_scope": chosen.min_scope, "threshold": chosen.threshold}


def cross_fitted(asked: Sequence[Asked], wordings: float = MANY_WORDINGS) -> list[Verdict]:
    """Judge every question by a fit on the questions of other facts; nothing is declined."""
    own_outside = _has_own_outside(asked)
    folds = np.array([_fold(each.fact or each.question) for each in asked])
    verdicts: list[Verdict | None] = [None] * len(asked)
    for fold in range(FOLDS):
        parameters = _fitted(
            [each for each, own in zip(asked, folds, strict=True) if own != fold] or asked, wordings, own_outside
        )
        parameters |= {"threshold": None, "min_scope": None}
        for place in map(int, np.flatnonzero(folds == fold)):
            verdicts[place] = judge(asked[place].posterior, asked[place].opinion, parameters)
    return [verdict for verdict in verdicts if verdict is not None]


def choose_floors(asked: Sequence[Asked], verdicts: Sequence[Verdict], *, max_false_abstention: float) -> Choice:
    """Choose the floors that serve best among those that decline no more than a share of what is in scope.

    Best: the most right answers in scope, less the wrong ones, and the most questions out of scope that are declined;
    both kinds count the same, however many there are of each. Of floors that do the same the lower ones are taken.
    A share of 3 % cannot be measured on fewer than 34 questions: where there are fewer real ones in scope than one in
    that share, the default floors hold.
    """
    if _real(asked) * max(max_false_abstention, 0.01) < 1 and what_there_is(asked) != "posterior":
        return outcome(asked, verdicts, THRESHOLD, MIN_SCOPE)
    found = [
        Choice(float(scope), float(threshold), *shares)
        for scope in FLOORS
        for threshold, shares in zip(FLOORS, _shares(asked, verdicts, FLOORS, float(scope)), strict=True)
    ]
    allowed = [each for each in found if each.false_abstention <= max_false_abstention] or found[:1]

    def worth(each: Choice) -> tuple[float, float, float]:
        good = each.right - each.wrong + 2 * (each.declined or 0.0)
        return round(good, 6), -each.threshold, -each.min_scope

    return max(allowed, key=worth)


def outcome(asked: Sequence[Asked], verdicts: Sequence[Verdict], threshold: float, min_scope: float = 0.0) -> Choice:
    """Return what two floors do to these questions."""
    return Choice(min_scope, threshold, *_shares(asked, verdicts, np.array([threshold]), min_scope)[0])


def _shares(
    asked: Sequence[Asked], verdicts: Sequence[Verdict], thresholds: Any, min_scope: float
) -> list[tuple[float, float, float, float | None]]:
    """Return what a :class:`Choice` tells of each threshold."""
    confidence = np.array([verdict.confidence for verdict in verdicts])
    in_reach = np.array([verdict.scope >= min_scope for verdict in verdicts])
    says = in_reach & (confidence >= np.asarray(thresholds)[:, None])  # (thresholds, asked)
    inside = np.array([each.right is not None for each in asked])
    hits = np.array([verdict.best == each.right for each, verdict in zip(asked, verdicts, strict=True)])
    weight = _weights(asked)
    within, without = weight * inside, weight * ~inside
    total = max(float(within.sum()), 1e-12)
    right, wrong, kept = says @ (within * hits) / total, says @ (within * ~hits) / total, says @ within / total
    declined = 1 - says @ without / float(without.sum()) if without.any() else None
    return [
        (
            float(right[n]),
            float(wrong[n]),
            round(1 - float(kept[n]), 12) if within.any() else 0.0,
            None if declined is None else float(declined[n]),
        )
        for n in range(len(says))
    ]


def _real(asked: Sequence[Asked]) -> int:
    """Count the questions in scope that a person worded."""
    return sum(each.right is not None and each.kind != "made" for each in asked)


def _has_own_outside(asked: Sequence[Asked]) -> bool:
    return sum(each.kind == "out_of_scope" for each in asked) >= FEW_OUTSIDE


def _fitted(asked: Sequence[Asked], wordings: float, own_outside: bool) -> dict[str, Any]:
    """Return weights and confidence; without a question in scope that a person worded, those are the defaults."""
    there = what_there_is(asked)
    parameters = default_parameters(there, wordings, own_outside=own_outside)
    own = defaults(there, wordings, own_outside=own_outside)
    inside = [each for each in asked if each.right is not None]
    made_alone = _real(asked) == 0 and there != "posterior"
    if not inside or (made_alone and not own_outside):
        return parameters
    if not made_alone:
        parameters["weights"] = _fit_weights(inside, own.weights)
    found, hits = _described(asked, parameters["weights"])
    is_inside = np.array([each.right is not None for each in asked])
    if not is_inside.all():  # without a question out of scope nothing says what one looks like
        parameters["scope"] = _fit_logistic(found, is_inside, _weights(asked), own.scope)
    if not made_alone:
        here = np.flatnonzero(is_inside)
        parameters["right"] = _fit_logistic([found[n] for n in here], hits[here], _weights(inside), own.right)
    return parameters


def _fit_weights(inside: Sequence[Asked], default: Mapping[str, float]) -> dict[str, float]:
    """Fit the pool's weights: the likelihood of the right answers, pulled to the defaults."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    names = [name for name, value in default.items() if value > 0]
    start = np.array([default[name] for name in names])
    parts, rights = _candidates(inside, names, default)
    weight, number = _weights(inside), np.arange(len(inside))

    def loss(logs: Any) -> tuple[float, Any]:
        values = start * np.exp(logs)
        scores = values @ parts  # (questions, candidates)
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = shifted / shifted.sum(axis=1, keepdims=True)
        total = -float(weight @ np.log(np.maximum(shares[number, rights], 1e-12)))
        expected = np.einsum("qpc,qc->qp", parts, shares)
        slope = -weight @ (parts[number, :, rights] - expected)
        return total + PULL * float(logs @ logs), slope * values + 2 * PULL * logs

    best = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B", bounds=[(-2.0, 2.0)] * len(names)).x
    fitted = dict(zip(names, (round(float(value), DECIMALS) for value in start * np.exp(best)), strict=True))
    return {name: fitted.get(name, 0.0) for name in default}


def _candidates(inside: Sequence[Asked], names: Sequence[str], weights: Mapping[str, float]) -> tuple[Any, Any]:
    """Return what each opinion says by itself to the likeliest answers, and where the right one stands among them.

    Returns
    -------
    (questions, names, candidates) and (questions,)
    """
    alone = [{other: float(other == name) for other in weights} for name in names]
    parts, rights = [], []
    for each in inside:
        scores = pooled(each.posterior, each.opinion, weights)
        scores[each.right] = np.inf
        chosen = np.argsort(-scores, kind="stable")[:CANDIDATES]
        parts.append(np.stack([pooled(each.posterior, each.opinion, unit)[chosen] for unit in alone]))
        rights.append(0)
    return np.stack(parts), np.array(rights)


def _described(asked: Sequence[Asked], weights: Mapping[str, float]) -> tuple[list[dict[str, float]], Any]:
    """Return every question's features, and whether its best answer is right (asked,)."""
    scores = [pooled(each.posterior, each.opinion, weights) for each in asked]
    found = [features(each.posterior, each.opinion, own) for each, own in zip(asked, scores, strict=True)]
    return found, np.array([int(np.argmax(own)) == each.right for each, own in zip(asked, scores, strict=True)])


def _fit_logistic(
    found: Sequence[Mapping[str, float]], truth: Any, weight: Any, default: tuple[float, Mapping[str, float]]
) -> dict[str, Any]:
    """Fit a logistic function of the default's features, pulled to the default."""
    from scipy.optimize import minimize

    intercept, coefficients = default
    inputs = np.array([[1.0, *(each[name] / SPREAD[name] for name in coefficients)] for each in found])
    start = np.array([intercept, *(value * SPREAD[name] for name, value in coefficients.items())])

    def loss(values: Any) -> tuple[float, Any]:
        raw = inputs @ values
        away = values - start
        total = float((weight * (np.logaddexp(0.0, raw) - truth * raw)).sum())
        slope = inputs.T @ (weight * ((1 + np.tanh(raw / 2)) / 2 - truth))
        return total + PULL * float(away @ away) / 2, slope + PULL * away

    best = minimize(loss, start, jac=True, method="L-BFGS-B").x
    scaled = [float(value) / SPREAD[name] for value, name in zip(best[1:], coefficients, strict=True)]
    return {
        "intercept": round(float(best[0]), DECIMALS),
        "coefficients": {name: round(value, DECIMALS) for name, value in zip(coefficients, scaled, strict=True)},
    }


def _weights(asked: Sequence[Asked]) -> Any:
    """Return how much each question counts (asked,)."""
    weight = np.array([MADE_WEIGHT if each.kind == "made" else 1.0 for each in asked])
    pool = np.array([each.kind in ("everyday", "near_miss") for each in asked])
    inside = np.array([each.right is not None for each in asked])
    if pool.any() and inside.any():
        weight[pool] = min(1.0, EVERYDAY_SHARE * float(weight[inside].sum()) / int(pool.sum()))
    return weight


def _fold(fact: str) -> int:
    return hashlib.sha256(fact.encode()).digest()[0] % FOLDS
