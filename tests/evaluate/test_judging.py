"""What the judgement learns from held-out questions, and what it leaves to its defaults."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from inference.judgement import judge
from tasks.evaluate.judging import (
    Asked,
    choose_floors,
    cross_fitted,
    default_parameters,
    fit_judgement,
    outcome,
    what_there_is,
)

ANSWERS = 6


class Posterior(NamedTuple):
    indices: Any
    log_probabilities: Any
    rest: float
    mass: float


class Opinion(NamedTuple):
    log_probabilities: Any
    none_log_probability: float
    cosines: Any
    matched: Any


def one_opinion(rng: Any, right: int | None, reliable: float) -> Any:
    """Return logarithms (answers,) whose largest is the right one with a probability of ``reliable``."""
    logits = rng.normal(size=ANSWERS)
    if right is not None:
        knows = rng.random() < reliable
        # As with real ones: what is wrong is less sure.
        logits[right if knows else int(rng.integers(ANSWERS))] += 5.0 if knows else 1.5
    return logits - np.log(np.exp(logits).sum())


def questions(count: int, *, model: float, encoder: float, outside: float = 0.3, seed: int = 0) -> list[Asked]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        right = None if rng.random() < outside else int(rng.integers(ANSWERS))
        logs = one_opinion(rng, right, model)
        order = np.argsort(-logs)
        posterior = Posterior(order, logs[order], 0.0, float(np.exp(logs.max())))
        none = 0.9 if right is None else 0.1
        of_encoder = one_opinion(rng, right, encoder) + math.log(1 - none)
        opinion = Opinion(of_encoder, math.log(none), np.exp(of_encoder), np.arange(ANSWERS))
        kind = "out_of_scope" if right is None else "wording"
        found.append(Asked(f"q{number}", right, kind, posterior, opinion, f"fact {number // 2}"))  # type: ignore[arg-type]
    return found


def test_together_they_are_right_more_often_than_the_better_one_alone() -> None:
    asked = questions(400, model=0.75, encoder=0.85)
    share = {}
    for there in ("posterior", "opinion", "both"):
        own = [
            each._replace(
                posterior=None if there == "opinion" else each.posterior,
                opinion=None if there == "posterior" else each.opinion,
            )
            for each in asked
        ]
        assert what_there_is(own) == there
        verdicts = cross_fitted(own)
        share[there] = outcome(own, verdicts, 0.0).right
    assert share["both"] > max(share["posterior"], share["opinion"]) + 0.02


def test_an_opinion_that_is_never_right_is_hardly_listened_to() -> None:
    weights = fit_judgement(questions(400, model=0.0, encoder=0.9), max_false_abstention=0.03)["weights"]
    assert weights["posterior"] < 0.5 < weights["opinion"]


def test_few_questions_move_the_defaults_little() -> None:
    weights = fit_judgement(questions(4, model=0.0, encoder=0.9), max_false_abstention=0.03)["weights"]
    for name, value in default_parameters("both")["weights"].items():
        assert weights[name] == pytest.approx(value, rel=0.5)


def test_no_more_than_the_allowed_share_in_scope_is_declined() -> None:
    asked = questions(400, model=0.8, encoder=0.9)
    verdicts = cross_fitted(asked)
    for allowed in (0.0, 0.02, 0.1):
        chosen = choose_floors(asked, verdicts, max_false_abstention=allowed)
        assert chosen.false_abstention <= allowed
    assert chosen.declined is not None
    assert chosen.declined > 0.9


def test_what_is_chosen_is_what_the_container_does() -> None:
    asked = questions(200, model=0.8, encoder=0.9)
    parameters = fit_judgement(asked, max_false_abstention=0.05)
    verdicts = [judge(each.posterior, each.opinion, parameters) for each in asked]
    said = outcome(asked, verdicts, parameters["threshold"], parameters["min_scope"])
    declined = np.mean([v.answer is None for v, each in zip(verdicts, asked, strict=True) if each.right is not None])
    assert said.false_abstention == pytest.approx(declined)


def test_confidences_are_near_the_share_that_is_right() -> None:
    asked = questions(800, model=0.7, encoder=0.8)
    verdicts = cross_fitted(asked)
    confidence = np.array([verdict.confidence for verdict in verdicts])
    right = np.array([verdict.best == each.right for each, verdict in zip(asked, verdicts, strict=True)])
    order = np.argsort(confidence)
    for part in np.array_split(order, 4):
        assert confidence[part].mean() == pytest.approx(right[part].mean(), abs=0.1)


def test_the_same_questions_give_the_same_judgement() -> None:
    asked = questions(60, model=0.8, encoder=0.9)
    assert fit_judgement(asked, max_false_abstention=0.03) == fit_judgement(asked, max_false_abstention=0.03)


def test_without_a_question_out_of_scope_what_one_looks_like_is_the_defaults() -> None:
    asked = questions(60, model=0.8, encoder=0.9, outside=0.0)
    parameters = fit_judgement(asked, max_false_abstention=0.03)
    assert parameters["scope"] == default_parameters("both", own_outside=False)["scope"]


def test_shown_one_wording_of_a_fact_the_model_is_not_listened_to() -> None:
    asked = questions(40, model=1.0, encoder=0.5, outside=0.0)
    made = [each._replace(kind="made") for each in asked]  # near what the model knows by heart
    parameters = fit_judgement(made, max_false_abstention=0.03, wordings=1.0)
    assert parameters["weights"]["posterior"] == 0.0
    alone = default_parameters("opinion", own_outside=False)
    assert parameters["weights"] == alone["weights"]
    for each in made:
        together, encoder = judge(each.posterior, each.opinion, parameters), judge(None, each.opinion, alone)
        assert (together.best, together.answer) == (encoder.best, encoder.answer)


def test_the_more_wordings_the_model_was_shown_the_more_it_is_listened_to() -> None:
    shown = [default_parameters("both", wordings)["weights"]["posterior"] for wordings in (1, 3, 5, 9, 50)]
    assert shown[0] == shown[1] == 0.0 < shown[2] < shown[3] == shown[4]


def test_questions_made_by_rule_raise_no_floor() -> None:
    asked = questions(400, model=0.8, encoder=0.95)
    made = [each._replace(kind="made") if each.right is not None else each for each in asked]
    parameters = fit_judgement(made, max_false_abstention=0.02, wordings=1.0)
    standard = default_parameters("both", 1.0)
    assert (parameters["min_scope"], parameters["threshold"]) == (standard["min_scope"], standard["threshold"])


def test_too_few_questions_to_measure_the_allowed_share_leave_the_floors_as_they_are() -> None:
    asked = questions(30, model=0.8, encoder=0.9, outside=0.1)
    parameters = fit_judgement(asked, max_false_abstention=0.02)
    standard = default_parameters("both")
    assert (parameters["min_scope"], parameters["threshold"]) == (standard["min_scope"], standard["threshold"])
