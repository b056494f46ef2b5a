"""One verdict of two opinions: what is said, how sure, and what is asked back."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.judgement import DECLINES, FEATURES, FLOOR, RIGHT, judge, logs_of, pooled


class Posterior(NamedTuple):
    indices: Any
    log_probabilities: Any
    rest: float = 0.0
    mass: float = 1.0


class Opinion(NamedTuple):
    log_probabilities: Any
    none_log_probability: float
    cosines: Any
    matched: Any


def posterior(*shares: float, declines: float = 0.0, mass: float = 1.0) -> Posterior:
    order = np.argsort([-share for share in shares], kind="stable")
    indices = [int(place) for place in order] + ([DECLINES] if declines else [])
    logs = [math.log(shares[place]) for place in order] + ([math.log(declines)] if declines else [])
    return Posterior(np.array(indices), np.array(logs), 0.0, mass)


def opinion(*shares: float, none: float = 0.05, cosines: tuple[float, ...] | None = None) -> Opinion:
    near = np.array(cosines if cosines is not None else shares)
    return Opinion(np.log(shares), math.log(none), near, np.arange(len(shares)) * 10)


def parameters(threshold: float | None = 0.5, min_scope: float | None = None, **coefficients: float) -> dict[str, Any]:
    of_right = {name: value for name, value in coefficients.items() if name in RIGHT}
    of_scope = {name: value for name, value in coefficients.items() if name not in RIGHT}
    return {
        "weights": {"posterior": 1.0, "opinion": 1.0, "cosine": 0.0},
        "scope": {"intercept": 5.0, "coefficients": of_scope},
        "right": {"intercept": 0.1, "coefficients": of_right},
        "threshold": threshold,
        "min_scope": min_scope,
    }


def test_both_opinions_together_outvote_one_that_is_hardly_surer() -> None:
    verdict = judge(posterior(0.5, 0.4, 0.1), opinion(0.1, 0.8, 0.05), parameters())
    assert verdict.best == 1
    assert verdict.matched_question == 10


def test_below_the_threshold_nothing_is_said_and_the_best_answer_is_the_first_alternative() -> None:
    verdict = judge(posterior(0.6, 0.4), opinion(0.5, 0.4), parameters(threshold=0.9, lead=0.1))
    assert verdict.answer is None
    assert verdict.alternatives[0] == (0, verdict.confidence)


def test_without_a_threshold_something_is_always_said() -> None:
    verdict = judge(posterior(0.5, 0.5), None, parameters(threshold=None, lead=-100.0))
    assert verdict.answer == 0


@pytest.mark.parametrize(("given_posterior", "given_opinion"), [(True, False), (False, True), (True, True)])
def test_one_opinion_is_enough(given_posterior: bool, given_opinion: bool) -> None:
    verdict = judge(
        posterior(0.1, 0.9) if given_posterior else None, opinion(0.1, 0.8) if given_opinion else None, parameters()
    )
    assert verdict.answer == 1
    assert (verdict.matched_question is None) == (not given_opinion)


def test_without_any_opinion_there_is_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match="no opinion"):
        judge(None, None, parameters())


def test_what_the_manifest_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="'scope'"):
        judge(posterior(1.0), None, {"weights": parameters()["weights"]})


def test_declining_by_the_model_lowers_the_confidence_and_is_no_answer() -> None:
    sure = judge(posterior(0.9, 0.1), None, parameters(declines=-1.0))
    unsure = judge(posterior(0.3, 0.1, declines=0.6), None, parameters(declines=-1.0))
    assert unsure.best == 0
    assert unsure.confidence < sure.confidence


def test_an_answer_that_was_not_looked_into_shares_what_is_left() -> None:
    logs = logs_of(Posterior(np.array([2]), np.array([math.log(0.8)]), rest=0.2), 3)
    assert logs == pytest.approx([math.log(0.1), math.log(0.1), math.log(0.8)])


def test_what_is_impossible_by_one_opinion_is_only_very_unlikely() -> None:
    certain = opinion(1.0, 1e-30)
    assert pooled(None, certain, parameters()["weights"])[1] == pytest.approx(FLOOR)


def test_one_known_answer_alone_can_be_said() -> None:
    verdict = judge(posterior(1.0), opinion(0.9), parameters(lead=1.0))
    assert verdict.answer == 0
    assert verdict.alternatives == ()


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8), st.floats(-30, 30), st.floats(0.0, 1.0))
def test_alternatives_are_never_surer_than_the_answer_and_all_is_a_probability(
    shares: list[float], intercept: float, threshold: float
) -> None:
    total = sum(shares)
    settings = parameters(threshold, **dict.fromkeys(FEATURES, 0.1))
    settings["scope"]["intercept"] = intercept
    even = opinion(*[share / total for share in shares])
    verdict = judge(posterior(*[share / total for share in shares]), even, settings)
    confidences = [confidence for _, confidence in verdict.alternatives]
    assert all(0 <= confidence <= verdict.confidence for confidence in confidences)
    assert verdict.confidence + sum(c for place, c in verdict.alternatives if place != verdict.best) <= 1 + 1e-3
    assert (verdict.answer is None) == (verdict.confidence < threshold)
    assert len(confidences) <= 3


def test_a_question_about_something_else_is_declined_however_clear_the_best_answer_is() -> None:
    far = opinion(0.02, 0.001, none=0.97)
    verdict = judge(posterior(0.99, 0.01), far, parameters(threshold=None, min_scope=0.9, some=1.0))
    assert verdict.answer is None
    assert verdict.scope < 0.9
