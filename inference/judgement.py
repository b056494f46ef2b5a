"""One verdict of two opinions: which known answer, how likely it is right, and whether to say it at all.

The model's posterior over the known answers and the encoder's opinion are pooled log-linearly, which is the same as
multiplying them with exponents (Genest and Zidek 1986 review such pools). Whether any known answer is meant, and
whether it is the best one if so, are two questions: each is a logistic function of what the two opinions said, and the
confidence is their product. All numbers come from the package's manifest, where the evaluation put them; the
evaluation, the package's proof and the container judge by this one module.

Needs numpy alone.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

#: No logarithm of a probability counts for less than this: what is very unlikely by one opinion is not impossible.
FLOOR = -9.0
#: Index of declining in a posterior.
DECLINES = -1
#: Alternatives that a caller is told of.
ALTERNATIVES = 3
#: Decimals of a confidence.
DECIMALS = 4
#: A feature reaches no further than this, so that no single one decides everything.
_FAR = 10.0


class PosteriorLike(Protocol):
    """What is read of the model's posterior; see ``trie.py``."""

    @property
    def indices(self) -> Any:
        """Answers' indices, best first; :data:`DECLINES` is declining."""

    @property
    def log_probabilities(self) -> Any:
        """Natural logarithms, in the order of ``indices``."""

    @property
    def rest(self) -> float:
        """Probability that was not looked into."""

    @property
    def mass(self) -> float:
        """Probability, among all texts, of the beginning that singles out the best answer."""


class OpinionLike(Protocol):
    """What is read of the encoder's opinion; see ``second_opinion.py``."""

    @property
    def log_probabilities(self) -> Any:
        """Natural logarithms (answers,)."""

    @property
    def none_log_probability(self) -> float:
        """The same of none of the answers."""

    @property
    def cosines(self) -> Any:
        """Largest cosine to the texts of each answer (answers,)."""

    @property
    def matched(self) -> Any:
        """Nearest known question of each answer (answers,); -1: it has none."""


class Verdict(NamedTuple):
    """What is to be said, and why."""

    answer: int | None
    """Index of the known answer; None: decline."""
    best: int
    """Index of the answer that would be said if anything were."""
    confidence: float
    """Probability that the best answer is right, 0 to 1."""
    alternatives: tuple[tuple[int, float], ...]
    """The next best answers with their probabilities; where nothing is said, the best one first."""
    matched_question: int | None
    """Known question that the question was taken for; None where no known one belongs to the best answer."""
    features: Mapping[str, float]
    """What the confidence was computed from."""
    scope: float
    """Probability that any known answer is meant, 0 to 1."""


#: What the confidence may depend on, each in the order of a few units: whether a known answer is meant at all …
SCOPE = ("some", "declines", "mass", "cosine", "opinion")
#: … and whether it is the best one, if so.
RIGHT = ("lead", "posterior", "opinion", "agree")
FEATURES = tuple(dict.fromkeys(SCOPE + RIGHT))


def judge(posterior: PosteriorLike | None, opinion: OpinionLike | None, parameters: Mapping[str, Any]) -> Verdict:
    """Judge a question by one opinion or both.

    Parameters
    ----------
    posterior, opinion
        None where the package has only the other.
    parameters
        ``weights`` of the pool (``posterior``, ``opinion``, ``cosine``); ``scope`` and ``right``, each with
        ``intercept`` and ``coefficients`` by the names of :data:`FEATURES`; ``min_scope`` and ``threshold``: nothing is
        said where a known answer is meant with less than the one, or the confidence is below the other; None: never.

    Raises
    ------
    ValueError
        If both opinions are missing, or a parameter is.
    """
    try:
        scores = pooled(posterior, opinion, parameters["weights"])
        found = features(posterior, opinion, scores)
        scope, right = _probability(parameters["scope"], found), _probability(parameters["right"], found)
    except KeyError as error:
        raise ValueError(f"the judgement's parameters lack {error}; package the model again") from error
    confidence, scope = round(scope * right, DECIMALS), round(scope, DECIMALS)
    # Equal scores go by the answers' order, so that every machine says the same.
    order = np.argsort(-scores, kind="stable")[: ALTERNATIVES + 1]
    best = int(order[0])
    others = _others(scores, order, confidence)
    floors = ((scope, parameters.get("min_scope")), (confidence, parameters.get("threshold")))
    says = all(floor is None or value >= floor for value, floor in floors)
    matched = int(opinion.matched[best]) if opinion is not None else -1
    return Verdict(
        answer=best if says else None,
        best=best,
        confidence=confidence,
        alternatives=(others if says else ((best, confidence), *others))[:ALTERNATIVES],
        matched_question=matched if matched >= 0 else None,
        features=found,
        scope=scope,
    )


def _probability(settings: Mapping[str, Any], found: Mapping[str, float]) -> float:
    """Return a logistic function of the features."""
    raw = settings["intercept"] + sum(value * found[name] for name, value in settings["coefficients"].items())
    # The sigmoid as a hyperbolic tangent, which nothing makes overflow.
    return (1 + math.tanh(raw / 2)) / 2


def pooled(posterior: PosteriorLike | None, opinion: OpinionLike | None, weights: Mapping[str, float]) -> Any:
    """Return the pooled score of every known answer (answers,): a logarithm, up to a constant."""
    if opinion is not None:
        scores = weights["opinion"] * np.maximum(opinion.log_probabilities, FLOOR) + weights["cosine"] * opinion.cosines
        count = len(scores)
    elif posterior is not None:
        count = int(max(posterior.indices)) + 1
        scores = np.zeros(count)
    else:
        raise ValueError("there is no opinion to judge by")
    if posterior is not None:
        scores = scores + weights["posterior"] * logs_of(posterior, count)
    return scores


def logs_of(posterior: PosteriorLike, count: int) -> Any:
    """Return the posterior's logarithm for every known answer (answers,), none below :data:`FLOOR`."""
    indices = np.asarray(posterior.indices, np.int64)
    own = indices >= 0
    missing = max(count - int(own.sum()), 1)
    logs = np.full(count, max(math.log(max(posterior.rest, 1e-300) / missing), FLOOR))
    logs[indices[own]] = np.maximum(np.asarray(posterior.log_probabilities)[own], FLOOR)
    return logs


def features(posterior: PosteriorLike | None, opinion: OpinionLike | None, scores: Any) -> dict[str, float]:
    """Return what the confidence may depend on, by its name; what one opinion would say is 0 where it is missing."""
    best = int(np.argmax(scores))
    second = float(np.partition(scores, -2)[-2]) if len(scores) > 1 else float(scores[best]) - _FAR
    found = dict.fromkeys(FEATURES, 0.0)
    found["lead"] = min(float(scores[best]) - second, _FAR)
    if opinion is not None:
        logs = np.maximum(opinion.log_probabilities, FLOOR)
        found["opinion"] = float(logs[best])
        none = min(max(opinion.none_log_probability, FLOOR), -1e-9)
        found["some"] = _within(math.log(-math.expm1(none)) - none)
        found["cosine"] = float(opinion.cosines[best])
        found["agree"] = float(int(np.argmax(logs)) == best)
    if posterior is not None:
        logs = logs_of(posterior, len(scores))
        indices = np.asarray(posterior.indices)
        found["posterior"] = float(logs[best])
        found["mass"] = max(math.log(max(posterior.mass, 1e-300)), -_FAR)
        found["agree"] += float(len(indices) > 0 and int(indices[0]) == best)
        declines = np.flatnonzero(indices == DECLINES)
        if len(declines):
            log = max(float(np.asarray(posterior.log_probabilities)[declines[0]]), FLOOR)
            found["declines"] = _within(log - found["posterior"])
        else:
            found["declines"] = -_FAR
    return found


def _within(value: float) -> float:
    return min(max(value, -_FAR), _FAR)


def _others(scores: Any, order: Any, confidence: float) -> tuple[tuple[int, float], ...]:
    """Return the next best answers; what the best one's confidence leaves is shared out by the pooled scores."""
    if len(order) < 2:
        return ()
    shares = np.exp(scores - scores[order[0]])
    shares[order[0]] = 0.0
    total = max(float(shares.sum()), 1e-300)
    # At most the rest, and never surer than the best answer itself.
    return tuple(
        (int(place), round(min((1 - confidence) * float(shares[place]) / total, confidence), DECIMALS))
        for place in order[1:]
    )
